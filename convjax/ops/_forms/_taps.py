"""Dense convolution by one matrix product for each tap of the window.

For images of a few positions and many channels, where a convolution is little but reading its
kernel, and for the input gradient of a strided convolution, which a convolution of the spread-out
cotangent would fill with zeros.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from convjax.ops._forms import _windows
from convjax.ops._geometry import Geometry

SERVES = "an ungrouped convolution with a window of at most 64 taps"
_MOST_TAPS = 64


def serves(geometry: Geometry) -> bool:
    """Whether the convolution is ungrouped and its window not too large to write out."""
    return geometry.groups == 1 and math.prod(geometry.window) <= _MOST_TAPS


def forward(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Sum, over the taps, of the shifted image times the tap's matrix."""
    padded = _windows.pad(x, geometry)
    return _windows.total(
        _dot(_windows.under(padded, tap, geometry), kernel[tap], 0, geometry)
        for tap in _windows.taps(geometry)
    )


def input_gradient(g: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The same over the cotangent, by the transposed matrices."""
    return _windows.spread(g, geometry, lambda part, tap: _dot(part, kernel[tap], 1, geometry))


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
    contract = (((a.ndim - 1,), (axis,)), ((), ()))
    return lax.dot_general(a, matrix, contract, precision=geometry.precision)
