"""pick: the rows of a table that have certain values."""

from typing import Any

import numpy as np

from experiments._outcome import Columns


def pick(columns: Columns, **wanted: Any) -> Columns:
    """Return the rows whose columns have these values, or one of them where several are given."""
    mask = np.ones(len(next(iter(columns.values()))), bool)
    for name, value in wanted.items():
        mask &= np.isin(columns[name], value)
    return {name: column[mask] for name, column in columns.items()}
