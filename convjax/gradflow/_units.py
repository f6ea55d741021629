"""Walking along the residual units of a network, in chains and repeats, each with its number."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from convjax import nn
from convjax._check import instance
from convjax.gradflow._check import batch

Unit = Callable[[Any, jax.Array, jax.Array, Any], tuple[jax.Array, Any]]


def followed(net: Any, x: Any, unit: Unit) -> tuple[jax.Array, Any]:
    """Run a network forward, every unit by ``unit(node, x, start, number) -> (y, found)``.

    Args:
      net: a chain of residual units, in repeats or not, between other parts.
      x: its input.
      unit: sees the unit, its input, what entered the first unit, carried on to the input's shape,
        and its number in forward order.

    Returns:
      The output, and what was found, stacked.
    """
    instance("net", net, nn.Chain, "an nn.Chain of residual units")
    x = batch(x)
    y, _, _, found = _follow(net, x, x, unit, 0)
    if not found:
        raise ValueError(f"net={type(net).__name__} has no unit that is an nn.Residual")
    return y, jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def _follow(
    node: Any, x: jax.Array, start: jax.Array, unit: Unit, number: int
) -> tuple[jax.Array, jax.Array, int, list[Any]]:
    """Return output, what entered the first unit, the next unit's number, and what was found."""
    if isinstance(node, nn.Residual):
        y, found = unit(node, x, passed(start, x.shape), number)
        return y, start, number + 1, [jax.tree.map(lambda a: a[None], found)]
    if isinstance(node, nn.Repeat) and isinstance(node.unit, nn.Residual):
        here = passed(start, x.shape)
        numbers = jnp.arange(number, number + node.n)
        y, found = node.scan(lambda one, x, _, i: unit(one, x, here, i), x, xs=numbers)
        return y, start, number + node.n, [found]
    if not isinstance(node, nn.Chain):
        y = nn.applied(node, x)
        return y, y, number, []
    every = []
    for _, part in nn.children(node):
        x, start, number, found = _follow(part, x, start, unit, number)
        every += found
    return x, start, number, every


def passed(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return what an identity makes of ``x``, which must have this shape then."""
    if x.shape == shape:
        return x
    strides = -(-x.shape[1] // shape[1])
    return nn.ZeroPadShortcut(x.shape[-1], shape[-1], strides=strides)(x)
