"""Convolutions whose windows do not overlap, as one matrix product: 1x1, and patches.

Where the stride is at least the window's extent, every element of the image is under at most one
window, and cutting the image into windows is a reshape.
"""

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
    return _dot(_cut(x, geometry), kernel, geometry.rank + 1, geometry)


def input_gradient(g: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Multiply the cotangent by the kernel's transpose, and put the windows back."""
    contract = (((g.ndim - 1,), (kernel.ndim - 1,)), ((), ()))
    windows = lax.dot_general(g, kernel, contract, precision=geometry.precision)
    return _put_back(windows, geometry)


def kernel_gradient(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
    """Multiply the transposed windows by the cotangent."""
    axes = tuple(range(geometry.rank + 1))
    contract = ((axes, axes), ((), ()))
    return lax.dot_general(_cut(x, geometry), g, contract, precision=geometry.precision)


def _dot(windows: jax.Array, kernel: jax.Array, first: int, geometry: Geometry) -> jax.Array:
    """Contract the axes of `windows` from `first` on with all of the kernel's but the last."""
    left = tuple(range(first, windows.ndim))
    contract = ((left, tuple(range(kernel.ndim - 1))), ((), ()))
    return lax.dot_general(windows, kernel, contract, precision=geometry.precision)


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
