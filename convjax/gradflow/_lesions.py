"""lesions: what a residual network loses without one of its units, or one of their layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from convjax import nn
from convjax._check import flag, function
from convjax.gradflow._units import followed, passed

LAYERS = 2
"""Convolutions in the branch of a unit whose layers are taken out."""
NONE = -1


def lesions(
    net: Any, x: Any, score: Callable[[jax.Array], Any], *, layers: bool = False
) -> dict[str, Any]:
    """Return what the output is worth without each residual unit, one at a time.

    What is taken out is replaced by the identity, subsampled and padded with zero channels where
    the shape changes. All cuts are one compiled program.

    Args:
      net: a chain whose units are ``nn.Residual``, in repeats or not; norms use their running
        statistics.
      x: images.
      score: what an output is worth, such as a loss: an array, or several in a tuple or dictionary.
      layers: whether single layers, a convolution and its norm, are taken out as well; units are
        post-activation then, with two convolutions each.

    Returns:
      ``whole``, the score of the whole network; ``without``, the scores without each unit, in
      forward order; and if asked for ``without_layer``, those without each layer.

    Raises:
      WrongTypeError: an argument of a wrong type.
      ValueError: no residual unit.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import gradflow, models
      >>> net = models.resnet_cifar(8, width=4, rngs=nnx.Rngs(0))
      >>> x = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
      >>> found = gradflow.lesions(net, x, lambda logits: logits.var())
      >>> found["whole"].shape, found["without"].shape
      ((), (3,))

    Reference: Veit, Wilber, Belongie, Residual Networks Behave Like Ensembles of Relatively
    Shallow Networks, 2016.
    """
    function("score", score)
    layers = flag("layers", layers)
    seen = jax.eval_shape(
        lambda: followed(net, x, lambda node, x, _, i: (nn.applied(node, x), jnp.asarray(i)))[1]
    )
    units = len(seen)
    place = jnp.arange(units * (1 + LAYERS * layers))
    unit = jnp.where(place < units, place, NONE)
    layer = jnp.where(place < units, NONE, place - units)
    found = {"whole": score(nn.applied(net, x))}
    scores = jax.lax.map(lambda cut: score(_without(net, x, *cut, layers=layers)), (unit, layer))
    found["without"] = jax.tree.map(lambda values: values[:units], scores)
    if layers:
        found["without_layer"] = jax.tree.map(lambda values: values[units:], scores)
    return found


def _without(net: Any, x: Any, unit: Any, layer: Any, *, layers: bool) -> jax.Array:
    """Return the output without one unit, or one layer of one; ``NONE`` takes nothing out."""

    def run(node, x, start, number):
        y = _less(node, x, layer - LAYERS * number) if layers else nn.applied(node, x)
        return jnp.where(unit == number, passed(x, y.shape), y), ()

    return followed(net, x, run)[0]


def _less(node: nn.Residual, x: jax.Array, layer: Any) -> jax.Array:
    """Return a unit's output without one of its layers, a convolution and its norm."""
    branch, seen = x, -1
    for _, part in nn.children(node.branch):
        seen += isinstance(part, nn.Conv)
        y: Any = part(branch, train=False)  # pyright: ignore[reportCallIssue]
        if not isinstance(part, nn.Activation):
            y = jnp.where(layer == seen, passed(branch, y.shape), y)
        branch = y
    beside = None if node.shortcut is None else nn.applied(node.shortcut, x)
    y = node.merge(*node.summands(x, branch, beside))
    return y if node.activation is None else node.activation(y, train=False)  # pyright: ignore
