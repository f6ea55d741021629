"""along: what becomes of the first features of a residual network, unit by unit."""

from typing import Any

import jax
import jax.numpy as jnp

from convjax import nn
from convjax.gradflow._units import followed, passed


def along(net: Any, x: Any) -> dict[str, jax.Array]:
    """Return what becomes of the stem's features behind every residual unit, in forward order.

    ``correlation`` compares them number by number, their means over the images taken out; ``cka``
    compares which images they make alike, whatever the channels mean (linear CKA); ``branch`` is
    the branch's norm over that of its input. Where the shape changes, the stem's features are
    carried on as an identity would do it: every so many places, and zeros for new channels.

    Args:
      net: a chain whose units are ``nn.Residual``, in repeats or not; norms use their running
        statistics.
      x: images.

    Raises:
      WrongTypeError: no chain, or no array.
      ValueError: no residual unit.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import gradflow, models
      >>> net = models.resnet_cifar(8, width=4, rngs=nnx.Rngs(0))
      >>> found = gradflow.along(net, jax.random.normal(jax.random.key(1), (3, 8, 8, 3)))
      >>> {name: values.shape for name, values in found.items()}
      {'correlation': (3,), 'cka': (3,), 'branch': (3,)}

    Reference: Kornblith et al., Similarity of Neural Network Representations Revisited, 2019.
    """

    def run(node, x, start, number):
        y = nn.applied(node, x)
        start = passed(start, y.shape)
        branch = jnp.linalg.norm(nn.applied(node.branch, x)) / jnp.linalg.norm(x)
        return y, (cosine(start, y), cka(start, y), branch)

    found = followed(net, x, run)[1]
    return dict(zip(("correlation", "cka", "branch"), found, strict=True))


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
