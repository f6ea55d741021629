"""Rows: what a dispatch measured, step by step."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from convjax.train._observe import Row
from convjax.train._watch import Watched


def rows_of(
    metrics: Any, begin: int, end: int, watch: int, order: Callable[[], Callable[[str], Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a dispatch's steps, of paths in an order that is asked for when needed."""
    layers = Watched.of_steps(metrics.pop("layers"), order()) if watch else []
    for i, step in enumerate(range(begin, end)):
        row: dict[str, Any] = {"kind": "train", "step": step}
        row |= {name: metrics[name][i].item() for name in sorted(metrics, key=_place)}
        if watch and step % watch == 0:
            row["layers"] = layers[i]
        yield row


def _place(name: str) -> tuple[int, str]:
    known = ("loss", "accuracy", "gradient_norm", "learning_rate")
    return (known.index(name) if name in known else len(known), name)


def finite(row: Row) -> bool:
    """Tell whether a row is of a step that can be gone on from."""
    # With loss scaling a gradient out of range is no harm: the step is skipped.
    if not math.isfinite(row["loss"]):
        return False
    return bool(row.get("skipped")) or math.isfinite(row["gradient_norm"])
