"""Which pool some equations compute: over windows, or over all places."""

import math
from collections.abc import Sequence
from typing import Any

from convjax._trace import is_variable
from convjax.nn._reading._like import Like
from convjax.nn._reading._places import places, through
from convjax.nn._reading._segment import Work
from convjax.nn._reading._structure import SHAPES

KINDS = {"reduce_window_max": "max", "reduce_window_sum": "avg"}
WHOLE = {"reduce_max": "max", "reduce_sum": "avg"}


def pool(work: Work, *, first: bool) -> Like | None:
    """Recognise a pool, whose windows lie over places alone.

    Args:
      work: the equations.
      first: whether images have their channels behind the batch.
    """
    computing = [e for e in work.path if e.primitive.name not in SHAPES]
    names = [e.primitive.name for e in computing]
    padded = computing[0] if names[:1] == ["pad"] else None
    if padded is not None:
        computing, names = computing[1:], names[1:]
    if not names or names[0] not in {*KINDS, *WHOLE}:
        return None
    core = computing[0]
    kind = {**KINDS, **WHOLE}[names[0]]
    divisor = _divisor(computing[1:], work, core)
    if divisor is None or (kind == "max" and divisor != 1):
        return None
    if names[0] in KINDS:
        return _windows(core, kind, divisor, padded, work, first)
    entry = work.entries[0].aval.shape
    if padded is not None or core.invars[0].aval.shape != entry:
        return None
    axes = tuple(core.params["axes"])
    count = math.prod(entry[axis] for axis in axes)
    if axes != places(len(entry), first=first) or (kind == "avg" and divisor != count):
        return None
    kept = len(work.exit.aval.shape) == len(entry)
    return Like("GlobalPool", (("kind", kind), ("keepdims", kept)))


def _divisor(after: Sequence[Any], work: Work, core: Any) -> float | str | None:
    """Return what a sum is divided by: a number, or how many entries of a window are no padding."""
    if not after:
        return 1.0
    if len(after) > 1 or after[0].primitive.name not in ("div", "mul"):
        return None
    (equation,) = after
    other = [v for v in equation.invars if not (is_variable(v) and v in work.signals)]
    if len(other) != 1:
        return None
    by = work.number(other[0])
    if by is not None:
        by = by if equation.primitive.name == "div" else 1 / by
        return float(round(by)) if abs(by - round(by)) < 1e-4 * by else by
    counted = [e for e in work.aside if e.primitive.name == "reduce_window_sum"]
    same = len(counted) == 1 and not work.needed(other[0])
    windows = ("window_dimensions", "window_strides", "padding")
    same = same and all(counted[0].params[w] == core.params[w] for w in windows)
    return "no padding" if same and equation.primitive.name == "div" else None


def _windows(
    core: Any, kind: str, divisor: float | str, padded: Any, work: Work, first: bool
) -> Like | None:
    how = core.params
    place = work.path.index(core)
    before = [e for e in work.path[:place] if e is not padded]
    rank = len(work.entries[0].aval.shape)
    axes = through(before, rank)
    if axes is None or any(d != 1 for d in (*how["window_dilation"], *how["base_dilation"])):
        return None
    # The result has the input's axes in the input's order, whatever was done in between.
    behind = [e for e in work.path[place + 1 :] if e.primitive.name in SHAPES]
    after = through(behind, len(core.outvars[0].aval.shape))
    if after is None or any(a is None or axes[a] != i for i, a in enumerate(after)):
        return None
    size = math.prod(how["window_dimensions"])
    if kind == "avg" and divisor not in (size, "no padding"):
        return None
    inside = {axis: i for i, axis in enumerate(axes) if axis is not None}
    padding = [tuple(how["padding"][inside[axis]]) for axis in range(rank)]
    if padded is not None:
        config = padded.params["padding_config"]
        value = padded.invars[1]
        neutral = not is_variable(value) and float(value.val) == (-math.inf if kind == "max" else 0)
        if not neutral or before or any(p != (0, 0) for p in padding):
            return None
        if any(low < 0 or high < 0 or inner for low, high, inner in config):
            return None
        padding = [(int(low), int(high)) for low, high, _ in config]
    spatial = places(rank, first=first)
    window = [how["window_dimensions"][inside[axis]] for axis in range(rank)]
    strides = [how["window_strides"][inside[axis]] for axis in range(rank)]
    for axis in range(rank):
        if axis not in spatial and (window[axis], strides[axis], padding[axis]) != (1, 1, (0, 0)):
            return None
    if len(inside) < len(axes) and any(
        how["window_dimensions"][i] != 1 for i, axis in enumerate(axes) if axis is None
    ):
        return None
    fields = {
        "kind": kind,
        "window_shape": tuple(window[axis] for axis in spatial),
        "strides": tuple(strides[axis] for axis in spatial),
        "padding": tuple(padding[axis] for axis in spatial),
        "count_include_pad": divisor != "no padding",
        "zero_pad": False,
    }
    return Like("Pool", tuple(fields.items()))
