"""tapped: the plain forward pass with taps at chosen places, for a training step to carry."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from convjax import nn
from convjax.gradflow._norm import at_least_float32
from convjax.gradflow._run import Scope, visit
from convjax.gradflow._tap import TOKEN, Signal, tap


def trunk(net: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Return the places through which the whole signal passes, with the repeats around each.

    These are the input, and the units of chains and repeats down to, and not into, residuals and
    parallels: where a gradient's norm tells of depth and of nothing else.

    Args:
      net: the network.

    Returns:
      Paths in forward order, "input" first, and the lengths of the repeats that each stands in.

    Example:
      >>> from flax import nnx
      >>> from convjax import gradflow, models
      >>> net = models.resnet_cifar(20, width=4, rngs=nnx.Rngs(0))
      >>> gradflow.trunk(net)["stage1/rest/*"]
      (3,)
    """
    found: dict[str, tuple[int, ...]] = {"input": ()}

    def follow(path: str, node: nnx.Module, repeats: tuple[int, ...]) -> None:
        if isinstance(node, (nn.Chain, nn.Repeat)):
            inner = (*repeats, node.n) if isinstance(node, nn.Repeat) else repeats
            for name, child in nn.children(node):
                follow(nn.join(path, name), child, inner)
        else:
            found[path] = repeats

    follow("", net, ())
    return found


def tokens(places: Mapping[str, tuple[int, ...]], dtype=jnp.float32) -> dict[str, jax.Array]:
    """Return the tokens of taps at some places: what to differentiate ``tapped`` by.

    Args:
      places: paths, and the lengths of the repeats that each stands in, as ``trunk`` or ``nn.walk``
        gives them.
      dtype: float32, or float64 where the network computes in it.

    Returns:
      Zeros for each path.

    Example:
      >>> from convjax import gradflow
      >>> gradflow.tokens({"input": (), "body/*": (5,)})["body/*"].shape
      (5, 3)
    """
    dtype = at_least_float32(jnp.dtype(dtype))
    return {path: jnp.zeros((*repeats, *TOKEN), dtype) for path, repeats in places.items()}


def tapped(
    net: nnx.Module,
    x: jax.Array,
    tokens: Mapping[str, jax.Array],
    *,
    train: bool,
    rngs: nnx.Rngs | None = None,
) -> jax.Array:
    """Return ``net(x)``, whose gradient by a token is the norm of the gradient at that place.

    It computes what ``net(x)`` does, and the backward pass one sum of squares for each token: cheap
    enough for every step of a training, which ``profile`` with its running powers of two is not
    meant for. Norms are those of the dtype's range: a norm whose square under- or overflows is 0 or
    infinite.

    Args:
      net: the network.
      x: the batch.
      tokens: zeros, by path, as ``gradflow.tokens`` makes them. A path that the forward pass does
        not come by gets a gradient of 0.
      train: whether norms use the batch's statistics and dropout drops.
      rngs: source of random numbers where ``train=True`` draws any.

    Returns:
      The output. The gradient by a token holds the sum of the squares of the gradient by the output
      at its path, at place 0 of its last axis: ``gradflow.squares`` reads it.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import gradflow, models
      >>> net = models.resnet_cifar(8, width=4, rngs=nnx.Rngs(0))
      >>> x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
      >>> def loss(tokens):
      ...     return gradflow.tapped(net, x, tokens, train=False).sum()
      >>> found = jax.grad(loss)(gradflow.tokens(gradflow.trunk(net)))
      >>> round(float(gradflow.squares(found["head/dense"])), 3)
      20.0
    """
    scope = Scope(train, False, rngs, tokens, {}, {}, {}, bare=True)
    first = tokens.get("input")
    x = x if first is None else tap(x, first, False)
    return visit(net, Signal(x, jnp.zeros((), at_least_float32(x.dtype))), scope).x


def squares(token: jax.Array) -> jax.Array:
    """Return the sum of squares that the gradient by a token of ``tapped`` holds.

    Args:
      token: the gradient by one token.

    Returns:
      The squared norm of the gradient at that place, one for each repetition.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import gradflow
      >>> float(gradflow.squares(jnp.array([9.0, 1.0, 0.0])))
      9.0
    """
    return token[..., 0]
