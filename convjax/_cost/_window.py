"""Receptive fields: which places of the network's input one place of a unit's output sees."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """The places along one axis that one output of a leaf reads.

    Output o reads the places from ``stride * o + start`` to ``stride * o + start + size - 1`` of an
    input whose neighbours stand ``upsampling`` apart, with nothing between them.

    Attributes:
      size: from the first place read to the last; a dilated kernel's holes count.
      stride: step between neighbouring outputs.
      start: first place that output 0 reads; padding makes it negative.
      upsampling: 1, but for a transposed convolution its strides.
    """

    size: int = 1
    stride: int = 1
    start: int = 0
    upsampling: int = 1


@dataclasses.dataclass(frozen=True)
class Reach:
    """The first and the last place seen, along one axis, as a function of the output's place.

    Formula: ``first(o) = first[o mod P] + shift * (o // P)`` with P the period, and so for the
    last. Windows, transposed or not, have this form, and what they compose to has it again: a
    transposed convolution sees now more and now fewer places, which a size and a stride alone
    cannot hold.

    Attributes:
      first: shape (units, P); one row for each unit of the repeats around it.
      last: likewise; less than ``first`` where an output sees nothing.
      shift: places by which the field moves in one period.
      beyond: shape (units,); 0, infinity where every place is seen, NaN where nobody knows.
    """

    first: np.ndarray
    last: np.ndarray
    shift: int
    beyond: np.ndarray

    @property
    def period(self) -> int:
        """After how many outputs the pattern begins again."""
        return self.first.shape[-1]

    @property
    def stride(self) -> float:
        """Places between the fields of neighbours; infinity where there are none."""
        if np.isnan(self.beyond).any():
            return math.nan
        return self.shift / self.period if self.shift else math.inf

    @property
    def size(self) -> np.ndarray:
        """The most places that one output sees from first to last, for every unit."""
        return (self.last - self.first + 1).max(axis=-1) + self.beyond

    def then(self, after: "Reach") -> "Reach":
        """Return what is seen through both, ``after`` applied to this one's output.

        Units are combined each with each, this one's outermost.
        """
        rounds = self.period // math.gcd(self.period, after.shift)
        after = after.repeated(rounds)

        def through(of: np.ndarray, places: np.ndarray) -> np.ndarray:
            full, phase = np.divmod(places, self.period)
            seen = of[:, phase] + self.shift * full
            return seen.reshape(-1, after.period)

        beyond = np.maximum(self.beyond[:, None], after.beyond[None, :]).ravel()
        shift = after.shift // self.period * self.shift
        return Reach(
            through(self.first, after.first), through(self.last, after.last), shift, beyond
        )

    def repeated(self, times: int) -> "Reach":
        """Return the same map, its period written out several times."""
        steps = np.repeat(np.arange(times) * self.shift, self.period)
        first, last = (np.tile(a, times) + steps for a in (self.first, self.last))
        return Reach(first, last, self.shift * times, self.beyond)

    def union(self, other: "Reach") -> "Reach":
        """Return what is seen through either: of two fields side by side the larger."""
        period = math.lcm(self.period, other.period)
        a, b = (r.repeated(period // r.period) for r in (self, other))
        beyond = np.maximum(a.beyond, b.beyond)
        if a.shift != b.shift:
            # Only where the image is so small that a stride does not show: one place is left.
            widest = max(a, b, key=lambda r: (r.last - r.first).max())
            return dataclasses.replace(widest, shift=max(a.shift, b.shift), beyond=beyond)
        return Reach(np.minimum(a.first, b.first), np.maximum(a.last, b.last), a.shift, beyond)

    def powers(self, n: int) -> tuple["Reach", "Reach"]:
        """Return what comes before each of n equal units in turn, stacked, and the whole's reach.

        Args:
          n: how many units.
        """
        if self.shift != self.period:
            # A stride that keeps the shape leaves one place, and the first unit has seen it all.
            beyond = np.array([0.0] + [np.inf] * n)
            stacked = Reach(np.zeros((n, 1), int), np.zeros((n, 1), int), 1, beyond[:n])
            return stacked, dataclasses.replace(self, beyond=self.beyond + beyond[min(n - 1, 1)])
        stacked, power = identity().repeated(self.period), self
        while len(stacked.beyond) < n:
            stacked, power = stacked.beside(power.then(stacked)), power.then(power)
        return stacked.units(0, n), stacked.units(n - 1, n).then(self)

    def units(self, begin: int, end: int) -> "Reach":
        """Return the same for some of the units."""
        first, last, beyond = (a[begin:end] for a in (self.first, self.last, self.beyond))
        return Reach(first, last, self.shift, beyond)

    def beside(self, more: "Reach") -> "Reach":
        """Return the same with more units, of the same period."""
        mine, theirs = ((r.first, r.last, r.beyond) for r in (self, more))
        first, last, beyond = (np.concatenate(pair) for pair in zip(mine, theirs, strict=True))
        return Reach(first, last, self.shift, beyond)


def identity() -> Reach:
    """Return the map by which every output sees its own place."""
    zero = np.zeros((1, 1), int)
    return Reach(zero, zero, 1, np.zeros(1))


def everything(*, stride_kept: bool) -> Reach:
    """Return the map by which every output sees every place."""
    zero = np.zeros((1, 1), int)
    return Reach(zero, zero, int(stride_kept), np.full(1, np.inf))


def unknown() -> Reach:
    """Return the map of a leaf that cannot be seen through."""
    zero = np.zeros((1, 1), int)
    return Reach(zero, zero, 1, np.full(1, np.nan))


def through(window: Window) -> Reach:
    """Return the map of one window."""
    period = window.upsampling // math.gcd(window.upsampling, window.stride)
    start = window.stride * np.arange(period) + window.start
    first = -(-start // window.upsampling)
    last = (start + window.size - 1) // window.upsampling
    shift = window.stride * period // window.upsampling
    return Reach(first[None], last[None], shift, np.zeros(1))
