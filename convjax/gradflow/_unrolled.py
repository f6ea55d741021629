"""The units of a profile with one for every turn of a loop, by its own name."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from convjax import nn
from convjax.gradflow._unit import Unit

Turned = Sequence[nn.Turns | None]


def unrolled(
    paths: Sequence[str], units: Sequence[Unit], turns: Turned, replicas: int
) -> tuple[tuple[str, ...], tuple[Unit, ...]]:
    """Return paths and units without loops, in forward order.

    Args:
      paths: of the units.
      units: as they were measured; those of a loop have an axis for its turns.
      turns: of each unit, its turns; None for one that stands in no loop.
      replicas: how many axes stand before that of the turns.
    """
    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(units)):
        units = jax.device_get(units)  # a network of thousands of layers has as many slices
    found = [
        units[i] if k is None else _of_turn(units[i], turns[i], k, (slice(None),) * replicas)
        for i, k in nn.Turns.in_order(turns)
    ]
    return nn.Turns.names(paths, turns), tuple(found)


def named(path: str, units: Sequence[Unit], turns: Turned, replicas: int) -> Unit | None:
    """Return the unit of one turn, by its name; None where no turn has it."""
    for unit, own in zip(units, turns, strict=True):
        if own is not None and path in own.labels:
            return _of_turn(unit, own, own.labels.index(path), (slice(None),) * replicas)
    return None


def _of_turn(unit: Unit, turns: Any, k: int, before: tuple[slice, ...]) -> Unit:
    """Return what was measured in one turn."""

    def slice_of(a: Any) -> Any:
        return a[(*before, k)] if np.ndim(a) > len(before) else a

    first, own = turns.held[0] if turns.held else (), turns.held[k] if turns.held else ()
    names = dict(zip(first, own, strict=True))
    found = jax.tree.map(slice_of, unit)
    renamed = {
        field: {names[name]: norm for name, norm in getattr(found, field).items()}
        for field in ("parameters", "parameter_gradients")
    }
    return dataclasses.replace(
        found, **{f: dict(sorted(norms.items())) for f, norms in renamed.items()}
    )
