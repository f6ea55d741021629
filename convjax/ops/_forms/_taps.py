"""Dense convolution by one matrix product for each tap of the window.

For images of a few positions and many channels, where a convolution is little but reading its
kernel, and for the input gradient of a strided convolution, which a convolution of the spread-out
cotangent would fill with zeros.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax.ops import _shapes
from convjax.ops._forms import _windows
from convjax.ops._geometry import Geometry

SERVES = "an ungrouped convolution with a window of at most 64 taps"
_MOST_TAPS = 64


def serves(geometry: Geometry) -> bool:
    """Whether the convolution is ungrouped and its window not too large to write out."""
    return geometry.groups == 1 and math.prod(geometry.window) <= _MOST_TAPS


def forward(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Sum, over the taps, of the shifted image times the tap's matrix.

    In a loop, or copies of the image and the matrix for all taps would be held at once.
    """
    padded = _windows.pad(x, geometry)
    size = [(n - 1) * s + 1 for n, s in zip(geometry.out_spatial, geometry.strides, strict=True)]
    batch, *_, features = x.shape

    def add(y: jax.Array, tap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        start, matrix = tap
        part = lax.dynamic_slice(padded, (0, *start, 0), (batch, *size, features))
        part = lax.slice(part, (0,) * part.ndim, part.shape, (1, *geometry.strides, 1))
        return y + _dot(part, matrix, 0, geometry), None

    starts = np.array(_windows.taps(geometry)) * np.array(geometry.dilation)
    matrices = kernel.reshape(len(starts), *kernel.shape[-2:])
    shape = (batch, *geometry.out_spatial, geometry.out_features)
    zeros = _windows.zeros(shape, _shapes.at_least_float32(x.dtype), x)
    y, _ = lax.scan(add, zeros, (jnp.asarray(starts), matrices))
    return y.astype(x.dtype)


def input_gradient(g: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The same over the cotangent, by the transposed matrices."""
    if geometry.strides == (1,) * geometry.rank:
        return forward(g, *_windows.reversed_call(kernel, geometry))
    x = _windows.spread(g, geometry, lambda part, tap: _dot(part, kernel[tap], 1, geometry))
    return x.astype(g.dtype)


def kernel_gradient(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
    """For each tap, the product of the transposed shifted image and the cotangent."""
    padded = _windows.pad(x, geometry)
    axes = tuple(range(g.ndim - 1))
    products = [
        lax.dot_general(
            _windows.under(padded, tap, geometry),
            g,
            ((axes, axes), ((), ())),
            precision=geometry.precision,
        )
        for tap in _windows.taps(geometry)
    ]
    return jnp.stack(products).reshape(geometry.kernel_shape)


def _dot(a: jax.Array, matrix: jax.Array, axis: int, geometry: Geometry) -> jax.Array:
    """Contract the last axis of an array with the given axis of a matrix."""
    return lax.dot_general(
        a,
        matrix,
        (((a.ndim - 1,), (axis,)), ((), ())),
        precision=geometry.precision,
        preferred_element_type=_shapes.at_least_float32(a.dtype),
    )
