"""Leaves that use random numbers when ``train=True``: dropout and stochastic depth."""

import jax
import jax.numpy as jnp
from flax import nnx

from convjax import _check
from convjax.nn._node import Node, check_streams


class _Drop(Node):
    """Drop with probability ``rate``, and divide what stays by the probability to stay."""

    def __init__(self, rate: float):
        self.rate = _check.number("rate", rate, least=0, below=1)

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Drop, if ``train``."""
        x = _check.array("x", x)
        if not _check.flag("train", train) or self.rate == 0:
            return x
        if rngs is None:
            raise ValueError(
                f"{type(self).__name__}(rate={self.rate}) with train=True needs rngs, for example "
                "rngs=nnx.Rngs(dropout=0)"
            )
        check_streams(rngs, "dropout")
        keep = jax.random.bernoulli(rngs.dropout(), 1 - self.rate, self._mask_shape(x))
        return jnp.where(keep, x / jnp.asarray(1 - self.rate, x.dtype), jnp.zeros((), x.dtype))

    def _mask_shape(self, x: jax.Array) -> tuple[int, ...]:
        raise NotImplementedError


class Dropout(_Drop):
    """Set entries to zero with probability ``rate`` and scale the rest by ``1 / (1 - rate)``.

    Args:
      rate: probability to drop, in [0, 1).

    Raises:
      ValueError: a rate outside [0, 1); in the call with ``train=True``, no ``rngs``.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> y = nn.Dropout(0.5)(jnp.ones((1, 1000)), train=True, rngs=nnx.Rngs(dropout=0))
      >>> sorted(set(y.ravel().tolist()))
      [0.0, 2.0]

    Reference: Srivastava et al., Dropout, 2014.
    """

    def _mask_shape(self, x: jax.Array) -> tuple[int, ...]:
        return x.shape


class StochasticDepth(_Drop):
    """Drop whole examples: at the end of a branch, the branch is skipped with probability ``rate``.

    What stays is scaled by ``1 / (1 - rate)``, so that the mean is kept.

    Args:
      rate: probability to drop, in [0, 1).

    Raises:
      ValueError: a rate outside [0, 1); in the call with ``train=True``, no ``rngs``.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> y = nn.StochasticDepth(0.5)(jnp.ones((9, 4)), train=True, rngs=nnx.Rngs(dropout=0))
      >>> bool((y == y[:, :1]).all())
      True

    Reference: Huang et al., Deep Networks with Stochastic Depth, 2016.
    """

    def _mask_shape(self, x: jax.Array) -> tuple[int, ...]:
        return (x.shape[0],) + (1,) * (x.ndim - 1)
