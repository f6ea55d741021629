"""Depthwise convolution by shifted multiply-adds.

XLA's CPU backend makes one vectorised loop over positions and channels of all the taps' products;
its own grouped convolution is a scalar loop, ten to a hundred times slower.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax.ops import _shapes
from convjax.ops._forms import _windows
from convjax.ops._geometry import Geometry

SERVES = "a depthwise convolution with a window of at most 64 taps"
_MOST_TAPS = 64
# Half of a first-level cache: what one step of the kernel gradient reads stays there for all taps.
_BLOCK_BYTES = 24 * 1024
_BLOCK_ROWS = 7


def serves(geometry: Geometry) -> bool:
    """Whether the geometry is depthwise and its window not too large to write out tap by tap."""
    depthwise = geometry.groups == geometry.in_features
    return depthwise and math.prod(geometry.window) <= _MOST_TAPS


def forward(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Sum, over the taps, of the shifted image times the tap's row of the kernel."""
    padded = _windows.pad(_repeat(x, geometry), geometry)
    wide = _shapes.at_least_float32(x.dtype)
    y = _windows.total(
        _windows.under(padded, tap, geometry).astype(wide) * _row(kernel, tap, wide)
        for tap in _windows.taps(geometry)
    )
    return y.astype(x.dtype)


def input_gradient(g: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The same sum over the cotangent, taps in reverse."""
    wide = _shapes.at_least_float32(g.dtype)
    x = _windows.spread(g, geometry, lambda part, tap: part.astype(wide) * _row(kernel, tap, wide))
    if geometry.multiplier > 1:
        x = x.reshape(*x.shape[:-1], geometry.in_features, geometry.multiplier).sum(-1)
    return x.astype(g.dtype)


def kernel_gradient(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
    """For each tap, the sum over positions of the shifted image times the cotangent."""
    wide = _shapes.at_least_float32(x.dtype)
    padded = _windows.pad(_repeat(x, geometry), geometry)
    rows = _as_planes(padded, g, geometry)
    gradient = jnp.concatenate(
        [_plane_gradient(image, cotangent, geometry, wide) for image, cotangent in rows]
    )
    return gradient.reshape(geometry.kernel_shape).astype(x.dtype)


def _repeat(x: jax.Array, geometry: Geometry) -> jax.Array:
    """Give every output channel an input channel of its own."""
    return jnp.repeat(x, geometry.multiplier, -1) if geometry.multiplier > 1 else x


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


def _plane_gradient(
    image: jax.Array, g: jax.Array, geometry: Geometry, dtype: jnp.dtype
) -> jax.Array:
    """Return the kernel's gradient, (taps, features), by a loop over blocks of rows and columns.

    Every step adds, for each tap, the products of a block; the block's rows are added up first, so
    that the running sums are touched once a step.
    """
    window, strides, dilation = (
        ((1,) * 2 + a)[-2:] for a in (geometry.window, geometry.strides, geometry.dilation)
    )
    batch, height, width, features = g.shape
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, window, strict=True)]
    rows, row_blocks = _cut(height, max(1, min(_BLOCK_ROWS, 256 // math.prod(window))))
    lines = (rows - 1) * strides[0] + reach[0] + rows
    fits = _BLOCK_BYTES // (4 * features * lines) - reach[1] + 1
    columns, column_blocks = _cut(width, max(1, fits))
    tall, broad = rows * row_blocks, columns * column_blocks
    g = _windows.pad_spatial(g, ((0, tall - height), (0, broad - width)))
    need = [(n - 1) * s + e for n, s, e in zip((tall, broad), strides, reach, strict=True)]
    image = _windows.pad_spatial(
        image, [(0, n - size) for n, size in zip(need, image.shape[1:3], strict=True)]
    )
    size = [(n - 1) * s + e for n, s, e in zip((rows, columns), strides, reach, strict=True)]

    def step(sums, index):
        example, block = index // (row_blocks * column_blocks), index % (row_blocks * column_blocks)
        row, column = block // column_blocks * rows, block % column_blocks * columns
        under = lax.dynamic_slice(
            image,
            (example, row * strides[0], column * strides[1], 0),
            (1, *size, features),
        )[0].astype(dtype)
        cotangent = lax.dynamic_slice(g, (example, row, column, 0), (1, rows, columns, features))[
            0
        ].astype(dtype)
        return tuple(
            a + _block_sum(under, cotangent, start, strides)
            for a, start in zip(sums, starts, strict=True)
        ), None

    starts = [
        tuple(t * d for t, d in zip(tap, dilation, strict=True)) for tap in np.ndindex(*window)
    ]
    zeros = tuple(jnp.zeros((columns, features), dtype) for _ in starts)
    sums, _ = lax.scan(step, zeros, jnp.arange(batch * row_blocks * column_blocks))
    return jnp.stack([a.sum(0) for a in sums])


def _cut(n: int, most: int) -> tuple[int, int]:
    """Return (size, count) of equal blocks of at most `most` that hold n."""
    count = math.ceil(n / most)
    return math.ceil(n / count), count


def _block_sum(
    under: jax.Array, g: jax.Array, start: tuple[int, ...], strides: tuple[int, ...]
) -> jax.Array:
    """Return the sum over the block's rows of the shifted image times the cotangent."""
    rows, columns, features = g.shape
    across = (start[1], start[1] + (columns - 1) * strides[1] + 1)

    def line(row: int) -> jax.Array:
        at = start[0] + row * strides[0]
        part = lax.slice(
            under, (at, across[0], 0), (at + 1, across[1], features), (1, strides[1], 1)
        )
        return part[0] * g[row]

    return _windows.total(line(row) for row in range(rows))
