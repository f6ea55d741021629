"""Where the taps of a window fall: the slices that every form but XLA's own is made of."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax.ops._geometry import Geometry

Tap = tuple[int, ...]


def taps(geometry: Geometry) -> list[Tap]:
    """Return the indices of the window, in the kernel's order."""
    return list(np.ndindex(*geometry.window))


def pad(x: jax.Array, geometry: Geometry) -> jax.Array:
    """Return the image with its zeros around it."""
    return pad_spatial(x, geometry.pads)


def pad_spatial(x: jax.Array, pads) -> jax.Array:
    """Add zeros around the spatial axes, or cut off where a number is negative."""
    config = [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)]
    return lax.pad(x, np.zeros((), x.dtype), config)


def under(padded: jax.Array, tap: Tap, geometry: Geometry) -> jax.Array:
    """Return what the padded image has under one tap at every position of the window."""
    starts = [t * d for t, d in zip(tap, geometry.dilation, strict=True)]
    ends = [
        start + (n - 1) * s + 1
        for start, n, s in zip(starts, geometry.out_spatial, geometry.strides, strict=True)
    ]
    batch, *_, features = padded.shape
    return lax.slice(padded, (0, *starts, 0), (batch, *ends, features), (1, *geometry.strides, 1))


def zeros(shape: tuple[int, ...], dtype: jnp.dtype, like: jax.Array) -> jax.Array:
    """Return zeros that may vary along the axes of a ``shard_map`` that an array varies along.

    Else they could not be the carry of a loop that adds the array up.
    """
    axes = tuple(jax.typeof(like).manual_axis_type.varying)
    empty = jnp.zeros(shape, dtype)
    return lax.pcast(empty, axes, to="varying") if axes else empty


def total(terms: Iterator[jax.Array]) -> jax.Array:
    """Add up at least one term, first to last."""
    result = next(terms)
    for term in terms:
        result = result + term
    return result


def reversed_call(kernel: jax.Array, geometry: Geometry) -> tuple[jax.Array, Geometry]:
    """Return the convolution of the cotangent, of stride 1, that an ungrouped input gradient is."""
    flipped = jnp.swapaxes(jnp.flip(kernel, range(geometry.rank)), -1, -2)
    pads = tuple(
        (e - 1 - low, e - 1 - high)
        for e, (low, high) in zip(geometry.extents, geometry.pads, strict=True)
    )
    return flipped, dataclasses.replace(
        geometry,
        spatial=geometry.out_spatial,
        pads=pads,
        in_features=geometry.out_features,
        out_features=geometry.in_features,
    )


def spread(
    g: jax.Array, geometry: Geometry, times: Callable[[jax.Array, Tap], jax.Array]
) -> jax.Array:
    """Return the image whose element s q + r - low is the sum of times(g[q - (d t - r) / s], t).

    The sum runs over the taps t for which d t - r is a multiple of the stride s. The residues r are
    computed apart and then interleaved, so that no product with a zero between strides is formed.
    """
    axes = [
        _Axis(n, low, o, s, d, k)
        for n, (low, _), o, s, d, k in zip(
            geometry.spatial,
            geometry.pads,
            geometry.out_spatial,
            geometry.strides,
            geometry.dilation,
            geometry.window,
            strict=True,
        )
    ]
    padded = pad_spatial(g, [axis.margins for axis in axes])
    batch, features = g.shape[0], g.shape[-1]

    def residue(r: Tap) -> jax.Array | None:
        choices = [axis.taps(i) for axis, i in zip(axes, r, strict=True)]
        terms = []
        for choice in itertools.product(*choices):
            starts = [start for _, start in choice]
            ends = [start + axis.length for start, axis in zip(starts, axes, strict=True)]
            part = lax.slice(padded, (0, *starts, 0), (batch, *ends, features))
            terms.append(times(part, tuple(tap for tap, _ in choice)))
        return total(iter(terms)) if terms else None

    parts = {r: residue(r) for r in np.ndindex(*geometry.strides)}
    some = next(part for part in parts.values() if part is not None)
    full = {r: jnp.zeros_like(some) if part is None else part for r, part in parts.items()}
    return put_together(full, geometry)


def put_together(parts: dict[Tap, jax.Array], geometry: Geometry) -> jax.Array:
    """Return the image whose element s q + r - low is element q of the part r."""
    x = _interleave(parts, geometry.strides)
    batch = x.shape[0]
    starts = [low for low, _ in geometry.pads]
    ends = [low + n for low, n in zip(starts, geometry.spatial, strict=True)]
    return lax.slice(x, (0, *starts, 0), (batch, *ends, x.shape[-1]))


class _Axis:
    """One axis of an input gradient: which taps reach a residue, and where in the padded g."""

    def __init__(self, n: int, low: int, outputs: int, stride: int, dilation: int, window: int):
        self.stride, self.dilation, self.window = stride, dilation, window
        self.length = math.ceil((n + low) / stride)
        self._before = dilation * (window - 1) // stride
        self.margins = (self._before, max(self.length - outputs, 0))

    def taps(self, residue: int) -> list[tuple[int, int]]:
        """Return (tap, start of its slice in the padded cotangent)."""
        reach = [(t, self.dilation * t - residue) for t in range(self.window)]
        return [
            (t, self._before - offset // self.stride)
            for t, offset in reach
            if offset % self.stride == 0
        ]


def _interleave(parts: dict[Tap, jax.Array], strides: tuple[int, ...]) -> jax.Array:
    """Put the residues of every axis next to one another, last axis first."""
    for axis in reversed(range(len(strides))):
        step = strides[axis]
        heads = {r[:axis] for r in parts}
        joined = {}
        for head in sorted(heads):
            pieces = [parts[*head, r] for r in range(step)]
            first = pieces[0]
            shape = list(first.shape)
            shape[1 + axis] *= step
            stack = first if step == 1 else jnp.stack(pieces, 2 + axis)
            joined[head] = stack.reshape(shape)
        parts = joined
    return parts[()]
