r"""Convolution with three taps along one axis by six products for four outputs, where twelve stand.

Along the last axis that has a window of 3, four outputs of a correlation with three taps are

$$y = A^T [(G w) \odot (B^T x)]$$

of six inputs x: one product of channels for each of six values, in place of three for each of four
outputs. The matrices evaluate and interpolate at 0, 3/4, -3/4, 3/2, -3/2 and infinity; with these
points the rounding error's root mean square is two to three times that of the direct sum (with the
usual 0, 1, -1, 2, -2 it is three to four times).

The kernel gradient is left to the other forms: six products in place of twelve do not outweigh its
transforms, which are of both operands.

Reference: Winograd 1980, "Arithmetic complexity of computations"; Lavin and Gray 2016, "Fast
algorithms for convolutional neural networks"; the choice of points: Barabasz et al. 2020, "Error
analysis and improving the accuracy of Winograd convolution for deep neural networks".
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax.ops import _precision, _shapes
from convjax.ops._forms import _lax, _product, _windows
from convjax.ops._geometry import Geometry

SERVES = (
    "an ungrouped convolution with stride and dilation 1 and three taps along some axis, at the "
    "backend's default precision"
)

TILE = 4  # outputs
INPUTS_T = np.array(  # B^T
    [
        [81 / 64, 0, -45 / 16, 0, 1, 0],
        [0, -27 / 16, -9 / 4, 3 / 4, 1, 0],
        [0, 27 / 16, -9 / 4, -3 / 4, 1, 0],
        [0, -27 / 32, -9 / 16, 3 / 2, 1, 0],
        [0, 27 / 32, -9 / 16, -3 / 2, 1, 0],
        [0, 81 / 64, 0, -45 / 16, 0, 1],
    ]
)
KERNEL = np.array(  # G
    [
        [64 / 81, 0, 0],
        [-128 / 243, -32 / 81, -8 / 27],
        [-128 / 243, 32 / 81, -8 / 27],
        [32 / 243, 16 / 81, 8 / 27],
        [32 / 243, -16 / 81, 8 / 27],
        [0, 0, 1],
    ]
)
OUTPUTS_T = np.array(  # A^T
    [
        [1, 1, 1, 1, 1, 0],
        [0, 3 / 4, -3 / 4, 3 / 2, -3 / 2, 0],
        [0, 9 / 16, 9 / 16, 9 / 4, 9 / 4, 0],
        [0, 27 / 64, -27 / 64, 27 / 8, -27 / 8, 1],
    ]
)
# Images of about this many bytes are computed together, so that the six values stay in the cache.
_BLOCK_BYTES = 1 << 20


def serves(geometry: Geometry) -> bool:
    """Whether the convolution is dense and ungrouped and has an axis with three taps."""
    ones = (1,) * geometry.rank
    ordinary = geometry.strides == geometry.dilation == ones and geometry.groups == 1
    return ordinary and 3 in geometry.window and geometry.precision == _precision.DEFAULT


def forward(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Transform, convolve along the other axes, transform back: a few images at a time."""
    axis = axis_of(geometry)
    wide = _shapes.at_least_float32(x.dtype)
    taps = [lax.index_in_dim(kernel.astype(wide), t, axis) for t in range(3)]
    kernels = _transform(KERNEL, taps)
    inner = _without(axis, geometry)

    def convolve(images: jax.Array) -> jax.Array:
        values = _transform(INPUTS_T, _tiles(images.astype(wide), axis, geometry))
        form = _product if _product.serves(inner) else _lax
        products = [form.forward(v, k, inner) for v, k in zip(values, kernels, strict=True)]
        outputs = _transform(OUTPUTS_T, products)
        y = jnp.stack(outputs, 2 + axis)
        shape = list(products[0].shape)
        shape[1 + axis] *= TILE
        y = lax.slice_in_dim(y.reshape(shape), 0, geometry.out_spatial[axis], axis=1 + axis)
        return y.astype(x.dtype)

    # Else all that made x would be computed anew for each of the six values.
    x = lax.optimization_barrier(x)
    blocks = _blocks(x)
    if blocks == 1:
        return convolve(x)
    y = lax.map(convolve, x.reshape(blocks, -1, *x.shape[1:]))
    return y.reshape(x.shape[0], *y.shape[2:])


def input_gradient(g: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The same with the kernel flipped and its channels exchanged."""
    return forward(g, *_windows.reversed_call(kernel, geometry))


def axis_of(geometry: Geometry) -> int:
    """Return the spatial axis along which products are saved."""
    return max(axis for axis, k in enumerate(geometry.window) if k == 3)


def _without(axis: int, geometry: Geometry) -> Geometry:
    """The convolution of the transformed values: a window of 1 along the axis of the tiles."""

    def with_one(sizes: tuple, one) -> tuple:
        return tuple(one if i == axis else size for i, size in enumerate(sizes))

    return dataclasses.replace(
        geometry,
        spatial=with_one(geometry.spatial, -(-geometry.out_spatial[axis] // TILE)),
        window=with_one(geometry.window, 1),
        pads=with_one(geometry.pads, (0, 0)),
    )


def _blocks(x: jax.Array) -> int:
    """Into how many equal parts the batch is cut."""
    batch = x.shape[0]
    if not isinstance(batch, int):  # symbolic, in an export
        return 1
    image = math.prod(x.shape[1:]) * x.dtype.itemsize
    most = max(1, _BLOCK_BYTES // max(image, 1))
    return next(
        n for n in range(1, batch + 1) if (batch % n == 0 and batch // n <= most) or n == batch
    )


def _tiles(x: jax.Array, axis: int, geometry: Geometry) -> list[jax.Array]:
    """Return the six inputs of every tile along an axis, which alone is padded."""
    count = -(-geometry.out_spatial[axis] // TILE)
    low, high = geometry.pads[axis]
    pads = [(0, 0)] * geometry.rank
    pads[axis] = (low, high + TILE * count - geometry.out_spatial[axis])
    padded = _windows.pad_spatial(x, pads)
    return [_every(padded, i, count, 1 + axis) for i in range(TILE + 2)]


def _every(a: jax.Array, start: int, count: int, axis: int) -> jax.Array:
    return lax.slice_in_dim(a, start, start + (count - 1) * TILE + 1, TILE, axis)


def _transform(matrix: np.ndarray, arrays: list[jax.Array]) -> list[jax.Array]:
    """Return the matrix's combinations of the arrays, written out without the zeros."""
    return [
        _windows.total(
            a if c == 1 else -a if c == -1 else a * np.asarray(c, a.dtype)
            for c, a in zip(row, arrays, strict=True)
            if c
        )
        for row in matrix
    ]
