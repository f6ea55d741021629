"""Convolutions whose windows do not overlap, as one matrix product: 1x1, and patches.

Where the stride is at least the window's extent, every element of the image is under at most one
window, and cutting the image into windows is a reshape.
"""

import math

import jax
import numpy as np
from jax import lax

from convjax.ops._forms import _windows
from convjax.ops._geometry import Geometry

SERVES = "an ungrouped convolution whose stride is at least its window's extent, along every axis"


def serves(geometry: Geometry) -> bool:
    """Whether no two windows of an ungrouped convolution overlap."""
    apart = all(s >= e for s, e in zip(geometry.strides, geometry.extents, strict=True))
    return geometry.groups == 1 and apart


def forward(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Multiply the image, cut into windows, by the kernel."""
    return _dot(rows(x, geometry), _matrix(kernel), ((geometry.rank + 1,), (0,)), geometry)


def input_gradient(g: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Multiply the cotangent by the kernel's transpose, and put the windows back."""
    products = _dot(g, _matrix(kernel), ((geometry.rank + 1,), (1,)), geometry)
    return _put_back(products.reshape(*g.shape[:-1], *kernel.shape[:-1]), geometry)


def kernel_gradient(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
    """Multiply the transposed windows by the cotangent."""
    axes = tuple(range(geometry.rank + 1))
    return _dot(rows(x, geometry), g, (axes, axes), geometry).reshape(geometry.kernel_shape)


def _matrix(kernel: jax.Array) -> jax.Array:
    return kernel.reshape(math.prod(kernel.shape[:-1]), kernel.shape[-1])


def rows(x: jax.Array, geometry: Geometry) -> jax.Array:
    """Return (batch, *out_spatial, window * features)."""
    windows = _cut(x, geometry)
    size = math.prod(windows.shape[geometry.rank + 1 :])
    return windows.reshape(*windows.shape[: geometry.rank + 1], size)


def _dot(a: jax.Array, b: jax.Array, axes: tuple, geometry: Geometry) -> jax.Array:
    return lax.dot_general(a, b, (axes, ((), ())), precision=geometry.precision)


def _cut(x: jax.Array, geometry: Geometry) -> jax.Array:
    """Return (batch, *out_spatial, *window, features)."""
    sizes = [o * s for o, s in zip(geometry.out_spatial, geometry.strides, strict=True)]
    pads = [
        (low, size - n - low)
        for size, n, (low, _) in zip(sizes, geometry.spatial, geometry.pads, strict=True)
    ]
    x = _windows.pad_spatial(x, pads)
    split = [n for pair in zip(geometry.out_spatial, geometry.strides, strict=True) for n in pair]
    x = x.reshape(x.shape[0], *split, x.shape[-1])
    for axis, (e, d) in enumerate(zip(geometry.extents, geometry.dilation, strict=True)):
        x = lax.slice_in_dim(x, 0, e, d, axis=2 + 2 * axis)
    outer = range(1, 1 + 2 * geometry.rank, 2)
    return x.transpose(0, *outer, *(axis + 1 for axis in outer), x.ndim - 1)


def _put_back(windows: jax.Array, geometry: Geometry) -> jax.Array:
    """Undo `_cut`, with zeros where no window reaches."""
    rank = geometry.rank
    order = [axis for i in range(1, 1 + rank) for axis in (i, i + rank)]
    x = windows.transpose(0, *order, windows.ndim - 1)
    config = [(0, 0, 0)]
    for s, e, d in zip(geometry.strides, geometry.extents, geometry.dilation, strict=True):
        config += [(0, 0, 0), (0, s - e, d - 1)]
    x = lax.pad(x, np.zeros((), x.dtype), [*config, (0, 0, 0)])
    sizes = [o * s for o, s in zip(geometry.out_spatial, geometry.strides, strict=True)]
    x = x.reshape(x.shape[0], *sizes, x.shape[-1])
    return _windows.pad_spatial(
        x,
        [
            (-low, n + low - size)
            for size, n, (low, _) in zip(sizes, geometry.spatial, geometry.pads, strict=True)
        ],
    )
