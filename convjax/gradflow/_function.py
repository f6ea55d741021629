"""A network as a pure function of its input."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from convjax import nn


def as_function(
    graphdef: Any, states: Sequence[Any], streams: Any, *, train: bool
) -> Callable[[jax.Array], jax.Array]:
    """Return ``x -> net(x)`` of a split network; each call draws the same random numbers."""

    def run(x):
        net = nnx.merge(graphdef, *states, copy=True)
        rngs = None if streams is None else nnx.merge(*streams, copy=True)
        return nn.applied(net, x, train, rngs)

    return run


def split_streams(rngs: nnx.Rngs | None) -> Any:
    """Return random streams as a pytree; they are not advanced."""
    return None if rngs is None else nnx.split(rngs)
