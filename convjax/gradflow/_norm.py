"""Norms that neither under- nor overflow: a logarithm, and the power of two taken out before."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

LOG2 = math.log(2.0)
_LANES = 256


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Norm:
    """The L2 norm of an array: ``exp(log + exponent * ln 2)``, and how many entries it spans.

    Attributes:
      log: natural logarithm of the norm as measured; minus infinity where the array is zero.
      exponent: power of two by which the array had been divided before.
      size: number of entries.
    """

    log: Any
    exponent: Any
    size: int = dataclasses.field(metadata={"static": True})

    @property
    def log_norm(self) -> Any:
        """Natural logarithm of the L2 norm."""
        return self.log + self.exponent * LOG2

    @property
    def log_rms(self) -> Any:
        """Natural logarithm of the root mean square, which does not grow with the size."""
        return self.log_norm - 0.5 * math.log(max(self.size, 1))

    @property
    def norm(self) -> Any:
        """The L2 norm; 0 or infinity where the dtype cannot hold it."""
        return jnp.exp(self.log_norm)

    @property
    def rms(self) -> Any:
        """The root mean square; 0 or infinity where the dtype cannot hold it."""
        return jnp.exp(self.log_rms)


def measure(x: jax.Array, exponent: Any = 0.0) -> Norm:
    """Return the norm of ``x * 2 ** exponent``."""
    return Norm(log_norm(x), exponent, x.size)


def measure_stacked(x: jax.Array, exponent: Any = 0.0, *, axes: int) -> Norm:
    """Return the norms of ``x * 2 ** exponent`` over all but the first ``axes`` axes.

    For parameters, which are small: it always takes the second pass, and so compiles faster.
    """
    take = _by_largest
    for _ in range(axes):
        take = jax.vmap(take)
    log = take(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
    return Norm(log, exponent + jnp.zeros_like(log), math.prod(x.shape[axes:]))


def log_norm(x: jax.Array) -> jax.Array:
    """Return the natural logarithm of the L2 norm, right wherever ``x`` itself is representable.

    The sum of squares is used where it is safe; where it under- or overflows, a second pass divides
    by the largest entry first. Infinite or NaN entries give infinity or NaN.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x = x.astype(dtype)
    squares = _sum_squares(x)
    info = jnp.finfo(dtype)
    low = max(x.size, 1) * float(info.tiny) / float(info.eps)
    safe = (squares > low) & (squares < float(info.max) * float(info.eps))
    return jax.lax.cond(safe, lambda: 0.5 * jnp.log(squares), lambda: _by_largest(x))


def log2_rms(log: jax.Array, size: int) -> jax.Array:
    """Return the power of two nearest to a root mean square; 0 where that is no finite number."""
    exponent = jnp.round((log - 0.5 * math.log(max(size, 1))) / LOG2)
    return jnp.where(jnp.isfinite(exponent), exponent, jnp.zeros_like(exponent))


def _sum_squares(x: jax.Array) -> jax.Array:
    """Sum in two stages, lanes then their total: a single sum loses digits and vectorises badly."""
    flat = x.reshape(-1)
    split = x.size // _LANES * _LANES
    head = jnp.sum(jnp.square(flat[:split].reshape(-1, _LANES)), axis=0)
    return jnp.sum(head) + jnp.sum(jnp.square(flat[split:]))


def _by_largest(x: jax.Array) -> jax.Array:
    largest = jnp.max(jnp.abs(x), initial=0.0)
    divisor = jnp.where((largest > 0) & jnp.isfinite(largest), largest, jnp.ones_like(largest))
    # Where the largest entry is zero or not finite, its logarithm alone is the answer.
    rest = 0.5 * jnp.log(_sum_squares(x / divisor))
    ordinary = (largest > 0) & jnp.isfinite(largest)
    return jnp.log(largest) + jnp.where(ordinary, rest, jnp.zeros_like(rest))
