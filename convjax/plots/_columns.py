"""Tables that a picture is drawn from: which columns it needs, and of what kind they must be."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convjax import _check


def table_of(name: str, columns: Any, numbers: Sequence[str], texts: Sequence[str] = ()) -> dict:
    """Return a table's columns as arrays of one axis and one length.

    Args:
      name: the argument's.
      columns: the table.
      numbers: columns that it must have, of numbers.
      texts: columns that it must have, of anything that can be told apart.

    Raises:
      ValueError: a column that is missing, of the wrong kind or another length, or no row.
    """
    _check.instance(name, columns, Mapping, "columns: a mapping of names to arrays")
    missing = [one for one in (*numbers, *texts) if one not in columns]
    if missing:
        there = ", ".join(map(repr, columns)) or "none"
        raise ValueError(
            f"{name} lacks {', '.join(map(repr, missing))}; its columns are {there}, in "
            f"{_check.shown(columns)}"
        )
    arrays = {one: np.asarray(column) for one, column in columns.items()}
    shapes = {one: array.shape for one, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(
            f"{name}={_check.shown(columns)} must be equally long and have one axis, not {shapes}"
        )
    for one in numbers:
        if arrays[one].dtype.kind not in "biuf":
            _check.wrong_type(f"{name}[{one!r}]", arrays[one], "numbers")
        if not len(arrays[one]):
            raise ValueError(f"{name} has no row; there is nothing to draw")
    return arrays


def check_words(quantity: Any, match: Any, title: Any) -> None:
    """Refuse what cannot say what is drawn, and under which title."""
    _check.instance("quantity", quantity, str, "a column's name")
    if match is not None:
        _check.instance("match", match, str, "a pattern of paths, such as 'stage2/*', or None")
    if title is not None:
        _check.instance("title", title, str, "text, or None")
