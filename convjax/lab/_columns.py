"""Tables as columns: rows into columns, tables end to end, a column as an array with axes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convjax import _check

Columns = dict[str, np.ndarray]


def stack(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Return rows of equal keys as columns.

    Args:
      rows: at least one.

    Raises:
      ValueError: no row, or rows of different keys.

    Example:
      >>> from convjax import lab
      >>> lab.stack([{"seed": 0, "loss": 2.0}, {"seed": 1, "loss": 1.0}])["loss"]
      array([2., 1.])
    """
    return {name: np.array([row[name] for row in rows]) for name in _names("rows", rows)}


def joined(tables: Sequence[Columns]) -> Columns:
    """Return tables of equal columns as one, one below the other.

    Args:
      tables: at least one.

    Raises:
      ValueError: no table, or tables of different columns.

    Example:
      >>> import numpy as np
      >>> from convjax import lab
      >>> lab.joined([{"x": np.arange(2)}, {"x": np.arange(3)}])["x"]
      array([0, 1, 0, 1, 2])
    """
    names = _names("tables", tables)
    return {name: np.concatenate([table[name] for table in tables]) for name in names}


def _names(argument: str, tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names that all have."""
    if not tables:
        raise ValueError(f"{argument}={tables!r} must hold at least one")
    for i, table in enumerate(tables):
        if set(table) != set(tables[0]):
            odd = ", ".join(sorted(set(table) ^ set(tables[0])))
            raise ValueError(f"{argument}[0] and {argument}[{i}] must have the same names: {odd}")
    return list(tables[0])


def beside(columns: Columns, **values: Any) -> Columns:
    """Return a table with further columns, each of one value in all rows.

    Args:
      columns: the table.
      **values: by column, its value.

    Example:
      >>> import numpy as np
      >>> from convjax import lab
      >>> lab.beside({"x": np.arange(2)}, depth=8)["depth"]
      array([8, 8])
    """
    count = len(next(iter(columns.values())))
    return columns | {name: np.full(count, value) for name, value in values.items()}


def pick(columns: Columns, **wanted: Any) -> Columns:
    """Return the rows whose columns have these values, or one of them where several are given.

    Args:
      columns: the table.
      **wanted: by column, a value or several; what no row has gives no row.

    Raises:
      ValueError: there is no such column.

    Example:
      >>> import numpy as np
      >>> from convjax import lab
      >>> lab.pick({"depth": np.array([8, 20, 8]), "x": np.arange(3)}, depth=8)["x"]
      array([0, 2])
    """
    mask = np.ones(len(next(iter(columns.values()))), bool)
    for name, value in wanted.items():
        _check.choice("column", name, columns)
        mask &= np.isin(columns[name], value)
    return {name: column[mask] for name, column in columns.items()}


def array(columns: Columns, value: str, *axes: str) -> np.ndarray:
    """Return one column as an array: the others that are named are its axes.

    Args:
      columns: a table with one row for every combination of the axes' values, in any order.
      value: the column.
      *axes: columns whose sorted values are the array's axes.

    Raises:
      ValueError: a combination that stands in no row, or in several; no such column.

    Example:
      >>> import numpy as np
      >>> from convjax import lab
      >>> seed, position = np.array([1, 0, 1, 0]), np.array([0, 0, 1, 1])
      >>> lab.array(
      ...     {"seed": seed, "position": position, "x": np.arange(4.0)}, "x", "seed", "position"
      ... )
      array([[1., 3.],
             [0., 2.]])
    """
    for name in (value, *axes):
        _check.choice("column", name, columns)
    shape = tuple(len(np.unique(columns[name])) for name in axes)
    order = np.lexsort([columns[name] for name in reversed(axes)])
    places = np.stack([columns[name] for name in axes], axis=1)[order] if axes else order[:, None]
    repeated = len(places) > 1 and bool((places[1:] == places[:-1]).all(1).any())
    if np.prod(shape, dtype=int) != len(order) or repeated:
        raise ValueError(
            f"{len(order)} rows cannot be an array with the axes {', '.join(axes)} of "
            f"{' x '.join(map(str, shape))} values: each combination must stand in one row"
        )
    return columns[value][order].reshape(shape)
