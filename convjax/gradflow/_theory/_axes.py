"""Which input places each output place of a sliding window reads, axis by axis, tap by tap."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Taps = np.ndarray
"""(taps, out, in): 1 where that tap of that output reads that input, 0 elsewhere."""


class Window(NamedTuple):
    """A window over an image: one array of taps for each spatial axis.

    Attributes:
      axes: the taps of every axis.
    """

    axes: tuple[Taps, ...]

    @property
    def output(self) -> tuple[int, ...]:
        """Spatial shape of what comes out."""
        return tuple(taps.shape[1] for taps in self.axes)

    @property
    def size(self) -> int:
        """Taps in all."""
        return math.prod(len(taps) for taps in self.axes)

    @property
    def taps(self) -> float:
        """Taps that count: fewer than ``size`` where some read padding at many places.

        A tap that reads inside the image at m places weighs by m: (sum of m)^2 / sum of m^2.
        """
        counts = [taps.sum((1, 2)) for taps in self.axes]
        parts = (float(c.sum() ** 2 / (c**2).sum()) if c.any() else 1.0 for c in counts)
        return math.prod(parts, start=1.0)

    def gather(self, energy: np.ndarray) -> np.ndarray:
        """Sum a map ``(segments, *spatial)`` over each output's taps."""
        return along(energy, [taps.sum(0) for taps in self.axes])

    def scatter(self, energy: np.ndarray) -> np.ndarray:
        """Transpose of ``gather``: sum over the outputs that read each input."""
        return along(energy, [taps.sum(0).T for taps in self.axes])

    def reads(self, place: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the input place of every tap of one output; -1 where it reads padding."""
        per_axis = [
            [int(np.argmax(tap[o])) if tap[o].any() else -1 for tap in taps]
            for taps, o in zip(self.axes, place, strict=True)
        ]
        found: list[tuple[int, ...]] = [()]
        for places in per_axis:
            found = [(*head, p) for head in found for p in places]
        return found


def along(values: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Apply a matrix ``(out, in)`` to every spatial axis of a map ``(segments, *spatial)``."""
    for axis, matrix in enumerate(matrices, start=1):
        values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    return values


def convolution(
    image: Sequence[int],
    window: int | Sequence[int],
    *,
    strides: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    centre_only: bool = False,
) -> Window:
    """Return the taps of a convolution, or of a pool.

    Args:
      image: spatial shape of the input.
      window: taps along each axis.
      strides: as in ``ops.conv``.
      padding: as in ``ops.conv``.
      dilation: steps between taps.
      centre_only: whether all taps but the middle one are zero (delta-orthogonal kernels).

    Raises:
      ValueError: a window that fits nowhere into the image.
    """
    rank = len(image)
    pads = _per_axis_padding(padding, rank)
    axes = [
        _taps(n, k, s, pad, d)
        for n, k, s, pad, d in zip(
            image,
            _spread(window, rank),
            _spread(strides, rank),
            pads,
            _spread(dilation, rank),
            strict=True,
        )
    ]
    if centre_only:
        axes = [taps[len(taps) // 2 : len(taps) // 2 + 1] for taps in axes]
    found = Window(tuple(axes))
    if 0 in found.output:
        raise ValueError(
            f"x is too small: a window of {_spread(window, rank)} fits nowhere into an image of "
            f"{tuple(image)}, to which it is reduced; give a larger one"
        )
    return found


def transposed(
    image: Sequence[int],
    window: Sequence[int],
    *,
    strides: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    extra: Any = 0,
) -> Window:
    """Return the taps of a transposed convolution: those of the convolution that it transposes."""
    rank = len(image)
    axes = [
        _transposed_taps(n, k, *move)
        for n, k, *move in zip(
            image,
            window,
            _spread(strides, rank),
            _per_axis_padding(padding, rank),
            _spread(dilation, rank),
            _spread(extra, rank),
            strict=True,
        )
    ]
    return Window(tuple(axes))


def _spread(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _per_axis_padding(padding: Any, rank: int) -> list[Any]:
    if isinstance(padding, str):
        return [padding] * rank
    entries = (padding,) * rank if isinstance(padding, int) else tuple(padding)
    return [(p, p) if isinstance(p, int) else tuple(p) for p in entries]


@functools.lru_cache(maxsize=512)
def _taps(n: int, k: int, stride: int, padding: str | tuple[int, int], dilation: int) -> Taps:
    extent = dilation * (k - 1) + 1
    low, high, mode = _pads(n, extent, stride, padding)
    source = np.pad(np.arange(n), (low, high), mode=mode, **_fill(mode))
    out = (n + low + high - extent) // stride + 1
    reads = source[np.arange(out) * stride + dilation * np.arange(k)[:, None]]
    return (reads[..., None] == np.arange(n)).astype(float)


def _fill(mode: Any) -> dict[str, int]:
    return {"constant_values": -1} if mode == "constant" else {}


def _pads(n: int, extent: int, stride: int, padding: Any) -> tuple[int, int, Any]:
    if not isinstance(padding, str):
        return (*padding, "constant")
    if padding in ("CIRCULAR", "REFLECT"):
        mode = {"CIRCULAR": "wrap", "REFLECT": "reflect"}[padding]
        return (extent - 1) // 2, extent // 2, mode
    if padding == "VALID":
        return 0, 0, "constant"
    if padding == "CAUSAL":
        return extent - 1, 0, "constant"
    total = max((math.ceil(n / stride) - 1) * stride + extent - n, 0)
    low = total // 2 if padding == "SAME" else total - total // 2
    return low, total - low, "constant"


@functools.lru_cache(maxsize=512)
def _transposed_taps(
    n: int, k: int, stride: int, padding: str | tuple[int, int], dilation: int, extra: int
) -> Taps:
    extent = dilation * (k - 1) + 1
    if not isinstance(padding, str):
        low, high = padding
        out = (n - 1) * stride - low - high + extent + extra
    elif padding == "VALID":
        low, out = 0, n * stride + max(extent - stride, 0)
    else:
        total = max(extent - stride, 0)
        # As in Flax: SAME gives n times the stride, and cuts what VALID has beyond it.
        low = {"CAUSAL": 0, "SAME_LOWER": total - total // 2}.get(padding, total // 2)
        out = n * stride
    taps = np.zeros((k, out, n))
    for tap in range(k):
        place = np.arange(n) * stride + dilation * tap - low
        if padding == "CIRCULAR":
            place %= out
        inside = (place >= 0) & (place < out)
        taps[tap, place[inside], np.arange(n)[inside]] = 1.0
    # Not flipped: the last tap reaches the lowest place.
    return taps[::-1]
