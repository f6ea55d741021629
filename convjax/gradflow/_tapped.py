"""tapped: the plain forward pass with taps at chosen places, for a training step to carry."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from convjax import nn
from convjax._check import array, flag, instance, integers, refuse
from convjax._check import dtype as check_dtype
from convjax._rules import follows
from convjax.gradflow import _check as check
from convjax.gradflow._door import is_written
from convjax.gradflow._norm import at_least_float32
from convjax.gradflow._run import Scope, token_paths, visit
from convjax.gradflow._tap import TOKEN, Signal, tap


def trunk(
    net: nnx.Module,
    x: Any = None,
    *,
    train: bool = True,
    rngs: nnx.Rngs | None = None,
    call: Callable[..., Any] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Return the places through which the whole signal passes, with the repeats around each.

    These are the input, and the units of chains and repeats down to, and not into, residuals and
    parallels: where a gradient's norm tells of depth and of nothing else.

    Args:
      net: any network: a node of ``convjax.nn``, a module of Flax NNX, or an ``nn.Function``.
      x: the batch, or what has its shape and dtype; needed where a network is read.
      train: the mode in which it is read.
      rngs: source of random numbers, where the call of a network that is read takes one.
      call: how the network is called, if not as its signature says; see ``nn.applied``.

    Returns:
      Paths in forward order, "input" first, and the lengths of the repeats that each stands in.

    Raises:
      ValueError: no ``x`` for a network that is read; what ``nn.read`` raises.

    Example:
      >>> from flax import nnx
      >>> from convjax import gradflow, models
      >>> net = models.resnet_cifar(20, width=4, rngs=nnx.Rngs(0))
      >>> gradflow.trunk(net)["stage1/rest/*"]
      (3,)
    """
    check.network(net)
    if is_read(net, call):
        if x is None:
            raise ValueError(
                f"x=None: net={type(net).__name__} is read from its program, which needs the "
                "batch, or what has its shape and dtype"
            )
        return {"input": (), **nn.Live(net, x, train=train, rngs=rngs, call=call).places}
    found: dict[str, tuple[int, ...]] = {"input": ()}

    def follow(path: str, node: nnx.Module, repeats: tuple[int, ...]) -> None:
        if follows(node, nn.Chain) or follows(node, nn.Repeat):
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
    instance("places", places, Mapping, "a mapping from paths to lengths, as gradflow.trunk gives")
    dtype = at_least_float32(check_dtype("dtype", dtype))
    places = {path: integers(f"places[{path!r}]", n, least=1) for path, n in places.items()}
    return {path: jnp.zeros((*repeats, *TOKEN), dtype) for path, repeats in places.items()}


def tapped(
    net: nnx.Module,
    x: jax.Array,
    tokens: Mapping[str, jax.Array],
    *,
    train: bool,
    rngs: nnx.Rngs | None = None,
    call: Callable[..., Any] | None = None,
) -> jax.Array:
    """Return ``net(x)``, whose gradient by a token is the norm of the gradient at that place.

    It computes what ``net(x)`` does, and the backward pass one sum of squares for each token: cheap
    enough for every step of a training, which ``profile`` with its running powers of two is not
    meant for. Norms are those of the dtype's range: a norm whose square under- or overflows is 0 or
    infinite. Statistics move, and random numbers are used up, as in the call.

    Args:
      net: any network: a node of ``convjax.nn``, a module of Flax NNX, or an ``nn.Function``.
      x: the batch.
      tokens: zeros, by path, as ``gradflow.tokens`` makes them.
      train: whether norms use the batch's statistics and dropout drops.
      rngs: source of random numbers where ``train=True`` needs any.
      call: how the network is called, if not as its signature says; see ``nn.applied``.

    Returns:
      The output. The gradient by a token holds the sum of the squares of the gradient by the output
      at its path, at place 0 of its last axis: ``gradflow.squares`` reads it.

    Raises:
      ValueError: a token of another shape than ``gradflow.tokens`` makes it; one whose path the
        forward pass does not come by, where no gradient could be measured.

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
    check.network(net)
    x = check.batch(x)
    if is_read(net, call):
        live = nn.Live(net, x, train=flag("train", train), rngs=check.streams(rngs), call=call)
        _check_tokens({"input": (), **live.places}, tokens)
        first = tokens.get("input")
        x = x if first is None else tap(x, first, False)
        return live(x, tokens, lambda y, token: tap(y, token, False))
    scope = Scope(flag("train", train), False, check.streams(rngs), tokens, {}, {}, {}, bare=True)
    _check_tokens(token_paths(net), tokens)
    first = tokens.get("input")
    x = x if first is None else tap(x, first, False)
    found = visit(net, Signal(x, jnp.zeros((), at_least_float32(x.dtype))), scope).x
    if missed := [path for path in tokens if path != "input" and path not in scope.seen]:
        raise ValueError(
            f"tokens has the path {missed[0]!r}, which is inside a module that is called as a "
            "whole; no gradient is measured there"
        )
    return found


def is_read(net: nnx.Module, call: Callable[..., Any] | None) -> bool:
    """Whether a network's program is read, and the network is no expression already."""
    return call is not None or not is_written(net)


def _check_tokens(known: Mapping[str, tuple[int, ...]], tokens: Any) -> None:
    instance("tokens", tokens, Mapping, "a mapping from paths to what gradflow.tokens makes")
    for path, token in tokens.items():
        if path not in known:
            refuse("tokens: path", path, known)
        if jnp.shape(token) != (*known[path], *TOKEN):
            raise ValueError(
                f"tokens[{path!r}] has the shape {jnp.shape(token)}; the token there has the shape "
                f"{(*known[path], *TOKEN)}, as gradflow.tokens makes it"
            )


def squares(token: jax.Array) -> jax.Array:
    """Return the sum of squares that the gradient by a token of ``tapped`` holds.

    Args:
      token: the gradient by one token.

    Returns:
      The squared norm of the gradient at that place, one for each repetition.

    Raises:
      ValueError: what is no gradient by a token.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import gradflow
      >>> float(gradflow.squares(jnp.array([9.0, 1.0, 0.0])))
      9.0
    """
    token = array("token", token)
    if not token.ndim or token.shape[-1] != TOKEN[0]:
        raise ValueError(
            f"token has the shape {token.shape}; its last axis must have {TOKEN[0]} entries, as "
            "the gradient by a token of gradflow.tokens has"
        )
    return token[..., 0]
