"""noise_scale: how large a batch must be for its gradient to stand out of the examples' noise."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from convjax._check import integer, shown
from convjax.gradflow import _check as check
from convjax.gradflow._check import numbers
from convjax.gradflow._door import is_written, said
from convjax.gradflow._forward import check_forward
from convjax.gradflow._function import as_function, split_streams
from convjax.gradflow._norm import at_least_float32, sum_squares
from convjax.gradflow._per_example import check_examples, even_chunk, one_by_one, padded, streams_of
from convjax.gradflow._profile import _cotangent


@dataclasses.dataclass(frozen=True)
class NoiseScale:
    """Estimates of a gradient's signal and noise; each of the two is unbiased, their ratio is not.

    Attributes:
      gradient_square: estimate of ``|G|^2``, G the gradient of the expected loss; a batch too small
        to tell it from noise may make it negative.
      trace: estimate of ``tr Sigma``, the examples' covariance summed over the parameters.
      mode: how the network was called, in words.
    """

    gradient_square: float
    trace: float
    mode: str = ""

    @property
    def scale(self) -> float:
        """The simple noise scale ``tr Sigma / |G|^2``, in examples; infinite without a signal."""
        return self.trace / self.gradient_square if self.gradient_square > 0 else math.inf

    def __str__(self) -> str:
        return (
            f"noise scale {self.scale:.3g} examples: |G|^2 {self.gradient_square:.3g}, "
            f"tr Sigma {self.trace:.3g}" + (f"; {self.mode}" if self.mode else "")
        )


def noise_scale(
    net: nnx.Module,
    x: ArrayLike,
    *,
    loss: Callable[..., jax.Array],
    targets: Any = None,
    train: bool | None = None,
    rngs: nnx.Rngs | None = None,
    call: Callable[[Any, Any], Any] | None = None,
    chunk: int = 32,
) -> NoiseScale:
    """Measure the gradient noise scale from the gradients of single examples.

    Formulas: ``tr Sigma = sum |g_i - g|^2 / (N - 1)`` and ``|G|^2 = |g|^2 - tr Sigma / N``, with
    ``g_i`` the gradient of ``loss(net(x_i), t_i)`` on a batch of one, and ``g`` the mean of N of
    them. Batches much smaller than ``tr Sigma / |G|^2`` gain by every example more; much larger
    ones gain nothing.

    Args:
      net: any network: a node of ``convjax.nn``, a module of Flax NNX, or an ``nn.Function``.
      x: the batch, ``(N, *spatial, C)``, N at least two.
      loss: ``loss(output)``, or ``loss(output, targets)`` where targets are given, returning a
        scalar; it sees batches of one. Pass the same function object each time.
      targets: second argument of the loss, any pytree of arrays whose first axis is the examples'.
      train: as for ``per_example_norms``: refused where batch norm couples the examples.
      rngs: source of random numbers where ``train=True`` draws any; it is not advanced.
      chunk: examples differentiated at once; memory grows with it, by the parameters' size each.
      call: how a network that is no expression of ``convjax.nn`` is called, as for ``nn.read``.

    Returns:
      The ``NoiseScale``. Compiled on first use, then cached by the network's structure.

    Raises:
      ValueError: fewer than two examples; what ``per_example_norms`` refuses; gradients that are
        all zero or not finite in the dtype of the parameters.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import gradflow, nn
      >>> net = nn.Dense(3, 1, rngs=nnx.Rngs(0))
      >>> x = jax.random.normal(jax.random.key(1), (64, 3))
      >>> bool(gradflow.noise_scale(net, x, loss=lambda y: jnp.sum(y**2)).scale > 0)
      True

    Reference: McCandlish et al., An Empirical Model of Large-Batch Training, 2018.
    """
    x, chunk = check_examples(x, loss, targets, chunk)
    count = x.shape[0]
    if count < 2:
        raise ValueError(f"x holds {count} example; a noise needs at least two")
    check.streams(rngs)
    if is_written(check.network(net)):
        check_forward(net, x, train=bool(train), rngs=rngs, plain=True)
    net, train, rngs = one_by_one(net, x, train, rngs, call)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    check.held(net, params, rest)
    single, mean = _log_squares(
        params,
        rest,
        x,
        targets,
        split_streams(rngs),
        graphdef=graphdef,
        loss=loss,
        train=train,
        chunk=even_chunk(count, chunk),
    )
    largest = float(np.max(single))
    if not math.isfinite(largest):
        raise ValueError(
            f"every example's gradient is {'zero' if largest == -math.inf else 'not finite'} in "
            "the dtype of the parameters; a factor on the loss leaves the noise scale as it is"
        )
    smaller = float(np.mean(np.exp(np.asarray(single, np.float64))))
    found = noise_scale_from_norms(smaller, 1, float(np.exp(np.float64(mean))), count)
    return dataclasses.replace(found, mode=said(net, train))


def noise_scale_from_norms(
    small_norm_sq: ArrayLike, small: int, big_norm_sq: ArrayLike, big: int
) -> NoiseScale:
    """Return the noise scale from squared norms of gradients at two batch sizes.

    Formulas: ``|G|^2 = (big * |g_big|^2 - small * |g_small|^2) / (big - small)`` and
    ``tr Sigma = (|g_small|^2 - |g_big|^2) / (1 / small - 1 / big)``: the expected squared norm of a
    batch's mean gradient is ``|G|^2 + tr Sigma / size``.

    Args:
      small_norm_sq: squared norm of the mean gradient over ``small`` examples. Several are averaged
        before the ratio is taken, as one pair alone says little.
      small: examples in the smaller batch.
      big_norm_sq: the same over ``big`` examples.
      big: examples in the larger batch.

    Returns:
      The ``NoiseScale``.

    Raises:
      ValueError: sizes that are not ``1 <= small < big``; squared norms that are empty, negative or
        not finite.

    Example:
      >>> from convjax import gradflow
      >>> found = gradflow.noise_scale_from_norms(4.0 + 12.0 / 2, 2, 4.0 + 12.0 / 8, 8)
      >>> round(found.gradient_square, 6), round(found.trace, 6), round(found.scale, 6)
      (4.0, 12.0, 3.0)

    Reference: McCandlish et al., An Empirical Model of Large-Batch Training, 2018, appendix A.1.
    """
    small, big = integer("small", small), integer("big", big)
    if not 1 <= small < big:
        raise ValueError(f"small={small} and big={big}: 1 <= small < big must hold")
    squares = []
    for name, given in (("small_norm_sq", small_norm_sq), ("big_norm_sq", big_norm_sq)):
        values = numbers(name, given)
        if values.size == 0 or values.ndim > 1 or not np.all(np.isfinite(values) & (values >= 0)):
            raise ValueError(
                f"{name}={shown(given)} must be one or more squared norms, finite and not negative"
            )
        squares.append(float(values.mean()))
    at_small, at_big = squares
    return NoiseScale(
        (big * at_big - small * at_small) / (big - small),
        (at_small - at_big) / (1 / small - 1 / big),
    )


@partial(jax.jit, static_argnames=("graphdef", "loss", "train", "chunk"))
def _log_squares(params, rest, x, targets, streams, *, graphdef, loss, train, chunk):
    """Return ln |g_i|^2 of every example, and ln |g|^2 of their mean."""

    def one(i):
        own = None if streams is None else streams_of(streams, i)
        target = jax.tree.map(lambda leaf: leaf[i][None], targets)

        def run(params):
            states = (params, streams_of(rest, i))
            return as_function(graphdef, states, own, train=train)(x[i][None])

        output, pullback = jax.vjp(run, params)
        return pullback(_cotangent(output, loss, target, None)[1])[0]

    def some(total, examples):
        indices, weights = examples
        gradients = jax.vmap(one)(indices)

        def add(t, g):
            return t + jnp.tensordot(
                weights.astype(t.dtype), g.astype(t.dtype), 1, precision="highest"
            )

        return jax.tree.map(add, total, gradients), jax.vmap(_log_square)(gradients)

    count = x.shape[0]
    indices = padded(count, chunk).reshape(-1, chunk)
    weights = jnp.arange(indices.size).reshape(-1, chunk) < count
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, at_least_float32(p.dtype)), params)
    total, logs = jax.lax.scan(some, zeros, (indices, weights))
    return logs.reshape(-1)[:count], _log_square(total) - 2 * math.log(count)


def _log_square(tree: Any) -> jax.Array:
    """Return ln of the sum of the squares of all leaves, whatever their magnitude."""
    parts = [sum_squares(leaf, careful=True) for leaf in jax.tree.leaves(tree)]
    logs = [2 * jnp.log(divisor) + jnp.log(squares) for squares, divisor in parts]
    return jax.nn.logsumexp(jnp.stack(logs))
