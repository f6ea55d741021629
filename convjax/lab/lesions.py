"""What trained networks do with their units: features along depth, and lesions of units and layers.

Of any chain whose units are ``nn.Residual``, in repeats or not; "plain" is one without shortcuts.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from convjax import nn
from convjax.lab._classifier import cross_entropy

LAYERS = 2
"""Convolutions in the branch of a unit whose layers are taken out."""
NONE = -1

Unit = Callable[[Any, jax.Array, jax.Array, Any], tuple[jax.Array, Any]]


def scores(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return loss and accuracy."""
    return cross_entropy(logits, labels), jnp.mean(logits.argmax(-1) == labels)


def looked(
    net: nn.Chain, images: jax.Array, labels: jax.Array, *, layers: bool = False
) -> dict[str, jax.Array]:
    """Look into a trained network; norms use their running statistics.

    Args:
      net: the network.
      images: of the task.
      labels: theirs.
      layers: whether single layers are taken out as well; units are post-activation then.

    Returns:
      Loss and accuracy of the ``whole``, ``without`` each unit and, if asked for, ``without_layer``
      each layer, forward order; and behind every unit what ``along`` finds. What is taken out is
      replaced by the identity, subsampled and padded with zero channels where the shape changes.
    """
    found = along(net, images)
    units = len(found["branch"])
    count = units * (1 + LAYERS * layers)
    place = jnp.arange(count)
    unit = jnp.where(place < units, place, NONE)
    layer = jnp.where(place < units, NONE, place - units)

    def score(cut):
        return scores(without(net, images, *cut, layers=layers), labels)

    whole = scores(net(images, train=False), labels)
    losses, accuracies = jax.lax.map(score, (unit, layer))
    for name, part in (("without", slice(units)), ("without_layer", slice(units, count))):
        if name == "without" or layers:
            found |= {f"{name}_loss": losses[part], f"{name}_accuracy": accuracies[part]}
    return {"whole_loss": whole[0][None], "whole_accuracy": whole[1][None]} | found


def without(net: nn.Chain, images: jax.Array, unit: Any, layer: Any, *, layers: bool) -> jax.Array:
    """Return the output without one unit, or one layer of one; ``NONE`` takes nothing out."""

    def run(node, x, start, number):
        y = _less(node, x, layer - LAYERS * number) if layers else node(x, train=False)
        return jnp.where(unit == number, passed(x, y.shape), y), None

    return followed(net, images, run)[0]


def _less(node: nn.Residual, x: jax.Array, layer: Any) -> jax.Array:
    """Return a unit's output without one of its layers, a convolution and its norm."""
    branch, seen = x, -1
    for _, part in nn.children(node.branch):
        seen += isinstance(part, nn.Conv)
        y: Any = part(branch, train=False)  # pyright: ignore[reportCallIssue]
        if not isinstance(part, nn.Activation):
            y = jnp.where(layer == seen, passed(branch, y.shape), y)
        branch = y
    beside = None if node.shortcut is None else node.shortcut(x, train=False)  # pyright: ignore
    y = node.merge(*node.summands(x, branch, beside))
    return y if node.activation is None else node.activation(y, train=False)  # pyright: ignore


def passed(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return what an identity makes of ``x``, which must have this shape then."""
    if x.shape == shape:
        return x
    strides = -(-x.shape[1] // shape[1])
    return nn.ZeroPadShortcut(x.shape[-1], shape[-1], strides=strides)(x)


def along(net: nn.Chain, images: jax.Array) -> dict[str, jax.Array]:
    """Return what becomes of the stem's features, behind every unit.

    ``correlation`` compares them number by number, their means over the images taken out; ``cka``
    compares which images they make alike, whatever the channels mean (linear CKA, Kornblith et al.
    2019); ``branch`` is the branch's norm over that of its input. Where the shape changes, the
    stem's features are carried on as an identity would do it.
    """

    def run(node, x, start, number):
        y = node(x, train=False)
        start = passed(start, y.shape)
        branch = jnp.linalg.norm(node.branch(x, train=False)) / jnp.linalg.norm(x)
        return y, (cosine(start, y), cka(start, y), branch)

    found = followed(net, images, run)[1]
    return dict(zip(("correlation", "cka", "branch"), found, strict=True))


def followed(net: nn.Chain, x: jax.Array, unit: Unit) -> tuple[jax.Array, Any]:
    """Run a network forward, every unit by ``unit(node, x, start, number) -> (y, found)``.

    Args:
      net: the network.
      x: its input.
      unit: sees the unit, its input, what entered the first unit, carried on to the input's shape,
        and its number in forward order.

    Returns:
      The output, and what was found, stacked.
    """
    x, _, _, found = _follow(net, x, x, unit, 0)
    return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


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
        y = node(x, train=False)
        return y, y, number, []
    every = []
    for _, part in nn.children(node):
        x, start, number, found = _follow(part, x, start, unit, number)
        every += found
    return x, start, number, every


def cosine(a: Any, b: Any) -> jax.Array:
    """Return the correlation of two batches of features, number by number."""
    a, b = (_centred(features) for features in (a, b))
    return jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


def cka(a: Any, b: Any) -> jax.Array:
    """Return the cosine of the matrices of products between images."""
    a, b = (_centred(features) for features in (a, b))
    # Taken to unit size first: products of a residual network's features overflow.
    a, b = (x / jnp.linalg.norm(x) for x in (a, b))
    products = [jnp.matmul(x, x.T, precision="highest") for x in (a, b)]
    sizes = [jnp.linalg.norm(product) for product in products]
    return jnp.vdot(*products) / (sizes[0] * sizes[1])


def _centred(features: Any) -> jax.Array:
    rows = features.reshape(len(features), -1)
    # Largest 1: squares of what an un-normalised network makes would overflow.
    rows = rows / jnp.abs(rows).max()
    return rows - rows.mean(0, keepdims=True)
