"""Dense convolution by one matrix product for each tap of the window.

For images of a few positions and many channels, where a convolution is little but reading its
kernel, and for the input gradient of a strided convolution, which a convolution of the spread-out
cotangent would fill with zeros.
"""

import math

import jax
import jax.numpy as jnp
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
    """Sum, over the taps, of the shifted image times the tap's matrix."""
    padded = _windows.pad(x, geometry)
    times = _InTurn(kernel, 0, geometry)
    y = _windows.total(
        times(_windows.under(padded, tap, geometry), tap) for tap in _windows.taps(geometry)
    )
    return y.astype(x.dtype)


def input_gradient(g: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The same over the cotangent, by the transposed matrices."""
    return _windows.spread(g, geometry, _InTurn(kernel, 1, geometry)).astype(g.dtype)


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


class _InTurn:
    """Multiplies by one tap's matrix after the other: else copies of all are held at once."""

    def __init__(self, kernel: jax.Array, axis: int, geometry: Geometry):
        self.kernel, self.axis, self.geometry = kernel, axis, geometry
        self.last: jax.Array | None = None

    def __call__(self, a: jax.Array, tap: tuple[int, ...]) -> jax.Array:
        """Contract the last axis of an array with the given axis of a tap's matrix."""
        if self.last is not None:
            a, self.kernel, _ = lax.optimization_barrier((a, self.kernel, self.last))
        self.last = lax.dot_general(
            a,
            self.kernel[tap],
            (((a.ndim - 1,), (self.axis,)), ((), ())),
            precision=self.geometry.precision,
            preferred_element_type=_shapes.at_least_float32(a.dtype),
        )
        return self.last
