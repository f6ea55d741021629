"""What one kernel makes of one channel: a sum of few terms, which is not normal.

Let y be the sum of w x over the taps, w normal, x = f(z) of normal z that are alike in pairs. Given
the terms, y is normal, of a variance in proportion to S, the sum of their squares. So y is a
mixture: of heavier tails than a normal value, and zero where all terms are (a channel whose
rectifier is closed everywhere). Let G(v) be the mean energy of a gradient at a normal y of
variance v. What comes back to a term x, by Stein's lemma, is E[w^2 g(y)] / E w^2 = E[G + 2 (x^2/S)
dG/dlog v] over the other terms. The terms are taken to be independent given one normal value that
they share, and the sum of their squares, where it is not zero, to be log-normal.
"""

import math
from typing import NamedTuple

import numpy as np

from convjax.gradflow._theory._axes import Window
from convjax.gradflow._theory._duals import function_of, moments
from convjax.gradflow._theory._state import Law
from convjax.gradflow._theory._values import FINE, GRID, ByValue, Values, normal, scaled

Array = np.ndarray

SIZES, KINDS = 32, 3
"""Variances that stand for all, and numbers of taps inside the image."""

OWN = np.linspace(-4.98, 4.98, 250)
OWN_CHANCE = np.exp(-(OWN**2) / 2) / np.exp(-(OWN**2) / 2).sum()
"""A normal value, evenly: what steps at a place is right to a hundredth, and none lies at zero."""


class Taps(NamedTuple):
    """The terms of such a sum.

    Attributes:
      law: what they are an activation of.
      alike: correlation of the normal values of two of them.
      pair: of two sums, uncentred.
      centred: of these without each channel's mean.
      counts: how many there are, of outputs in the middle and at borders.
      often: share of the outputs that have so many.
      readers: how many outputs there are for every input.
    """

    law: Law
    alike: float
    pair: float
    centred: float
    counts: Array
    often: Array
    readers: float

    def sizes(self) -> tuple[Array, Array, float]:
        """Return variances of the sum, with mean 1, how often each occurs; and how often zero."""
        u, shared = np.polynomial.hermite_e.hermegauss(24)
        shared = shared / shared.sum()
        found, silent = [], 0.0
        for count, often in zip(self.counts.tolist(), self.often.tolist(), strict=True):
            size, weight = _sums(self, count, u, shared)
            silent += often * float(weight[size == 0].sum())
            size, weight = size[size > 0], weight[size > 0]
            found.append((size / max(weight @ size, 1e-300), often * weight))
        size, weight = (np.concatenate(of) for of in zip(*found, strict=True))
        place = np.clip(np.log(np.maximum(size, 1e-300)), -12.0, 5.0)
        ends = place.min(initial=0.0), max(place.max(initial=0.0), place.min(initial=0.0) + 1e-6)
        low = (place - ends[0]) / (ends[1] - ends[0]) * (SIZES - 1)
        index = np.minimum(low.astype(int), SIZES - 2)
        shares = np.bincount(index, weight * (1 - low + index), SIZES)
        shares += np.bincount(index + 1, weight * (low - index), SIZES)
        return np.exp(np.linspace(*ends, SIZES)), shares, silent

    def values(self, variance: float) -> Values:
        """Return how the sum is spread, if this is its variance."""
        size, weight, silent = self.sizes()
        weight = weight @ _densities(size) + silent * (GRID == 0)
        return Values(math.sqrt(variance) / FINE, weight, sized=True)

    def before(self, of: ByValue, variance: float, tied: float) -> tuple[ByValue, float]:
        """Return the energy handed back by the value of a term, and its mean.

        Args:
          of: the energy by the sum's value.
          variance: of the sum.
          tied: correlation of the gradients of two sums.
        """
        if of.sizeless:
            return self.before_norm(of, tied)
        size, _, _ = self.sizes()
        energy = _densities(size) @ of(math.sqrt(variance) / FINE * GRID)
        steps = np.log(size)
        bent = 2 * np.gradient(energy, steps)
        crossed = tied * self._crossed(of, np.sqrt(variance * size)) * energy
        known = function_of(self.law.name, self.law.function)
        deviation = math.sqrt(self.law.variance)
        z = np.linspace(-5, 5, 101)
        value = known.value(self.law.mean + deviation * z)
        u, shared = np.polynomial.hermite_e.hermegauss(12)
        # What all terms share, given one of them.
        u = math.sqrt(self.alike) * z[:, None] + math.sqrt(1 - self.alike) * u
        shared = np.tile(shared / shared.sum(), len(z))
        found = np.zeros(len(z))
        for count, often in zip(self.counts.tolist(), self.often.tolist(), strict=True):
            rest, share = (
                of.reshape(len(z), -1) for of in _sums(self, count - 1, u.ravel(), shared)
            )
            whole = rest + value[:, None] ** 2
            mean = count * moments(*self.law).second
            place = np.log(np.maximum(whole / mean, 1e-12))
            back = np.interp(place, steps, energy)
            part = value[:, None] ** 2 / np.maximum(whole, 1e-300)
            more = np.interp(place, steps, bent + max(count * self.readers - 1, 0.0) * crossed)
            back = np.maximum(back + part * more, 0.0)
            back = np.where(whole > 0, back, of(np.zeros(1)))
            found += count * often / (self.counts @ self.often) * (back * share).sum(1)
        # One value may stand for many z: that of a closed rectifier does.
        fine = np.linspace(-5, 5, 8001)
        value, often = known.value(self.law.mean + deviation * fine), np.exp(-(fine**2) / 2)
        terms = normal(known.value, self.law.mean, self.law.variance)
        return scaled(terms, terms.mean_of(value, np.interp(fine, z, found), often))

    def _crossed(self, of: ByValue, deviation: Array) -> Array:
        """Return what two taps' gradients have in common, since their weights are in both sums.

        With a = sqrt(g) of two sums y and y' of variance v and correlation r, which is also how
        much of their terms they share, it is by Stein's lemma ``v (2 r E a'' a + (1 + r) E a' a')``
        over ``E a a``. Of normal u that both sums hold, and e that one does, that is
        ``E[(u^2 - 1) E_e[a]^2 + E_e[e a]^2]`` over ``E[E_e[a]^2]``.

        Args:
          of: the energy by the sum's value.
          deviation: of the sums, some.
        """
        u, weight, mean, along = _of_two(of, deviation, min(max(self.pair, 0.0), 1.0))
        both = np.maximum(mean**2 @ weight, 1e-300)
        return (((u**2 - 1) * mean**2 + along**2) @ weight) / both

    def before_norm(self, of: ByValue, tied: float) -> tuple[ByValue, float]:
        """Return the same where a norm divides every channel by its size and takes out its mean.

        Of n weights w let b be the share of their squares along (1, ..., 1): the sum of their other
        products is n b - 1 of that of squares. Of terms that correlate by k the sum's variance is
        v = 1 + (n b - 1) k, and two sums share r = n b k / v of it. Where the gradients that come
        to two sums correlate by c(r), the mean over b of ``(1 + (n b - 1) c(r)) / v`` comes back,
        of which the kernel itself knows ``1 / v``; and, for the term that both sums hold,
        ``c E[E_e[e a]^2] (n - 1) / (n + 2)`` over ``E a a``. A term is as close to the sum, but for
        its sign, as two sums are to each other.
        """
        size = math.sqrt(max(of.values.mean(np.square), 1e-300))
        k, count = min(max(self.centred, 0.0), 0.99), float(self.counts @ self.often)
        shares = np.linspace(0, 1, 21)
        _, chance, mean, along = _of_two(of, np.array([size]), shares[:, None, None])
        both, own = (of**2 @ chance for of in (mean, along))
        crossed = tied * float(np.interp(k, shares, own) / np.interp(k, shares, both))
        # The share of one direction is the squared sine of an angle.
        angle = np.linspace(0, math.pi / 2, 200)
        often, more = np.cos(angle) ** max(count - 2, 0.0), count * np.sin(angle) ** 2
        variance = 1 - k + k * more
        alike = np.interp(k * more / variance, shares, both) / np.interp(k, shares, both)
        often = often / variance
        # Of a kernel that strides fewer taps read one term.
        others = max(count * self.readers - 1, 0.0)
        met = tied * others / max(count - 1, 1e-9)
        divided = float(often @ (1 + (more - 1) * met * alike) / often.sum())
        known = function_of(self.law.name, self.law.function)
        terms = normal(known.value, self.law.mean, self.law.variance)
        place = terms.at - terms.mean(lambda x: x)
        place = place / max(float(terms.weight @ place**2), 1e-300) ** 0.5
        close = 2 * (1 - k**2) / (count + 2) + k**2
        ends = np.linspace(place.min(), place.max(), 161)
        near, rest = math.sqrt(close) * ends[:, None], math.sqrt(1 - close) * OWN
        either = (of(size * (near + rest)) + of(size * (rest - near))) @ OWN_CHANCE
        alone, _ = scaled(terms, np.asarray(np.interp(place, ends, either)))
        back = divided * alone.energy + crossed * others / (count + 2) * place**2
        return scaled(terms, np.maximum(back, 0.0))


def _of_two(of: ByValue, deviation: Array, r: Array | float) -> tuple[Array, Array, Array, Array]:
    """Return what two sums share, how often, and the roots of energy of one given that.

    Of these the mean, and the mean product with what is the sum's own.
    """
    u, weight = np.polynomial.hermite_e.hermegauss(24)
    z = np.sqrt(r) * u[:, None] + np.sqrt(1 - r) * OWN
    a = of.root(deviation[:, None, None] * z)
    return u, weight / weight.sum(), a @ OWN_CHANCE, a @ (OWN_CHANCE * OWN)


def taps_of(law: Law, pair: float, window: Window, sums: tuple[float, float]) -> Taps:
    """Return the terms of a window's sums, of which two have this correlation (uncentred).

    Two sums have another, as they are and without their mean: where borders leave terms out, they
    share fewer.
    """
    m = moments(*law)
    grid = np.linspace(0, 0.999, 50)
    alike = float(np.interp(pair, m.pair(grid) / max(m.second, 1e-300), grid))
    inside = np.sort(window.gather(np.ones((1, *[t.shape[2] for t in window.axes]))).ravel())
    groups = np.array_split(inside[inside > 0], KINDS)
    counts = np.array([group.mean() for group in groups if len(group)])
    often = np.full(len(counts), 1 / len(counts))
    readers = inside.size / math.prod(t.shape[2] for t in window.axes)
    return Taps(law, alike, *sums, counts, often, readers)


def _sums(taps: Taps, count: float, u: Array, weight: Array) -> tuple[Array, Array]:
    """Return sums of so many squares, for every shared value some, and the weight of each."""
    known = function_of(taps.law.name, taps.law.function)
    own = np.linspace(-5, 5, 101)
    density = np.exp(-(own**2) / 2)
    density /= density.sum()
    z = math.sqrt(taps.alike) * u[:, None] + math.sqrt(1 - taps.alike) * own
    square = known.value(taps.law.mean + math.sqrt(taps.law.variance) * z) ** 2
    silent = ((square == 0) @ density) ** count
    alive = np.maximum(1 - silent, 1e-12)
    mean = count * (square @ density)
    second = count * (square**2 @ density) + count * (count - 1) * (square @ density) ** 2
    uneven = np.divide(second * alive, mean**2, out=np.ones_like(mean), where=mean > 1e-100)
    mean, spread = mean / alive, np.sqrt(np.log(np.maximum(uneven, 1.0)))
    points, parts = np.polynomial.hermite_e.hermegauss(9)
    sizes = mean[:, None] * np.exp(spread[:, None] * points - spread[:, None] ** 2 / 2)
    shares = alive[:, None] * parts / parts.sum()
    sizes = np.concatenate([np.zeros((len(u), 1)), sizes], axis=1)
    return sizes, weight[:, None] * np.concatenate([silent[:, None], shares], axis=1)


def _densities(variance: Array) -> Array:
    """Return normal weights on the grid, of mean 0: none at zero, which is for what is silent."""
    place = (GRID / FINE) ** 2
    found = np.exp(-place / (2 * variance[:, None])) * (GRID != 0)
    lost = found.sum(1) < 1e-9
    found[lost] = np.abs(GRID) == 1
    return found / found.sum(1, keepdims=True)
