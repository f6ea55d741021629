"""Rows of a run as columns, for tables and pictures."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from convjax import _check
from convjax.train import _arguments
from convjax.train._observe import Row

APART = ("kind", "step", "layers", "time")


def step_columns(rows: Iterable[Row], kind: str = "train") -> dict[str, np.ndarray]:
    """Return what the rows of one kind say of whole steps, a column for each number.

    Args:
      rows: as ``read_rows`` returns them, or as an observer sees them.
      kind: ``"train"`` or ``"test"``.

    Returns:
      ``step`` as integers and every other number as floats, NaN where a row lacks it.

    Raises:
      ValueError: another kind, or what are no rows.

    Example:
      >>> from convjax import train
      >>> rows = [{"kind": "train", "step": 0, "loss": 2.5}, {"kind": "test", "step": 1}]
      >>> {name: column.tolist() for name, column in train.step_columns(rows).items()}
      {'step': [0], 'loss': [2.5]}
    """
    _check.choice("kind", kind, ("train", "test"))
    kept = [row for row in _arguments.rows(rows) if row["kind"] == kind]
    names = dict.fromkeys(
        name
        for row in kept
        for name, value in row.items()
        if name not in APART and isinstance(value, int | float)
    )
    return {"step": np.array([row["step"] for row in kept], int)} | _floats(kept, names)


def layer_columns(rows: Iterable[Row]) -> dict[str, np.ndarray]:
    """Return what the watched steps say of layers, a line for each step and layer.

    Args:
      rows: as ``read_rows`` returns them, or as an observer sees them.

    Returns:
      ``step`` as integers, ``path`` as text, and every quantity (``gradient``, ``update``,
      ``weight``, …) as floats, NaN where a layer lacks it; steps and layers in the rows' order.

    Raises:
      ValueError: what are no rows.

    Example:
      >>> from convjax import train
      >>> layers = {"stem": {"gradient": 0.5}, "head": {"gradient": 2.0}}
      >>> columns = train.layer_columns([{"kind": "train", "step": 7, "layers": layers}])
      >>> {name: column.tolist() for name, column in columns.items()}
      {'step': [7, 7], 'path': ['stem', 'head'], 'gradient': [0.5, 2.0]}
    """
    lines = [
        (row["step"], path, values)
        for row in _arguments.rows(rows)
        for path, values in row.get("layers", {}).items()
    ]
    of_layers = [values for *_, values in lines]
    names = dict.fromkeys(name for values in of_layers for name in values)
    return {
        "step": np.array([step for step, *_ in lines], int),
        "path": np.array([path for _, path, _ in lines], str),
    } | _floats(of_layers, names)


def _floats(rows: list[Any], names: Iterable[str]) -> dict[str, np.ndarray]:
    return {name: np.array([row.get(name, math.nan) for row in rows], float) for name in names}
