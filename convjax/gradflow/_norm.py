"""Norms that neither under- nor overflow: a sum of squares, and what was divided out before it."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax._readable import known
from convjax._readable import size as readable

LOG2 = math.log(2.0)
_LANES = 256
_FEWEST_LANES = 64
SMALL = 4096
"""Most entries of a parameter whose norm is taken together with others of its shape."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Norm:
    """The L2 norm of an array: ``divisor * sqrt(squares) * 2 ** exponent``.

    The logarithms are right at any magnitude; they are JAX's in the arrays' dtype, or NumPy's in
    float64 where the parts are NumPy arrays, as ``jax.device_get(profile)`` makes them.

    Attributes:
      squares: sum of the squares of the entries, each divided by ``divisor``.
      divisor: a positive number, 1 where nothing had to be divided out.
      exponent: power of two by which the array had been divided before.
      size: number of entries.
    """

    squares: Any
    divisor: Any
    exponent: Any
    size: int = dataclasses.field(metadata={"static": True})

    def __repr__(self) -> str:
        if not known(self.squares) or np.ndim(self.squares):
            return f"Norm(shape={np.shape(self.squares)}, size={self.size})"
        log = float(jax.device_get(self).log_norm)
        return f"Norm(norm={readable(log)}, size={self.size})"

    @property
    def log_norm(self) -> Any:
        """Natural logarithm of the L2 norm; minus infinity for an array of zeros."""
        if isinstance(self.squares, jax.Array):
            log = jnp.log(self.divisor) + 0.5 * jnp.log(self.squares)
            return log + self.exponent * LOG2
        squares, divisor, exponent = (
            np.asarray(a, np.float64) for a in (self.squares, self.divisor, self.exponent)
        )
        with np.errstate(divide="ignore"):
            return np.log(divisor) + 0.5 * np.log(squares) + exponent * LOG2

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


def finite(norms: Sequence[Norm]) -> bool:
    """Whether no norm is NaN or infinite."""
    return bool(np.isfinite(_squares(norms)).all())


def suspect(norms: Sequence[Norm]) -> bool:
    """Whether a sum of squares is so small or large that entries may have been lost.

    Only of sums that were not taken carefully does this say anything.
    """
    squares = _squares(norms)
    sizes = np.repeat([max(norm.size, 1) for norm in norms], [norm.squares.size for norm in norms])
    info = np.finfo(squares.dtype)
    least, most = sizes * float(info.tiny) / float(info.eps), float(info.max) * float(info.eps)
    return not bool(np.all((squares > least) & (squares < most)))


def _squares(norms: Sequence[Norm]) -> np.ndarray:
    return np.concatenate([np.ravel(a) for a in jax.device_get([norm.squares for norm in norms])])


def at_least_float32(dtype: Any) -> Any:
    """Return the dtype that norms of this dtype's arrays are computed in."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def measure(x: jax.Array, exponent: Any, *, careful: bool) -> Norm:
    """Return the norm of ``x * 2 ** exponent``."""
    return Norm(*sum_squares(x, careful), exponent, x.size)


def measure_stacked(x: jax.Array, exponent: Any = 0.0, *, axes: int) -> Norm:
    """Return the norms of ``x * 2 ** exponent`` over all but the first ``axes`` axes, carefully."""
    take = partial(sum_squares, careful=True)
    for _ in range(axes):
        take = jax.vmap(take)
    squares, divisor = take(x)
    return Norm(squares, divisor, exponent + jnp.zeros_like(squares), math.prod(x.shape[axes:]))


def sum_squares(x: jax.Array, careful: bool) -> tuple[jax.Array, jax.Array]:
    """Return ``(sum of (x / divisor)**2, divisor)``.

    Carefully, the divisor is about the largest entry, and the result right wherever ``x`` itself is
    representable, at the price of one more pass over the array. Otherwise it is 1, and squares may
    under- or overflow: ``suspect`` tells.
    """
    x = x.astype(at_least_float32(x.dtype))
    one = jnp.ones((), x.dtype)
    if not careful:
        return _in_two_stages(jnp.square(x)), one
    largest = jnp.max(jnp.abs(x), initial=0.0)
    # XLA multiplies by the reciprocal, which must neither be flushed to zero nor be infinite: what
    # is less than the smallest normal number counts as zero, as it does wherever XLA computes.
    tiny = float(jnp.finfo(x.dtype).tiny)
    most = jnp.minimum(largest, 0.25 / tiny)
    divisor = jnp.where((largest >= tiny) & jnp.isfinite(largest), most, one)
    return _in_two_stages(jnp.square(x / divisor)), divisor


def lanes(x: jax.Array) -> jax.Array:
    """Return sums of squares, of which the total is the rest: one pass, and few terms in each."""
    x = x.astype(at_least_float32(x.dtype))
    leading = x.ndim
    while leading and math.prod(x.shape[leading:]) < _FEWEST_LANES:
        leading -= 1
    squares = jax.lax.integer_pow(x, 2)
    return jax.lax.reduce_sum(squares, range(leading)) if leading else squares


def _in_two_stages(x: jax.Array) -> jax.Array:
    """Sum lanes, then their totals: a single sum loses digits and vectorises badly."""
    flat = x.reshape(-1)
    split = x.size // _LANES * _LANES
    total = jnp.sum(jnp.sum(flat[:split].reshape(-1, _LANES), axis=0))
    return total if split == x.size else total + jnp.sum(flat[split:])


def power_of_two(squares: jax.Array, divisor: jax.Array, size: int) -> jax.Array:
    """Return the whole power of two next below a root mean square, read from its bits; 0 of zeros.

    Nothing is taken out of zeros: several such factors in a row, multiplied by XLA first, leave the
    dtype, and zero times infinity is NaN.
    """
    rms = divisor * jnp.sqrt(squares / max(size, 1))
    info = jnp.finfo(rms.dtype)
    integer = {32: jnp.int32, 64: jnp.int64}[info.bits]
    biased = jax.lax.bitcast_convert_type(rms, integer) >> info.nmant
    power = (biased - (info.maxexp - 1)).astype(rms.dtype)
    return jnp.where(rms == 0, jnp.zeros_like(power), power)
