"""Depthwise convolution by shifted multiply-adds.

XLA's CPU backend makes one vectorised loop over positions and channels of all the taps' products;
its own grouped convolution is a scalar loop, ten to a hundred times slower.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from convjax.ops import _shapes
from convjax.ops._forms import _plane, _windows
from convjax.ops._geometry import Geometry

SERVES = "a depthwise convolution with a window of at most 64 taps"
_MOST_TAPS = 64


def serves(geometry: Geometry) -> bool:
    """Whether the geometry is depthwise and its window not too large to write out tap by tap."""
    depthwise = geometry.groups == geometry.in_features
    return depthwise and math.prod(geometry.window) <= _MOST_TAPS


def forward(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Sum, over the taps, of the shifted image times the tap's row of the kernel."""
    padded = _windows.pad(x, geometry)
    wide = _shapes.at_least_float32(x.dtype)

    def term(tap: tuple[int, ...]) -> jax.Array:
        under = _windows.under(padded, tap, geometry).astype(wide)
        row = _row(kernel, tap, wide)
        if geometry.multiplier > 1:
            under = under[..., None]
            row = row.reshape(*row.shape[:-1], geometry.in_features, geometry.multiplier)
        return under * row

    y = _windows.total(term(tap) for tap in _windows.taps(geometry))
    return y.reshape(*y.shape[: geometry.rank + 1], geometry.out_features).astype(x.dtype)


def input_gradient(g: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The same sum over the cotangent, taps in reverse."""
    wide, step = _shapes.at_least_float32(g.dtype), geometry.multiplier

    def of(outputs: slice) -> jax.Array:
        rows = kernel[..., outputs]
        return _windows.spread(
            g[..., outputs],
            geometry,
            lambda part, tap: part.astype(wide) * _row(rows, tap, wide),
        )

    x = _windows.total(of(slice(first, None, step)) for first in range(step))
    return x.astype(g.dtype)


def kernel_gradient(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
    """For each tap, the sum over positions of the shifted image times the cotangent."""
    wide = _shapes.at_least_float32(x.dtype)
    # Every output channel gets an input channel of its own.
    x = jnp.repeat(x, geometry.multiplier, -1) if geometry.multiplier > 1 else x
    padded = _windows.pad(x, geometry)
    gradient = jnp.concatenate(
        [
            _plane.kernel_gradient(image, cotangent, geometry, wide)
            for image, cotangent in _as_planes(padded, g, geometry)
        ]
    )
    return gradient.reshape(geometry.kernel_shape).astype(x.dtype)


def _row(kernel: jax.Array, tap: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    row = kernel[tap].astype(dtype)
    return row.reshape((1,) * len(tap) + row.shape)


def _as_planes(padded: jax.Array, g: jax.Array, geometry: Geometry):
    """Return pairs (image, cotangent) of two spatial axes: one for each tap along a first of three.

    A single spatial axis gets a row of height 1.
    """
    if geometry.rank == 1:
        return [(padded[:, None], g[:, None])]
    if geometry.rank == 2:
        return [(padded, g)]
    depth, step, spread = geometry.out_spatial[0], geometry.strides[0], geometry.dilation[0]
    pairs = []
    for tap in range(geometry.window[0]):
        image = lax.slice_in_dim(
            padded, tap * spread, tap * spread + (depth - 1) * step + 1, step, axis=1
        )
        pairs.append((_merge(image), _merge(g)))
    return pairs


def _merge(a: jax.Array) -> jax.Array:
    return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])
