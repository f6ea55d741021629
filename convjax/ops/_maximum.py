"""The maximum of windows along one axis, of which the first of equal elements has the derivative.

Every step takes the larger of two maxima, the earlier where they are equal. So the order of the
elements is kept, and windows may overlap: an element that is seen twice was the first both times.
On CPU, XLA's own windowed maximum takes three to twelve times as long for the same derivative.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

# More taps are taken in a number of steps that is logarithmic: a step for each is quicker to run
# where there are few, and slow to compile where there are many.
FEW = 5


def windowed_maximum(x: jax.Array, axis: int, taps: int, stride: int, size: int) -> jax.Array:
    """Return the maxima of ``size`` windows of so many taps, ``stride`` apart, along an axis."""
    if taps <= FEW:
        last = (size - 1) * stride + 1
        shifted = (lax.slice_in_dim(x, t, t + last, stride, axis) for t in range(taps))
        return functools.reduce(_earlier_maximum, shifted)
    if taps >= 2 * stride:
        # Two windows of the smaller kind, so many strides apart, cover one of the larger.
        apart = taps // (2 * stride)
        smaller = windowed_maximum(x, axis, taps - apart * stride, stride, size + apart)
        return _earlier_maximum(
            lax.slice_in_dim(smaller, 0, size, axis=axis),
            lax.slice_in_dim(smaller, apart, apart + size, axis=axis),
        )
    own = _block_maximum(x, axis, min(taps, stride), stride, size)
    if taps <= stride:
        return own
    beyond = lax.slice_in_dim(x, stride, x.shape[axis], axis=axis)
    return _earlier_maximum(own, windowed_maximum(beyond, axis, taps - stride, stride, size))


def _block_maximum(x: jax.Array, axis: int, taps: int, stride: int, size: int) -> jax.Array:
    """Return the maxima of windows that do not overlap, by halving each of them."""
    missing = max(size * stride - x.shape[axis], 0)  # beyond the last window
    x = lax.slice_in_dim(x, 0, min(size * stride, x.shape[axis]), axis=axis)
    pads = [(0, missing if a == axis else 0, 0) for a in range(x.ndim)]
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    x = x.reshape(*x.shape[:axis], size, stride, *x.shape[axis + 1 :])
    inner = axis + 1
    x = lax.slice_in_dim(x, 0, taps, axis=inner)
    while (count := x.shape[inner]) > 1:
        even = count - count % 2
        pairs = _earlier_maximum(
            lax.slice_in_dim(x, 0, even, 2, inner), lax.slice_in_dim(x, 1, even, 2, inner)
        )
        alone = [lax.slice_in_dim(x, even, count, axis=inner)] if count % 2 else []
        x = lax.concatenate([pairs, *alone], inner)
    return lax.squeeze(x, (inner,))


def _earlier_maximum(a: jax.Array, b: jax.Array) -> jax.Array:
    # Not jnp.maximum: that splits the derivative of a tie in halves.
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
