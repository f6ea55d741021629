"""The kernel gradient of a depthwise convolution in two dimensions, by shifted products.

For each tap, the sum over all positions of the shifted image times the cotangent. As a reduction
XLA's CPU backend makes scalar code of it; as sums of shifted rows, written out, vector code.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax.ops._forms import _windows
from convjax.ops._geometry import Geometry

# What one step of the loop reads: it stays in the first-level cache for all taps.
_BLOCK_BYTES = 24 * 1024
_BLOCK_ROWS = 7
_MOST_TERMS = 256
# Since JAX 0.11 XLA compiles a small loop to one function. Before, every step costs so much that
# the sums are better formed without a loop.
_LOOPS_ARE_CHEAP = jax.__version_info__ >= (0, 11)


def kernel_gradient(
    image: jax.Array, g: jax.Array, geometry: Geometry, dtype: jnp.dtype
) -> jax.Array:
    """Return the gradient, (taps of the last two axes, features).

    Args:
        image: padded, shape (batch, height, width, features).
        g: cotangent, shape (batch, out_height, out_width, features).
        geometry: of one to three axes, of which the last two count.
        dtype: of the sums.
    """
    window, (down, right), dilation = (
        (1, 1, *sizes)[-2:] for sizes in (geometry.window, geometry.strides, geometry.dilation)
    )
    starts = [(i * dilation[0], j * dilation[1]) for i, j in np.ndindex(*window)]
    plane = _Plane(starts, (down, right))
    rows, count = _cut(g.shape[1], max(1, min(_BLOCK_ROWS, _MOST_TERMS // len(starts))))
    by = _by_blocks if _LOOPS_ARE_CHEAP else _by_rows
    return by(image, g, plane, rows, count, dtype)


@dataclasses.dataclass(frozen=True)
class _Plane:
    """Where the taps begin, and the step of the window, on two axes."""

    starts: list[tuple[int, int]]
    strides: tuple[int, int]

    def under(self, outputs: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the image under so many positions of the window."""
        (rows, columns), (down, right), (low, left) = outputs, self.strides, self.starts[-1]
        return (rows - 1) * down + low + 1, (columns - 1) * right + left + 1

    def fit(
        self, image: jax.Array, g: jax.Array, outputs: tuple[int, int]
    ) -> tuple[jax.Array, jax.Array]:
        """Pad the cotangent with zeros to a size, and cut or pad the image to what is under it."""
        more = [(0, n - size) for n, size in zip(outputs, g.shape[1:3], strict=True)]
        need = [
            (0, n - size) for n, size in zip(self.under(outputs), image.shape[1:3], strict=True)
        ]
        return _windows.pad_spatial(image, need), _windows.pad_spatial(g, more)


def _cut(n: int, most: int) -> tuple[int, int]:
    """Return (size, count) of equal blocks of at most `most` that hold n."""
    count = math.ceil(n / most)
    return math.ceil(n / count), count


def _by_blocks(
    image: jax.Array, g: jax.Array, plane: _Plane, rows: int, tall: int, dtype: jnp.dtype
) -> jax.Array:
    """Loop over blocks of rows and columns; add up a block's rows before its running sums."""
    batch, _, width, features = g.shape
    height, reach = plane.under((rows, 1))
    columns, broad = _cut(
        width, max(1, _BLOCK_BYTES // (4 * features * (height + rows)) - reach + 1)
    )
    image, g = plane.fit(image, g, (rows * tall, columns * broad))
    size = plane.under((rows, columns))
    down, right = plane.strides

    def step(sums, index):
        example, row, column = index // (tall * broad), index // broad % tall, index % broad
        at = (example, row * rows * down, column * columns * right, 0)
        under = lax.dynamic_slice(image, at, (1, *size, features))[0].astype(dtype)
        at = (example, row * rows, column * columns, 0)
        cotangent = lax.dynamic_slice(g, at, (1, rows, columns, features))[0].astype(dtype)
        return tuple(
            total + _block_sum(under, cotangent, start, plane.strides)
            for total, start in zip(sums, plane.starts, strict=True)
        ), None

    zeros = tuple(_windows.zeros((columns, features), dtype, g) for _ in plane.starts)
    sums, _ = lax.scan(step, zeros, jnp.arange(batch * tall * broad))
    return jnp.stack([total.sum(0) for total in sums])


def _block_sum(
    under: jax.Array, g: jax.Array, start: tuple[int, int], strides: tuple[int, int]
) -> jax.Array:
    """Return the sum over the block's rows of the shifted image times the cotangent."""
    rows, columns, features = g.shape
    left, right = start[1], start[1] + (columns - 1) * strides[1] + 1

    def line(row: int) -> jax.Array:
        at = start[0] + row * strides[0]
        part = lax.slice(under, (at, left, 0), (at + 1, right, features), (1, strides[1], 1))
        return part[0] * g[row]

    return _windows.total(line(row) for row in range(rows))


def _by_rows(
    image: jax.Array, g: jax.Array, plane: _Plane, rows: int, tall: int, dtype: jnp.dtype
) -> jax.Array:
    """Add up the rows of all blocks at once, then the columns, then the blocks.

    One row of taps after the other, so that the sums of few taps are held at once.
    """
    batch, _, width, features = g.shape
    image, g = plane.fit(image, g, (rows * tall, width))
    down, right = plane.strides
    height = (rows * tall - 1) * down + 1

    def tap(slab: jax.Array, left: int) -> jax.Array:
        def line(row: int) -> jax.Array:
            last = (
                batch,
                row * down + (tall - 1) * rows * down + 1,
                left + (width - 1) * right + 1,
                features,
            )
            part = lax.slice(slab, (0, row * down, left, 0), last, (1, rows * down, right, 1))
            cotangent = lax.slice_in_dim(g, row, row + (tall - 1) * rows + 1, rows, axis=1)
            return part.astype(dtype) * cotangent.astype(dtype)

        # Else the products are formed inside the reduction, which then is scalar code, and the
        # sums are merged to one, which is long enough to lose a digit.
        sums = lax.optimization_barrier(_windows.total(line(row) for row in range(rows)))
        return lax.optimization_barrier(sums.sum(2)).sum((0, 1))

    def row_of_taps(top: jax.Array) -> jax.Array:
        slab = lax.dynamic_slice(image, (0, top, 0, 0), (batch, height, image.shape[2], features))
        return jnp.stack([tap(slab, left) for left in lefts])

    tops = sorted({top for top, _ in plane.starts})
    lefts = sorted({left for _, left in plane.starts})
    return lax.map(row_of_taps, jnp.asarray(tops)).reshape(len(plane.starts), features)
