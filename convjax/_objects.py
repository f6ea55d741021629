"""Objects that a function may change: modules of Flax NNX, apart into a description and arrays."""

from collections.abc import Sequence
from typing import Any

from flax import nnx


def is_object(value: Any) -> bool:
    """Whether something is an object of NNX: a module, an optimiser, random streams, a variable."""
    return nnx.graph.is_graph_node(value)


def is_arrays(value: Any) -> bool:
    """Whether something is arrays of NNX by their paths, which are passed as a whole."""
    return isinstance(value, nnx.State)


def apart(objects: Sequence[Any]) -> tuple[Any, Any]:
    """Return what is constant of some objects, and their arrays; what they share is there once."""
    return nnx.split(tuple(objects))


def together(constant: Any, arrays: Any) -> tuple[Any, ...]:
    """Return objects again."""
    return nnx.merge(constant, arrays)


def update(objects: Sequence[Any], arrays: Any) -> None:
    """Give objects other arrays."""
    nnx.update(tuple(objects), arrays)
