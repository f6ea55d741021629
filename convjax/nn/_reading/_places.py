"""Where the axes of an array go when its shape is changed."""

from collections.abc import Sequence
from typing import Any

from convjax._trace import words

KEEPS = words("convert_element_type copy copy_p reduce_precision optimization_barrier")


def places(rank: int, *, first: bool) -> tuple[int, ...]:
    """Return the spatial axes of an array, with the channels behind the batch or in the end."""
    return tuple(range(2, rank) if first and rank > 2 else range(1, rank - 1))


def through(equations: Sequence[Any], rank: int) -> tuple[int | None, ...] | None:
    """Return which axis of the input each axis is, after changes of shape.

    Args:
      equations: such as ``transpose``.
      rank: of the input.

    Returns:
      The axes, None for a new one of length 1; or None where entries come together otherwise.
    """
    axes: list[int | None] = list(range(rank))
    for equation in equations:
        name, how = equation.primitive.name, equation.params
        before, after = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        if name in KEEPS:
            continue
        if name == "transpose":
            axes = [axes[i] for i in how["permutation"]]
        elif name == "squeeze":
            axes = [a for i, a in enumerate(axes) if i not in how["dimensions"]]
        elif name in ("reshape", "broadcast_in_dim"):
            targets = how.get("broadcast_dimensions")
            targets = None if targets is None else [int(target) for target in targets]
            placed = _placed(before, after, targets)
            if placed is None:
                return None
            axes = [None if i is None else axes[i] for i in placed]
        else:
            return None
    return tuple(axes)


def _placed(
    before: Sequence[int], after: Sequence[int], targets: Sequence[int] | None
) -> list[int | None] | None:
    """Return which axis each axis comes from, where axes of length 1 come and go alone."""
    found: list[int | None] = [None] * len(after)
    if targets is not None:
        for i, target in enumerate(targets):
            found[target] = i
            if before[i] != after[target]:
                return None
        new = (n for n, i in zip(after, found, strict=True) if i is None)
        return found if all(n == 1 for n in new) else None
    if before == after:
        return list(range(len(before)))
    mine = [i for i, n in enumerate(before) if n > 1]
    theirs = [i for i, n in enumerate(after) if n > 1]
    if [before[i] for i in mine] != [after[i] for i in theirs]:
        return None
    for i, target in zip(mine, theirs, strict=True):
        found[target] = i
    if after and before and after[0] == before[0] == 1:
        found[0] = 0  # a batch of one example
    return found
