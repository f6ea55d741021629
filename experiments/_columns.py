"""Tables as columns: rows into columns, tables end to end, rows that have certain values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Columns = dict[str, np.ndarray]


def stack(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Return rows of equal keys as columns."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def joined(parts: Sequence[Columns]) -> Columns:
    """Return tables of equal columns as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def pick(columns: Columns, **wanted: Any) -> Columns:
    """Return the rows whose columns have these values, or one of them where several are given."""
    mask = np.ones(len(next(iter(columns.values()))), bool)
    for name, value in wanted.items():
        mask &= np.isin(columns[name], value)
    return {name: column[mask] for name, column in columns.items()}
