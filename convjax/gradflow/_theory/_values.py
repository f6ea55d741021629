"""How the values of a channel are spread, where they are not normal; and gradients by value.

A rectified sum of a rectified value and a normal one is neither. Along shortcuts with an activation
after each sum the values are a walk that is held at zero (Lindley's, of queues), and a gate that is
open tends to stay open: the gradient that comes back depends on the value. So both are kept on a
grid, from sum to sum.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Real = Callable[[Array], Array]


class Normal(NamedTuple):
    """That values are normal."""

    mean: float
    variance: float


GRID = np.arange(-600, 1001)
FINE, WIDEST = 80.0, 160.0
"""Steps of the grid in a root mean square: at first, and at most."""


@dataclasses.dataclass(frozen=True)
class Values:
    """How values are spread: the weight of every point of ``step * GRID``, and their sum is 1.

    Attributes:
      step: between points of the grid.
      weight: of every point.
      sized: whether they are normal but for a size that a channel's sites have in common.
    """

    step: float
    weight: Array
    sized: bool = False

    @property
    def at(self) -> Array:
        """The values."""
        return self.step * GRID

    def mean(self, f: Real) -> float:
        """Return E f."""
        return float(self.weight @ f(self.at))

    @property
    def skewness(self) -> float:
        """Third moment about the mean, in units of the standard deviation; 0 where all are one."""
        mean = self.mean(lambda z: z)
        square, cube = (self.mean(lambda z, k=k: (z - mean) ** k) for k in (2, 3))
        return cube / square**1.5 if square > 1e-200 else 0.0

    def mean_of(self, value: Array, what: Array, often: Array) -> Array:
        """Return the mean of something by value, at every point of the grid."""
        whole = _binned(value, often, self.step).weight
        found = _binned(value, often * what, self.step).weight
        there = whole > 0
        return np.interp(GRID, GRID[there], found[there] / whole[there])

    def through(self, f: Real) -> "Values":
        """Return how f of them is spread."""
        return _binned(f(self.at), self.weight, self.step)

    def dropped(self, rate: float) -> "Values":
        """Return how they are spread after dropout: zero with that probability, else larger."""
        keep = 1 - rate
        found = _binned(self.at / keep, keep * self.weight, self.step)
        return Values(self.step, found.weight + rate * (GRID == 0))

    def scaled(self, factor: float) -> "Values":
        """Return how a multiple of them is spread."""
        return dataclasses.replace(self, step=self.step * factor)

    def standardised(self, size: float) -> "Values":
        """Return how they are spread with mean zero, and of this size."""
        mean = self.mean(lambda z: z)
        deviation = max(self.mean(lambda z: (z - mean) ** 2), 1e-300) ** 0.5
        return _binned(self.at - mean, self.weight, self.step).scaled(size / deviation)

    def times(self, factor: Array, often: Array) -> "Values":
        """Return how products with independent factors are spread, which are so often each."""
        size = max(math.sqrt(float(often @ factor**2)), 1e-150)
        weight = np.multiply.outer(often, self.weight)
        return _binned(np.multiply.outer(factor, self.at), weight, size * self.step)

    def plus(self, other: "Values | Normal") -> "Values":
        """Return how the sum with an independent value is spread."""
        if isinstance(other, Normal):
            return self._plus_normal(*other)
        squares = self.mean(np.square) + other.mean(np.square)
        squares += 2 * self.mean(lambda z: z) * other.mean(lambda z: z)
        size = math.sqrt(max(squares, 1e-300))
        one, more = (_binned(of.at, of.weight, size / FINE).weight for of in (self, other))
        weight = np.convolve(one, more)[-GRID[0] :][: len(GRID)]
        return Values(size / FINE, weight / weight.sum())

    def _plus_normal(self, mean: float, variance: float) -> "Values":
        if variance < 0.01 * self.step**2:
            return self
        size = (self.mean(np.square) + variance + mean**2) ** 0.5
        if size / self.step > WIDEST:
            return _binned(self.at, self.weight, size / FINE)._plus_normal(mean, variance)
        kernel = self._kernel(mean, variance)
        weight = np.convolve(self.weight, kernel)[len(GRID) // 2 :][: len(GRID)]
        return Values(self.step, weight / weight.sum())

    def _kernel(self, mean: float, variance: float) -> Array:
        steps = np.arange(len(GRID)) - len(GRID) // 2
        kernel = np.exp(-((steps * self.step - mean) ** 2) / (2 * variance))
        return kernel / kernel.sum()


@dataclasses.dataclass(frozen=True)
class ByValue:
    """The energy of a gradient by the value that it belongs to; 1 in the mean over values.

    Attributes:
      values: how these are spread.
      energy: at every point of their grid.
      sizeless: whether a norm divides every channel's values by their size.
      sign: of the slopes that the gradient has come through.
    """

    values: Values
    energy: Array
    sizeless: bool = False
    sign: Array | float = 1.0

    def __call__(self, value: Array) -> Array:
        """Return the energy at a value."""
        return np.asarray(np.interp(value, self.values.at, self.energy))

    def root(self, value: Array) -> Array:
        """Return the root of the energy at a value, with the sign of the slopes."""
        root = self.sign * np.sqrt(self.energy)
        return np.asarray(np.interp(value, self.values.at, root))

    def before(self, f: Real, slope: Real, values: Values) -> tuple["ByValue", float]:
        """Return the energy handed back by f, by the value before it, and its mean."""
        steep = slope(values.at)
        found, mean = scaled(values, self(f(values.at)) * steep**2)
        sign = np.where(steep < 0, -1.0, 1.0) * np.sign(self.root(f(values.at)))
        return dataclasses.replace(found, sign=sign), mean

    def without(self, values: Values, other: Values | Normal) -> "ByValue":
        """Return the energy by the first of two terms: values before ``plus``."""
        if isinstance(other, Normal):
            return self._without_normal(values, *other)
        often = _binned(other.at, other.weight, self.values.step).weight
        around = np.pad(self.energy, len(GRID), mode="edge")
        found = np.correlate(around, often, "valid")[len(GRID) + GRID[0] :][: len(GRID)]
        return scaled(values, ByValue(self.values, found)(values.at))[0]

    def _without_normal(self, values: Values, mean: float, variance: float) -> "ByValue":
        if variance < 0.01 * values.step**2:
            return ByValue(values, self(values.at))
        points, weights = np.polynomial.hermite_e.hermegauss(40)
        at = values.at[:, None] + mean + variance**0.5 * points
        return scaled(values, self(at) @ (weights / weights.sum()))[0]

    def without_factor(self, values: Values, factor: Array, often: Array) -> "ByValue":
        """Return the energy handed back by products, by the values before ``times``."""
        found = (often * factor**2) @ self(np.multiply.outer(factor, values.at))
        return scaled(values, found)[0]

    def scaled(self, factor: float) -> "ByValue":
        """Return the energy by a multiple of the value."""
        return dataclasses.replace(self, values=self.values.scaled(factor))

    def plus(self, other: "ByValue", part: float) -> "ByValue":
        """Return that of a sum of two, of which ``part`` is this one's."""
        return ByValue(self.values, part * self.energy + (1 - part) * other(self.values.at))

    def mixed(self, part: float) -> "ByValue":
        """Return that of a sum of which the rest, ``1 - part``, does not depend on the value."""
        return ByValue(self.values, part * self.energy + 1 - part)


def scaled(values: Values, energy: Array) -> tuple[ByValue, float]:
    """Return energies divided by their mean, and that mean."""
    mean = float(values.weight @ energy)
    return ByValue(values, energy / max(mean, 1e-300)), mean


def total_of(one: Values | Normal, other: Values | Normal) -> Values:
    """Return how the sum of two independent values is spread, of which one is on a grid."""
    if isinstance(one, Values):
        return one.plus(other)
    assert isinstance(other, Values)
    return other.plus(one)


def normal(f: Real, mean: float, variance: float) -> Values:
    """Return how f of a normal value is spread."""
    z = np.linspace(-8.0, 8.0, 8001)
    weight = np.exp(-(z**2) / 2)
    value = f(mean + variance**0.5 * z)
    weight = weight / weight.sum()
    size = max(float(weight @ value**2) ** 0.5, 1e-150)
    return _binned(value, weight, size / FINE)


def of_data(x: Array) -> Values:
    """Return how the entries of an array are spread."""
    value = np.asarray(x, float).ravel()
    size = max(float(np.mean(value**2)) ** 0.5, 1e-150)
    return _binned(value, np.full(value.size, 1 / value.size), size / FINE)


def _binned(value: Array, weight: Array, step: float) -> Values:
    """Return weights shared out among the two points of the grid that a value lies between."""
    value, weight = value.ravel(), weight.ravel()
    place = np.clip(value / step, GRID[0], GRID[-1] - 1e-9) - GRID[0]
    low = np.minimum(place.astype(int), len(GRID) - 2)
    above = place - low
    found = np.bincount(low, weight * (1 - above), len(GRID))
    found += np.bincount(low + 1, weight * above, len(GRID))
    return Values(step, found)
