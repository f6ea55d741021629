"""groups: the rows of a table that share the values of some of its columns."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from convjax import _check


def groups(
    columns: Mapping[str, np.ndarray], by: Sequence[str]
) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Yield the rows that agree in some columns, group by group, in order of first appearance.

    Args:
      columns: a table as equally long columns.
      by: names of the columns in which the rows of a group agree.

    Yields:
      The common values by name, and the group's rows as columns, all of them.

    Raises:
      WrongTypeError: an argument of a wrong type.
      ValueError: a name that is not a column, or columns of different lengths.

    Example:
      >>> import numpy as np
      >>> from convjax import study
      >>> table = {"depth": np.array([8, 20, 8]), "loss": np.array([1.0, 2.0, 3.0])}
      >>> [(key["depth"], rows["loss"].tolist()) for key, rows in study.groups(table, ["depth"])]
      [(8, [1.0, 3.0]), (20, [2.0])]
    """
    _check.instance("columns", columns, Mapping, "columns by name")
    by = _check.strings("by", by)
    _check.strings("columns", list(columns))
    columns = {name: np.asarray(column) for name, column in columns.items()}
    for name, column in columns.items():
        if not column.ndim or (name in by and column.ndim > 1):
            raise ValueError(f"column {name!r}={_check.shown(column)} must have one axis")
    missing = [name for name in by if name not in columns]
    if missing:
        raise ValueError(f"by={missing[0]!r} is not a column; there are {', '.join(columns)}")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns must be equally long, not {lengths}")
    return _groups(columns, by)


def _groups(
    columns: Mapping[str, np.ndarray], by: Sequence[str]
) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    found: dict[tuple, list[int]] = {}
    for row, key in enumerate(zip(*(columns[name].tolist() for name in by), strict=True)):
        found.setdefault(key, []).append(row)
    for key, rows in found.items():
        yield (
            dict(zip(by, key, strict=True)),
            {name: column[rows] for name, column in columns.items()},
        )
