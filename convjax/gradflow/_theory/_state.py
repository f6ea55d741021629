"""What theory knows of a batch at one place of the network: energies, correlations, and how sure.

A *site* is one place of one example. Sites come in pairs of four classes: neighbours in one image,
other places of one image, one place of two examples, two places of two. For each class a few
*nodes* stand for the spread of its correlations; a node's correlation moves through the layers as a
single pair's would. Channels come in *segments*, which are alike within: a convolution makes one, a
zero-padded shortcut two.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from convjax.gradflow._theory._duals import function_of
from convjax.gradflow._theory._values import ByValue, Values, normal

Array = np.ndarray


class Doubt(NamedTuple):
    """How far a logarithm of a squared norm may be from its expectation.

    Attributes:
      variance: over random initializations, at this width.
      slack: what the theory's own approximations may cost, at most, roughly.
      centred: variance of what is left of the norm where each channel's mean over the batch is
        taken out; None where it is that of the whole.
      again: variance beside it, since what one unit adds by chance the next ones do too. It leaves
        the mean where it is: of logarithms that are added up, each lies lower by its own.
    """

    variance: float = 0.0
    slack: float = 0.0
    centred: float | None = None
    again: float = 0.0

    @property
    def within(self) -> float:
        """Variance where each channel's mean is taken out."""
        return self.variance if self.centred is None else self.centred

    def and_again(self, variance: float) -> "Doubt":
        """Return this doubt with some more of that."""
        return self._replace(again=self.again + variance)

    def without(self, means: float) -> float:
        """Return the variance where this share of the channels' means is taken out."""
        return means * self.within + (1 - means) * self.variance

    def then(self, factor: float, other: "Doubt") -> "Doubt":
        """Return this doubt passed on with a sensitivity, and another's beside it."""
        return Doubt(
            factor**2 * self.variance + other.variance,
            abs(factor) * self.slack + other.slack,
            factor**2 * self.within + other.within,
            factor**2 * self.again + other.again,
        )


NONE = Doubt()


class Way(NamedTuple):
    """How far a gradient's gain may be from its expectation, and what it shares with the signal's.

    Weights that are large by chance enlarge both, and a norm behind them divides the gradient by
    what it divides the signal by: so their errors are passed on together, to first order. With F
    and B the logarithms of the two energies' gains, and V that of the energy that comes in, the
    whole error of a gradient's gain is ``B + bends * V``.

    Attributes:
      variance: of B.
      slack: what the theory's own approximations may cost.
      both: covariance of B and F.
      forward: variance of F.
      follows: how the energy that goes out follows the one that comes in.
      bends: how the gain follows the energy that comes in: -1 for a norm.
      again: variance beside it, as in `Doubt`.
      beyond: twice the covariance of B with what is downstream of the node.
    """

    variance: float = 0.0
    slack: float = 0.0
    both: float = 0.0
    forward: float = 0.0
    follows: float = 1.0
    bends: float = 0.0
    again: float = 0.0
    beyond: float = 0.0

    def and_again(self, variance: float) -> "Way":
        """Return this way with some more of that."""
        return self._replace(again=self.again + variance)

    def then(self, upstream: "Way") -> "Way":
        """Return this way and, after it, one through what stands before."""
        shared = upstream.both + self.bends * upstream.forward
        return Way(
            self.variance + upstream.variance + self.bends * (upstream.both + shared),
            self.slack + upstream.slack,
            self.both + self.follows * shared,
            self.forward + self.follows**2 * upstream.forward,
            self.follows * upstream.follows,
            self.bends * upstream.follows + upstream.bends,
            self.again + upstream.again,
            self.beyond + upstream.beyond,
        )


class Gate(NamedTuple):
    """What the activation at which a branch begins adds to the scatter.

    Attributes:
      size: standard deviation of the logarithm of the energy.
      keeps: what of it comes again in another unit, by the correlations of what goes into both.
    """

    size: float
    keeps: Callable[[Array], Array]

    @classmethod
    def of(cls, variance: float, others: Callable[[Array], Array]) -> "Gate":
        """Return what has this variance, and these covariances with the same in other units."""
        return cls(math.sqrt(variance), lambda again: others(again) / max(variance, 1e-300))

    def weighed(self, share: float) -> "Gate":
        """Return the same of a part with this share of the whole's energy."""
        return self._replace(size=share * self.size)


class Gates(NamedTuple):
    """The gates that a shortcut has passed: what one lets through by chance, the next does too.

    Attributes:
      sizes: what each has added to the logarithm of the energy.
      alike: the correlation of what went into each with what goes into the next unit.
    """

    sizes: Array = np.zeros(0)
    alike: Array = np.zeros(0)

    def after(self, gate: Gate) -> tuple[float, "Gates"]:
        """Return twice the covariance of what they and another add; and these with that one."""
        shared = 2 * gate.size * float(self.sizes @ gate.keeps(self.alike))
        return shared, Gates(np.append(self.sizes, gate.size), np.append(self.alike, 1.0))

    def carried(self, factor: float) -> "Gates":
        """Return these where what they added is passed on with a sensitivity."""
        return self._replace(sizes=factor * self.sizes)

    def beyond(self, again: float) -> "Gates":
        """Return these as seen from the next unit, which gets so much of what this one got."""
        seen = again * self.alike > 0.01
        return Gates(self.sizes[seen], again * self.alike[seen])


CLASSES = 4

# No single layer makes energies so small: what is, stands for zero.
NOTHING = 1e-200


def scaled_by(log: float) -> float:
    """Return exp(2 log), kept within float64."""
    return math.exp(min(max(2 * log, -700.0), 700.0))


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The classes of pairs of sites: how many nodes stand for each, and how often a pair is one.

    Attributes:
      nodes: nodes for each class: neighbours, other places, one place of two examples, the rest.
    """

    nodes: int

    @functools.lru_cache(maxsize=256)  # noqa: B019
    def of(self, batch: int, spatial: tuple[int, ...]) -> tuple[float, Array]:
        """Return the share of a site with itself, and of every node, among all pairs."""
        places = math.prod(spatial)
        near = min(math.prod(min(3, n) for n in spatial), places) - 1
        others = batch - 1
        counts = np.array([near, places - 1 - near, others, others * (places - 1)], float)
        total = batch * places
        return 1 / total, np.repeat(counts / total / self.nodes, self.nodes)

    def within(self, spatial: tuple[int, ...]) -> tuple[float, Array]:
        """Return the same among the pairs of one example."""
        return self.of(1, spatial)

    @property
    def count(self) -> int:
        """Nodes in all."""
        return CLASSES * self.nodes

    @property
    def same(self) -> Array:
        """Which nodes are pairs within one example."""
        return np.arange(self.count) < 2 * self.nodes

    @property
    def near(self) -> Array:
        """Which nodes are neighbours."""
        return np.arange(self.count) < self.nodes

    def steady(self, pair: Array, weights: tuple[float, Array]) -> tuple[Array, Array]:
        """Return what is left of energies, and of correlations, without each channel's mean.

        Of a product ``(m + x)(m + y)`` the terms ``m (x + y)`` go as well, so that of a share l of
        the energy that is left the correlations scatter by ``l / (2 - l)`` of what they did, in
        units of the whole energy, squared.

        Args:
          pair: correlations, ``(segments, nodes)``.
          weights: share of a site with itself, and of every node, among all pairs of sites.
        """
        self_share, nodes = weights
        means = np.minimum(self_share + pair @ nodes, 1 - 1e-9)
        return 1 - means, self.centred(pair, means[:, None], 1 - means)

    def centred(self, pair: Array, taken: Array, left: Array) -> Array:
        """Return correlations of which a part is taken out, as a share of what is left."""
        rest = (pair - taken) / left[:, None]
        mean = np.repeat(self.means(rest), self.nodes, axis=1)
        return mean + np.sqrt(left / (2 - left))[:, None] * (rest - mean)

    @staticmethod
    def means(values: Array) -> Array:
        """Return the mean of every class, ``(segments, classes)``."""
        return values.reshape(len(values), CLASSES, -1).mean(2)

    def across(self, values: Array, spatial: tuple[int, ...]) -> Array:
        """Return the mean over pairs of two examples, ``(segments,)``."""
        *_, twins, rest = self.means(values).T
        return rest + (twins - rest) / math.prod(spatial)

    def roots(self, energy: Array) -> Array:
        """Return the mean product of two sites' root mean squares over the mean energy, by node.

        Exact where the energy is a product of functions of each axis.

        Args:
          energy: ``(segments, *spatial)``.
        """
        root = np.sqrt(energy)
        rank = root.ndim - 1
        axes = [
            root.mean(tuple(i for i in range(1, rank + 1) if i != k)) for k in range(1, rank + 1)
        ]
        found = by_class([axis[:, None] for axis in axes])
        if found is None:
            return np.ones((len(energy), self.count))
        whole = np.maximum(energy.reshape(len(energy), -1).mean(1), 1e-300)
        places = root[0].size
        far = root.reshape(len(root), -1).mean(1) ** 2 / whole
        far = (far * places - 1) / (places - 1)
        # The axes' own products say how the classes differ, the map itself how much all do.
        found = 1 - (1 - found) * ((1 - far) / np.maximum(1 - found[:, -1], 1e-12))[:, None]
        return np.repeat(np.maximum(found, 0.0), self.nodes, axis=1)


def by_class(axes: Sequence[Array]) -> Array | None:
    """Return the mean product of two places' values over that of one with itself, by class.

    Args:
      axes: for every axis of the image ``(segments, terms, places)``: the values are products of
        these, and the products over all terms are added up.

    Returns:
      ``(segments, classes)``; None where the image has one place.
    """
    if all(axis.shape[2] == 1 for axis in axes):
        return None
    banded = [axis + _beside(axis) for axis in axes]
    counts = [(n, 3 * n - 2, n * n) for n in (axis.shape[2] for axis in axes)]
    sums = [
        ((a * a).sum((1, 2)), (a * b).sum((1, 2)), (a.sum(2) ** 2).sum(1))
        for a, b in zip(axes, banded, strict=True)
    ]
    one, near, every = (math.prod(of) for of in zip(*counts, strict=True))
    alone, band, whole = (np.prod(of, axis=0) for of in zip(*sums, strict=True))
    means = [
        (band - alone) / max(near - one, 1),
        (whole - band) / max(every - near, 1),
        alone / one,
        (whole - alone) / max(every - one, 1),
    ]
    return np.stack(means, axis=1) / np.maximum(alone / one, 1e-300)[:, None]


def over_places(axes: Sequence[Array]) -> tuple[Array, ...]:
    """Return of the same products what every place has with itself, its neighbours, and all.

    Args:
      axes: as in `by_class`.

    Returns:
      Sums ``(segments, *spatial)``; neighbours and all include the place itself.
    """
    sums = [[(a * b).sum(1) for b in (a, a + _beside(a), a.sum(2, keepdims=True))] for a in axes]
    return tuple(functools.reduce(_outer, of) for of in zip(*sums, strict=True))


def _outer(a: Array, b: Array) -> Array:
    return a[..., None] * b.reshape(len(b), *(1,) * (a.ndim - 1), -1)


def _beside(values: Array) -> Array:
    """Return the sum of the two neighbours along the last axis."""
    found = np.zeros_like(values)
    found[..., 1:] += values[..., :-1]
    found[..., :-1] += values[..., 1:]
    return found


class Law(NamedTuple):
    """That the values are an activation of normal ones: what a maximum needs to know."""

    name: str
    function: Any
    mean: float
    variance: float


@functools.lru_cache(maxsize=1024)
def _skewness(law: Law) -> float:
    value = function_of(law.name, law.function).value
    return normal(value, law.mean, law.variance).skewness


class Signal(NamedTuple):
    """The activations at one place of the network, in expectation.

    Attributes:
      batch: examples.
      features: channels of every segment.
      log: half the logarithm that all energies are short of.
      energy: ``(segments, *spatial)``, mean square of an entry, times ``exp(-2 log)``.
      within: ``(segments, *spatial)``, the energy without each channel's mean over all sites, over
        the mean energy; None where it is the same share everywhere.
      pair: ``(segments, nodes)``, correlation (uncentred) of a pair of sites.
      mean: ``(segments,)``, mean over channels, in units of the root mean square.
      overlap: mean square of the correlations' scatter around their expectation.
      latent: the same of what one channel was drawn from: the last random sum's input.
      common: the part of it that all channels share.
      ideal: the same as latent, had that sum's input had terms without number.
      pairs: the classes of pairs.
      reach: over how many places, squared, correlations stay alike when both sites are shifted.
      total: doubt about the logarithm of the energy.
      own: that part of it which came since the node's input.
      carry: how the logarithm follows the node's input's.
      laws: for every segment what its values are an activation of, or None for normal ones.
      values: for every segment how its values are spread, where that is followed; else empty.
      drawn: terms of the random sum that each value is, as it came from its kernel; or 0.
      kernels: covariance, times half the channels of the kernel that comes next, of the energy that
        this one makes of the signal and of the gradient that the last one hands back.
      cubes: mean cube of the correlations' scatter, each channel's mean taken out.
      spectrum: eigenvalues of such a sum's covariance over the sites, centred; None if not known.
      uneven: E e times E 1/e of the channels' energies e, where gates made them unlike; and the
        variance of the logarithm of their mean 1/e.
      balanced: whether a norm made the channels sum to zero.
      unlike: mean square over squared mean of the channels' energies.
      sizes: relative variance of the channels' variances over the sites; None where it is that of
        normal values.
      data: the values, where they are known: the batch, and what no weights have touched.
      echo: ``(segments, 1 + nodes)``, covariance with the input of the residual around, both in
        units of their root mean square: at the same site, and over every pair. None where weights
        stand between, which make the two independent.
      gate: of the branch so far, where an activation begins it.
      gates: those that the shortcut has passed.
      shared: what the node's own doubt and the total so far have in common: twice the covariance.
    """

    batch: int
    features: tuple[int, ...]
    log: float
    energy: Array
    pair: Array
    mean: Array
    overlap: float
    latent: float
    pairs: Pairs
    reach: float = 0.0
    total: Doubt = NONE
    own: Doubt = NONE
    carry: float = 1.0
    laws: tuple[Law | None, ...] = ()
    values: tuple[Values, ...] = ()
    drawn: int = 0
    cubes: float = 0.0
    kernels: float = 0.0
    within: Array | None = None
    common: float = 0.0
    ideal: float = 0.0
    spectrum: Array | None = None
    uneven: tuple[float, float] = (1.0, 0.0)
    balanced: bool = False
    unlike: float = 1.0
    sizes: float | None = None
    data: Array | None = None
    echo: Array | None = None
    gate: Gate | None = None
    gates: Gates = Gates()
    shared: float = 0.0

    @property
    def spatial(self) -> tuple[int, ...]:
        """Places along each axis."""
        return self.energy.shape[1:]

    @property
    def level(self) -> Array:
        """Mean energy of every segment, ``(segments,)``."""
        return self.energy.reshape(len(self.features), -1).mean(1)

    @property
    def share(self) -> Array:
        """Share of every segment in the whole energy."""
        energy = self.level * np.array(self.features)
        return energy / max(energy.sum(), 1e-300)

    @property
    def log_energy(self) -> float:
        """Logarithm of the mean square over everything; minus infinity where it is zero."""
        mean = float(self.level @ np.array(self.features)) / sum(self.features)
        return math.log(mean) + 2 * self.log if mean > 0 else -math.inf

    @property
    def itself(self) -> Array:
        """Covariance with itself: what ``echo`` is at the input of a residual."""
        uncentred = np.concatenate([np.ones((len(self.pair), 1)), self.pair], axis=1)
        return uncentred - self.mean[:, None] ** 2

    @property
    def weights(self) -> tuple[float, Array]:
        """Share of a site with itself, and of every node, among all pairs of sites."""
        return self.pairs.of(self.batch, self.spatial)

    @property
    def steady(self) -> tuple[Array, Array]:
        """What is left of the energy without each channel's mean, and the correlations of that."""
        return self.pairs.steady(self.pair, self.weights)

    @property
    def without_means(self) -> Array:
        """``within``, for every place."""
        if self.within is not None:
            return self.within
        left, _ = self.steady
        return self.energy * (left / np.maximum(self.level, 1e-300)).reshape(
            -1, *(1,) * len(self.spatial)
        )

    @property
    def of_sizes(self) -> float:
        """Relative variance of the channels' variances, from ``sizes`` or as of normal values."""
        if self.sizes is not None:
            return self.sizes
        if self.data is not None:
            sizes = np.var(self.data, axis=tuple(range(self.data.ndim - 1)))
            return float(np.var(sizes) / max(np.mean(sizes) ** 2, 1e-300))
        self_share, nodes = self.weights
        left, steady = self.steady
        alike = steady**2 @ nodes + self.latent / (left * (2 - left))
        return 2 * (self_share + float(self.share @ alike))

    @property
    def skew(self) -> float:
        """Mean square of the skewness of a channel's values; zero where they are normal."""
        each = [of.skewness for of in self.values]
        if not each and not self.log and len(self.laws) == len(self.features):
            each = [0.0 if law is None else _skewness(law) for law in self.laws]
        return float(self.share @ np.square(each)) if each else 0.0

    def normal(self, i: int, log: float = 0.0) -> tuple[float, float]:
        """Return mean and variance of one segment's entries, of which ``log`` is put back."""
        level = float(self.level[i]) * scaled_by(log)
        mean = float(self.mean[i]) * math.sqrt(level)
        return mean, max(level - mean**2, 1e-300)

    @property
    def spread(self) -> tuple[Values, ...]:
        """How the values are spread, as followed or by the laws; empty where all are normal."""
        bent = any(law is not None and law.name != "linear" for law in self.laws)
        if self.values or self.log or not bent or len(self.laws) != len(self.features):
            return self.values
        laws = [law or Law("linear", None, *self.normal(i)) for i, law in enumerate(self.laws)]
        return tuple(
            normal(function_of(law.name, law.function).value, law.mean, law.variance)
            for law in laws
        )

    def becomes(self, factor: float, doubt: Doubt = NONE, **changes: Any) -> "Signal":
        """Return the signal after a layer whose output follows its input's scale so far.

        Args:
          factor: how the logarithm of the energy follows the input's: 1 for a linear layer.
          doubt: what the layer adds.
          **changes: the new fields.
        """
        changes.setdefault("data", None)
        changes.setdefault("echo", None)
        changes.setdefault("laws", (None,) * len(changes.get("features", self.features)))
        changes.setdefault("values", ())
        changes.setdefault("drawn", 0)
        changes.setdefault("cubes", 0.0)
        changes.setdefault("within", None)
        changes.setdefault("spectrum", None)
        changes.setdefault("uneven", (1.0, 0.0))
        changes.setdefault("balanced", False)
        changes.setdefault("sizes", None)
        changes.setdefault("gates", Gates())
        gate = self.gate and self.gate.weighed(factor)
        changes.setdefault("gate", gate)
        return self._replace(
            total=self.total.then(factor, doubt),
            own=self.own.then(factor, doubt),
            carry=self.carry * factor,
            **changes,
        )._scaled()

    def _scaled(self) -> "Signal":
        """Move the size of the energies into ``log``, so that no depth overflows."""
        largest = float(self.energy.max())
        if largest < NOTHING:
            return self._replace(energy=np.zeros_like(self.energy))
        if 1e-30 < largest < 1e30 or largest == math.inf:
            return self
        return self._replace(energy=self.energy / largest, log=self.log + 0.5 * math.log(largest))

    def merged(self) -> "Signal":
        """Return the same with all channels in one segment, as a layer that mixes them sees it."""
        if len(self.features) == 1:
            return self
        count = np.array(self.features) / sum(self.features)
        energy = np.tensordot(count, self.energy, 1)[None]
        level = self.level
        mean = (count * self.mean * np.sqrt(level)).sum() / math.sqrt(max(energy.mean(), 1e-300))
        return self._replace(
            features=(sum(self.features),),
            energy=energy,
            pair=(self.share @ self.pair)[None],
            mean=np.array([mean]),
            within=None if self.within is None else np.tensordot(self.share, self.within, 1)[None],
            laws=(None,),
            values=(),
            echo=None,
        )

    def split(self, features: tuple[int, ...]) -> "Signal":
        """Return the same in finer segments."""
        if features == self.features:
            return self
        index = finer(self.features, features)
        return self._replace(
            features=features,
            energy=self.energy[index],
            pair=self.pair[index],
            mean=self.mean[index],
            within=None if self.within is None else self.within[index],
            laws=tuple(self.laws[i] for i in index) if self.laws else (),
            values=tuple(self.values[i] for i in index) if self.values else (),
            echo=None if self.echo is None else self.echo[index],
        )


class Cotangent(NamedTuple):
    """The gradients at one place of the network, in expectation.

    Attributes:
      features: channels of every segment.
      log: half the logarithm that all energies are short of.
      energy: ``(segments, *spatial)``, mean square of an entry.
      pair: ``(segments, nodes)``, correlation of a pair of sites.
      overlap: mean square of the correlations' scatter around their expectation.
      latent: the same of what each channel was drawn from: the last kernel's cotangent.
      peak: mean square over squared mean of the energies at single sites.
      uneven: relative variance of the channels' energies.
      tilt: ``(segments, nodes + 1)``, correlation of gradient times normalised value, for every
        node and for a site with itself, where an activation stands directly downstream; or None.
      picked: ``(segments,)``, how many times larger than elsewhere the mean squared slope of the
        activation upstream is where the gradient goes: a maximum sends it through open gates.
        None for once.
      total: doubt about the logarithm of the energy.
      own: that part of it which came since the node's output.
      by_value: for every segment the energy by the value, where that is followed; else empty.
      echo: the same with what came to the output of the residual around.
      inverse: what the kernel upstream must multiply by, since each channel was divided by the size
        of what the kernel had made of it.
      undone: variance of that, where it is known by itself; None where the kernels' sizes say it.
      sharp: how much more than evenly spread over the channels the energy is that such a norm
        received: mean square over squared mean.
      centred: what of the channels' means is taken out of the energy that ``bends`` refers to.
      gate: of the branch so far, where an activation begins it.
      gates: those that the shortcut has passed, downstream.
      shared: what the node's own doubt and the total so far have in common: twice the covariance.
      kernels: covariance of the gain so far with that of the next kernel upstream.
      inside: that part of it which came since the node's output.
      met: the same as ``kernels`` of single channels of the kernel downstream: what a norm divides
        them by is the larger, the more the kernel upstream would hand back.
    """

    features: tuple[int, ...]
    log: float
    energy: Array
    pair: Array
    overlap: float
    latent: float = 0.0
    peak: float = 1.0
    uneven: float = 0.0
    tilt: Array | None = None
    picked: Array | None = None
    total: Way = Way()
    own: Way = Way()
    inverse: float = 1.0
    undone: float | None = None
    sharp: float = 1.0
    centred: float = 0.0
    by_value: tuple[ByValue, ...] = ()
    echo: Array | None = None
    gate: Gate | None = None
    gates: Gates = Gates()
    shared: float = 0.0
    kernels: float = 0.0
    inside: float = 0.0
    met: float = 0.0

    @property
    def share(self) -> Array:
        """Share of every segment in the whole energy."""
        energy = self.energy.reshape(len(self.features), -1).sum(1) * np.array(self.features)
        return energy / max(energy.sum(), 1e-300)

    @property
    def itself(self) -> Array:
        """Covariance with itself: what ``echo`` is at the output of a residual."""
        return np.concatenate([np.ones((len(self.pair), 1)), self.pair], axis=1)

    def log_energy(self, batch: int) -> float:
        """Logarithm of the squared norm of the whole batch's gradient."""
        per_segment = self.energy.reshape(len(self.features), -1).sum(1)
        energy = batch * float(per_segment @ np.array(self.features))
        return math.log(energy) + 2 * self.log if energy > 0 else -math.inf

    def doubt(self, way: Way, before: Signal) -> Doubt:
        """Return the doubt about a gain, the part that the signal before a way brings included."""
        variance = way.variance + way.bends**2 * before.total.without(self.centred)
        return Doubt(variance, way.slack, again=way.again)

    def of_kernels(self, some: float, whole: float) -> "Cotangent":
        """Return the same for a part of what ``kernels`` was of the signal."""
        share = some / whole if whole else 0.0
        kernels, inside, met = share * self.kernels, share * self.inside, share * self.met
        return self._replace(kernels=kernels, inside=inside, met=met)

    def becomes(self, doubt: Doubt | Way = NONE, **changes: Any) -> "Cotangent":
        """Return the cotangent handed back by a layer that adds some doubt."""
        changes.setdefault("tilt", None)
        changes.setdefault("picked", None)
        changes.setdefault("inverse", 1.0)
        changes.setdefault("undone", None)
        changes.setdefault("sharp", 1.0)
        changes.setdefault("by_value", ())
        changes.setdefault("echo", None)
        changes.setdefault("gates", Gates())
        way = doubt if isinstance(doubt, Way) else Way(doubt.variance, doubt.slack)
        made = self._replace(own=self.own.then(way), **changes)
        largest = float(made.energy.max())
        if largest < NOTHING:
            return made._replace(energy=np.zeros_like(made.energy))
        if 1e-30 < largest < 1e30 or largest == math.inf:
            return made
        return made._replace(energy=made.energy / largest, log=made.log + 0.5 * math.log(largest))

    def regrouped(self, features: tuple[int, ...]) -> "Cotangent":
        """Return the same in other segments: finer ones, or means over several."""
        if features == self.features:
            return self
        both = refined(self.features, features)
        here, there = finer(self.features, both), finer(features, both)
        count = np.array(both, float)
        energy, pair = self.energy[here], self.pair[here]
        join = (np.arange(len(features))[:, None] == there) * count
        join /= join.sum(1, keepdims=True)
        mean = np.tensordot(join, energy, 1)
        weight = energy.reshape(len(both), -1).mean(1)
        joined = join @ (pair * weight[:, None]) / np.maximum(join @ weight, 1e-300)[:, None]
        tilt = None
        if self.tilt is not None:
            tilt = join @ (self.tilt[here] * weight[:, None])
            tilt /= np.maximum(join @ weight, 1e-300)[:, None]
        return self._replace(
            features=features,
            energy=mean,
            pair=joined,
            tilt=tilt,
            picked=None,
            by_value=(),
            echo=None,
        )

    def plus(self, other: "Cotangent") -> "Cotangent":
        """Return the sum of two that come back to one place by ways with weights of their own."""
        log = max(self.log, other.log)
        mine, its = (c.energy * math.exp(2 * (c.log - log)) for c in (self, other))
        energy = mine + its
        total = np.maximum(energy.reshape(len(energy), -1).sum(1), 1e-300)
        part = (mine.reshape(len(mine), -1).sum(1) / total)[:, None]
        mean = float(part.mean())

        def between(name: str) -> float:
            return mean * getattr(self, name) + (1 - mean) * getattr(other, name)

        return self._replace(
            log=log,
            energy=energy,
            pair=part * self.pair + (1 - part) * other.pair,
            overlap=between("overlap"),
            latent=between("latent"),
            peak=between("peak"),
            uneven=between("uneven"),
            tilt=None,
            picked=None
            if self.picked is other.picked is None
            else _picked(self, other, part[:, 0]),
            inverse=between("inverse"),
            undone=None,
            sharp=between("sharp"),
            met=between("met"),
            # The kernel upstream meets each of them in its own part of what it hands back.
            kernels=mean**2 * self.kernels + (1 - mean) ** 2 * other.kernels,
            inside=mean**2 * self.inside + (1 - mean) ** 2 * other.inside,
            centred=max(self.centred, other.centred),
            by_value=_by_value(self.by_value, other.by_value, part[:, 0]),
            echo=None,
        )


def _by_value(
    mine: tuple[ByValue, ...], its: tuple[ByValue, ...], part: Array
) -> tuple[ByValue, ...]:
    """Return the energy of a sum by the value, of which ``part`` is the first's."""
    if mine and its:
        return tuple(a.plus(b, p) for a, b, p in zip(mine, its, part.tolist(), strict=True))
    if not mine:
        mine, part = its, 1 - part
    return tuple(of.mixed(p) for of, p in zip(mine, part.tolist(), strict=False))


def _picked(a: Cotangent, b: Cotangent, part: Array) -> Array:
    """Return by how much the slopes are larger for a sum, of which ``part`` is the first's."""
    mine, its = (1.0 if c.picked is None else c.picked for c in (a, b))
    return part * mine + (1 - part) * its


def refined(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Return the coarsest segments that are finer than both."""
    edges = sorted({*np.cumsum(a).tolist(), *np.cumsum(b).tolist()})
    return tuple(np.diff([0, *edges]).tolist())


def finer(coarse: tuple[int, ...], fine: tuple[int, ...]) -> Array:
    """Return for every fine segment the coarse one that it lies in."""
    return np.searchsorted(np.cumsum(coarse), np.cumsum(fine))
