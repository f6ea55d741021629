"""The small classifier: ``lab.Classifier``."""

import functools
from typing import Any

from flax import nnx

from convjax.lab import Classifier as Cell
from convjax.lab import cross_entropy as cross_entropy

CONVS_PER_UNIT = Cell.convs_per_unit
CLASSES = Cell.classes


@functools.lru_cache(maxsize=64)
def structure(cell: Cell) -> tuple[nnx.GraphDef, Any, Any]:
    """Return a network's graph, and the shapes of its parameters and of the rest."""
    shapes = nnx.eval_shape(lambda: cell.network(nnx.Rngs(0)))
    graphdef, params, rest = nnx.split(shapes, nnx.Param, ...)
    return graphdef, params, rest
