"""What to expect of the norms: batch norm on the batch or on running statistics, group, layer.

On the batch, a channel is a normal vector over the sites; centred, it has some effective number d
of dimensions, and E 1/variance = d/(d - 2) / E variance. Its backward pass takes two directions out
of the cotangent: the constant one and the channel itself. For equally correlated sites d is the
batch less one, and this is Yang et al.'s closed form (2019), exactly.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import numpy as np

from convjax import nn
from convjax.gradflow._theory._run import Back, Scope, expected
from convjax.gradflow._theory._sites import concentrated, exactly
from convjax.gradflow._theory._state import Cotangent, Doubt, Signal, Way, scaled_by
from convjax.gradflow._theory._values import ByValue, Values, normal

LEAST = 0.05
"""Share of a gradient that a norm must leave for theory to say how much."""
FEW, SOME = 3, 24
"""Terms of a kernel up to which 1/w'w has no mean, or hardly one; and is far from normal."""
DRAWS = 400_000
"""Entries of kernels that are drawn to see what a norm behind them divides by."""
ENOUGH = 48
"""Channels for a mean over them to scatter as that over more, and less in proportion."""


class Affine(NamedTuple):
    """Mean squares of a norm's scale and bias, the bias's mean, whether all scales are alike."""

    scale: float
    bias: float
    bias_mean: float
    even: bool


def _affine(node: Any, scope: Scope) -> Affine:
    scale, bias = scope.values(node.scale), scope.values(node.bias)
    return Affine(
        1.0 if scale is None else float(np.mean(scale**2)),
        0.0 if bias is None else float(np.mean(bias**2)),
        0.0 if bias is None else float(np.mean(bias)),
        scale is None or float(np.ptp(scale)) == 0,
    )


@expected.register
def _(node: nn.BatchNorm, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    if not scope.train or node.frozen:
        return _running(node, signal, scope)
    self_share, nodes = signal.weights
    flat = signal.pairs.roots(signal.energy)
    return _normalised(
        signal,
        _affine(node, scope),
        node.epsilon,
        Over(self_share, nodes, np.ones(len(nodes), bool), 1.0, flat, per_channel=True),
    )


@expected.register
def _(node: nn.GroupNorm, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    each = sum(signal.features) / node.num_groups
    return _per_example(signal, _affine(node, scope), node.epsilon, each, over_places=True)


@expected.register
def _(node: nn.LayerNorm, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    each = float(sum(signal.features))
    return _per_example(signal, _affine(node, scope), node.epsilon, each, over_places=False)


def root_mean_square(node: Any, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    """Expect what a norm of each place does that takes no mean out.

    Args:
      node: anything with ``scale``, ``bias`` and ``epsilon``, as a layer norm has them.
      signal: what is expected of its input.
      scope: where the node stands.
    """
    each = float(sum(signal.features))
    affine = _affine(node, scope)
    return _per_example(signal, affine, node.epsilon, each, over_places=False, centred=False)


class Over(NamedTuple):
    """What a norm's statistics run over.

    Attributes:
      self_share: share of a site with itself among the pairs of sites in one statistic.
      nodes: share of every node among them.
      inside: which nodes are pairs of sites that share statistics.
      channels: channels in one statistic.
      flat: (segments, nodes) mean product of two sites' roots of the energy, over its mean.
      per_channel: whether every channel has statistics of its own.
      centred: whether the mean is taken out.
    """

    self_share: float
    nodes: np.ndarray
    inside: np.ndarray
    channels: float
    flat: np.ndarray
    per_channel: bool
    centred: bool = True


def _per_example(
    signal: Signal,
    affine: Affine,
    epsilon: float,
    each: float,
    *,
    over_places: bool,
    centred: bool = True,
) -> tuple[Signal, Back]:
    whole = signal.merged()
    if over_places:
        self_share, nodes = signal.pairs.within(signal.spatial)
        inside = signal.pairs.same
        flat = signal.pairs.roots(whole.energy)
    else:
        self_share, nodes = 1.0, np.zeros(signal.pairs.count)
        inside = np.zeros(signal.pairs.count, bool)
        flat = np.ones_like(whole.pair)
    over = Over(self_share, nodes, inside, each, flat, False, centred)
    return _normalised(whole, affine, epsilon, over, restore=signal)


def _normalised(
    signal: Signal, affine: Affine, epsilon: float, over: Over, restore: Signal | None = None
) -> tuple[Signal, Back]:
    level = np.maximum(signal.level, 1e-300)
    common = np.zeros(len(level)) if over.per_channel else signal.mean**2
    pair = signal.pair * over.flat
    joint = over.self_share + pair @ over.nodes
    # The mean over a group of channels keeps what is common to them, and little of the rest.
    constant = (common + (joint - common) / over.channels) * over.centred
    left = np.maximum(1 - constant, 1e-9)
    crossed = (
        signal.pairs.across(pair, signal.spatial)
        if over.per_channel or over.inside.any()
        else common
    )
    across = (common + (crossed - common) / over.channels) * over.centred
    taken = np.where(over.inside, constant[:, None], across[:, None])
    centred = np.clip(signal.pairs.centred(pair, taken, left), -1, 1)
    drawn_from = signal.ideal / left**2 if signal.drawn else signal.latent
    inverse = 1 / over.channels * (over.self_share + (centred**2) @ over.nodes + drawn_from)
    variance = left * level * scaled_by(signal.log)
    divided = _divided(signal, inverse, over, epsilon / variance.mean())
    # Each channel is divided by its own size, most where the channels are most alike.
    even = 1.0
    if over.per_channel and signal.data is None:
        even = float((1 + 2 * (inverse - drawn_from + signal.latent)).mean()) ** -2
    soft = variance / (variance + epsilon)
    square = affine.scale * soft + affine.bias
    shape = (-1,) + (1,) * len(signal.spatial)
    relative = np.maximum(signal.energy / level.reshape(shape), 1e-12)
    flat = over.flat
    if over.per_channel and signal.within is not None:
        size = signal.within.reshape(len(level), -1).mean(1).reshape(shape)
        relative = np.maximum(signal.within / np.maximum(size, 1e-12), 1e-6)
        flat = signal.pairs.roots(relative)
    alike = concentrated(centred / np.maximum(flat, 1e-6), signal.pairs, even)
    over_places = over.per_channel or bool(over.inside.any())
    energy = relative if over_places else np.ones_like(relative)
    log_free = scaled_by(-signal.log)
    scaled = affine.scale * soft.reshape(shape) * energy + affine.bias
    safe = np.maximum(square, 1e-300)
    after = signal.becomes(
        0.0,
        energy=scaled * log_free,
        pair=np.clip((affine.scale * soft[:, None] * alike + affine.bias) / safe[:, None], -1, 1),
        mean=(affine.bias_mean + (not over.centred) * np.sqrt(affine.scale * soft) * signal.mean)
        / np.sqrt(safe),
        balanced=over.centred and not over.per_channel and over.channels > 1 and affine.bias == 0,
        overlap=min(signal.overlap, 1.0),
        latent=signal.latent * even,
        common=signal.common * even,
        unlike=1.0 if over.per_channel else signal.unlike,
        sizes=0.0 if over.per_channel and affine.even else None,
        cubes=signal.cubes if over.per_channel else 0.0,
        values=_standardised(signal, joint, affine) if over.per_channel else (),
    )
    # Most of what scatters in the input's energy is its mean over the sites, which is taken out.
    if signal.data is not None and over.per_channel:
        after = after._replace(
            **exactly(_of_channels(signal, affine, epsilon), signal.pairs), log=0.0
        )
    width = sum(signal.features)
    all_self, all_nodes = signal.weights
    apart = all_self + float(signal.share @ ((centred**2) @ all_nodes)) + signal.latent
    if over.per_channel:
        apart = signal.of_sizes / 2
    known = apart
    if not over.per_channel:
        known = all_self + float(signal.share @ ((signal.pair**2) @ all_nodes)) + signal.latent
    # The mean over channels of 1/variance: of d dimensions each scatters by 2/(d - 4).
    tail = 1 - min(4 * apart, 0.6) if over.per_channel else 1.0

    def doubt(sharp: float) -> Way:
        if signal.data is not None:
            return Way()  # the batch itself is no sum of random terms
        # What the signal's doubt has of it already is left out.
        loose = 2 * apart / tail / width if divided.variance is None else divided.variance
        variance = loose * sharp - 2 * known / width + signal.uneven[1]
        if divided.variance is not None and signal.spectrum is None and signal.drawn <= FEW:
            variance = loose + signal.uneven[1]  # rare channels outweigh all else
        bends = -float(signal.share @ (np.ones_like(level) * soft))
        return Way(max(variance, 0.0), signal.total.slack, bends=bends)

    def back(cotangent: Cotangent) -> Cotangent:
        sharp = 1 + cotangent.uneven if over.per_channel else 1.0
        rough = doubt(sharp)
        roots = signal.pairs.roots(cotangent.energy) if over_places else np.ones_like(pair)
        received = cotangent.pair * roots
        mean_part = over.centred * (over.self_share + received @ over.nodes) / over.channels
        tilt = cotangent.tilt
        if tilt is None:
            tilt = np.concatenate([alike * cotangent.pair, np.ones((len(level), 1))], axis=1)
        joint = (tilt[:, :-1] * roots * flat) @ over.nodes
        own_part = (over.self_share * tilt[:, -1] + joint) / over.channels
        kept = np.maximum(1 - mean_part - own_part, 1e-9)
        gain = affine.scale * kept * divided.heavy / np.maximum(variance, 1e-300) * soft
        gone = np.where(over.inside, mean_part[:, None] + own_part[:, None] * centred, 0.0)
        undone = divided.times(sharp if signal.drawn > FEW else 1.0).undone
        with_division = undone[1] / 2 if undone else 0.0
        handed = cotangent.becomes(
            rough._replace(slack=rough.slack + _loose(inverse, left, over.flat) + _unsaid(kept)),
            energy=cotangent.energy * gain.reshape(shape) * (energy / relative),
            pair=np.clip((received - gone) / kept[:, None] / np.maximum(roots, 1e-6), -1, 1),
            inverse=divided.released if over.per_channel else 1.0,
            undone=undone and undone[0],
            kernels=cotangent.kernels + with_division,
            inside=cotangent.inside + with_division,
            by_value=_of_few_terms(signal, cotangent) if over.per_channel and affine.even else (),
            sharp=sharp,
            centred=over.centred * over_places / over.channels,
        )
        return handed if restore is None else handed.regrouped(restore.features)

    if restore is not None and restore.features != after.features:
        after = after.split(restore.features)
        inner = back

        def back(cotangent: Cotangent) -> Cotangent:
            return inner(cotangent.regrouped(signal.features))

    return after, back


def _standardised(signal: Signal, joint: np.ndarray, affine: Affine) -> tuple[Values, ...]:
    """Return how the values of a norm over each channel are spread, where they are not normal.

    Where channels have means or sizes of their own, the values of one are not spread as all are;
    of sums of few terms it is their size alone that is not a normal value's.
    """
    spread = signal.spread
    if not affine.even or affine.bias != 0:
        return ()
    if spread and all(of.sized for of in spread):
        return tuple(normal(lambda z: z, 0.0, affine.scale) for _ in spread)
    alike = np.abs(joint - signal.mean**2).max() < 0.05 and not any(of.sized for of in spread)
    return tuple(of.standardised(math.sqrt(affine.scale)) for of in spread) if alike else ()


def _of_few_terms(signal: Signal, cotangent: Cotangent) -> tuple[ByValue, ...]:
    """Return the gradient's energy by the value before a norm, where that is a sum of few terms."""
    few = signal.values and all(of.sized for of in signal.values)
    return tuple(dataclasses.replace(of, sizeless=True) for of in cotangent.by_value) if few else ()


def _loose(inverse: np.ndarray, left: np.ndarray, flat: np.ndarray) -> float:
    """Return the slack of a norm's backward pass.

    It is worst where the effective dimensions are few; where nearly all of the energy is in the
    mean that is taken out, so that a small error in the correlations is a large one in the rest;
    and where borders make places unlike, of which the classes of pairs know nothing.
    """
    few = min(float(4 * inverse.max() ** 2), 0.5)
    return few + 0.03 * float((1 / left - 1).mean()) + 3 * float((1 - flat[:, -1]).mean())


def _unsaid(kept: np.ndarray) -> float:
    """Return the slack where a norm takes nearly the whole gradient out.

    Of two values that differ, all of it: what is left is owed to epsilon, in the channels where
    they hardly do.
    """
    return max(-math.log(float(kept.min()) / LEAST), 0.0)


class Divided(NamedTuple):
    """What dividing by the sizes of channels makes of energies.

    Attributes:
      heavy: E(1/variance) E(variance) over channels.
      released: what the kernel upstream makes of it again, whose entries have made the sizes.
      variance: of the logarithm of ``heavy`` over kernels; None where the norm's own rule says it.
      undone: the same of ``released``, and twice its covariance with the former.
    """

    heavy: np.ndarray | float
    released: float = 1.0
    variance: float | None = None
    undone: tuple[float, float] | None = None

    def times(self, factor: float) -> "Divided":
        """Return the same where what is undone scatters so much more, or less."""
        if self.undone is None:
            return self
        return self._replace(undone=(factor * self.undone[0], factor * self.undone[1]))


def _divided(signal: Signal, inverse: np.ndarray, over: Over, epsilon: float) -> Divided:
    """Return what a norm divides by; ``epsilon`` is relative to the variance."""
    if signal.data is not None:
        return Divided(_of_data(np.asarray(signal.data, float), over))
    if signal.spectrum is not None and signal.drawn and over.per_channel:
        return inverse_forms(signal.spectrum, signal.drawn, sum(signal.features))
    dimensions = np.maximum(1 / np.maximum(inverse, 1e-12), 2.5)
    if not signal.drawn:
        # A sum of several such vectors is less skewed than any of them: E 1/v to first order.
        alike = np.full(len(dimensions), signal.sizes) if over.per_channel else 2 / dimensions
        if signal.sizes is None:
            alike = 2 / dimensions
        return Divided((1 + alike) * signal.uneven[0], 1 / signal.uneven[0])
    # Of n independent vectors of d dimensions, w'Cw is |w|^2 times a chi square of d, exactly: the
    # kernels' own size comes in, of all channels of a group, and is undone by the kernels.
    heavy = dimensions / (dimensions - 2)
    if over.per_channel and signal.drawn <= FEW:
        of = inverse_forms(np.ones(signal.drawn), signal.drawn, sum(signal.features), epsilon)
        # What the norm's own epsilon makes softer is softened once.
        return of._replace(heavy=(1 + epsilon) * of.heavy * heavy)
    if over.per_channel and signal.drawn <= SOME:
        return _of_some_terms(signal, heavy)
    released = 1 - 2 / max(signal.drawn * over.channels, 3)
    return Divided(heavy / released, released)


def _of_some_terms(signal: Signal, heavy: np.ndarray) -> Divided:
    """Return what dividing by w'w does, and what is left of the sizes, of ``d`` dimensions."""
    width = sum(signal.features)
    of = _equal_forms(signal.drawn, min(width, ENOUGH))
    assert of.variance is not None
    part = min(width, ENOUGH) / width
    rest = 2 * max(signal.of_sizes / 2 - 1 / signal.drawn, 0.0) / width
    undone = of.times(part).undone
    return Divided(of.heavy * heavy, of.released, part * of.variance + rest, undone)


@functools.lru_cache(maxsize=256)
def _equal_forms(terms: int, channels: int) -> Divided:
    return inverse_forms(np.ones(terms), terms, channels)


def inverse_forms(spectrum: np.ndarray, terms: int, channels: int, epsilon: float = 0.0) -> Divided:
    """Return what dividing by w'Cw makes of energies, for w normal and of mean square 1.

    Where few directions hold most of C, a mean over channels is owed to the rare ones whose w'Cw is
    small: so its logarithm is taken, over many draws of all channels, as if it were normal. The
    kernel returns w'w/(w'Cw), of which the logarithm is taken likewise.

    Args:
      spectrum: eigenvalues of C; those missing up to ``terms`` are zero.
      terms: entries of w.
      channels: over which the mean is taken.
      epsilon: is added to w'Cw, relative to its expectation.
    """
    kept = np.sort(spectrum)[::-1][:terms]
    draws = int(min(max(DRAWS / (channels * terms), 8), 400))
    squares = np.random.default_rng(0).normal(size=(draws, channels, terms)) ** 2
    sizes = squares[..., : len(kept)] @ (kept / max(kept.sum(), 1e-300))
    sizes = np.maximum(sizes, 1e-12) + epsilon
    heavy, returned = (
        np.log(np.mean(of / sizes, axis=1)) for of in (np.ones_like(sizes), squares.mean(2))
    )
    covariance = np.cov(heavy, returned - heavy, ddof=0)
    means = np.exp([heavy.mean(), (returned - heavy).mean()] + np.diag(covariance) / 2)
    return Divided(
        float(means[0]),
        float(means[1]),
        float(covariance[0, 0]),
        (float(covariance[1, 1]), 2 * float(covariance[0, 1])),
    )


def _of_channels(signal: Signal, affine: Affine, epsilon: float) -> np.ndarray:
    """Return the batch itself, each channel normalised."""
    x, axes = np.asarray(signal.data, float), tuple(range(1 + len(signal.spatial)))
    x = (x - x.mean(axes)) / np.sqrt(x.var(axes) + epsilon)
    return np.sqrt(affine.scale) * x + affine.bias_mean


def _of_data(x: np.ndarray, over: Over) -> np.ndarray:
    """Return E(1/variance) E(variance) over all statistics of the batch itself."""
    groups = x.shape[-1] if over.per_channel else round(x.shape[-1] / over.channels)
    x = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    axes = (0, 1, 3) if over.per_channel else (1, 3) if over.inside.any() else (3,)
    variance = np.var(x, axis=axes) if over.centred else np.mean(x**2, axis=axes)
    seen = variance[variance > 0]
    return np.array([np.mean(1 / seen) * np.mean(seen) if len(seen) else 1.0])


def _running(node: nn.BatchNorm, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    """Apply running statistics: an affine map that follows its input's scale."""
    mean, variance = scope.values(node.mean), scope.values(node.var)
    fresh = mean is not None and variance is not None and not mean.any() and (variance == 1).all()
    if fresh or mean is None:
        scope.say(note="running statistics at initialization: nothing is normalised")
    inverse = 1.0 if variance is None else float(np.mean(1 / (variance + node.epsilon)))
    shift = 0.0 if mean is None else float(np.mean(mean**2)) * scaled_by(-signal.log)
    affine = _affine(node, scope)
    even = affine.even and (variance is None or float(np.ptp(variance)) == 0)
    affine = affine._replace(even=even)
    return _affinely(signal, affine, inverse, shift, 0.1 if shift else 0.0)


@expected.register
def _(node: nn.ResponseNorm, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    """Take a channel's size r for the root of a chi square, and the mean size for steady.

    Of d dimensions, E r^3 = (d + 1) E r, E r^4 = (d + 2) d, and (E r)^2 is d - 1/2 or nearly. The
    gradient g of y = x (1 + a n), n = r / E r, comes back as g (1 + a n) + a n x (g.x) / r^2 over
    the places. Its square is (1 + a n)^2 + o (2 a n + 3 a^2 n^2) where that of g is 1 and
    (g.x)^2 / r^2 is o, the mean over pairs of places of both correlations; (1 + 2 a)^2 where all
    are alike.
    """
    scale, affine = scope.values(node.scale), _affine(node, scope)
    if scale is None or not (scale.any() or affine.bias):
        return expected(nn.Identity(), signal, scope)
    scope.say(note="response norm with a scale: the sizes of channels are taken for chi squares'")
    self_share, nodes = signal.pairs.within(signal.spatial)
    alike = signal.pair**2 - signal.mean[:, None] ** 4
    over_d = float(signal.share @ np.clip(self_share + alike @ nodes, 0, 1))
    first, square = 2 * scale.mean(), np.mean(scale**2) / (1 - over_d / 2)
    gain = 1 + first * (1 + over_d) + square * (1 + 2 * over_d)
    # An activation makes sizes less like a chi square's, and they weigh in proportion.
    slack = 0.3 * abs(float(np.log(gain)))
    after, _ = _affinely(signal, affine._replace(scale=float(gain), even=False), slack=slack)

    def back(cotangent: Cotangent) -> Cotangent:
        along = self_share + (signal.pair * cotangent.pair) @ nodes
        returned = 1 + first + square + np.maximum(along, 0.0) * (first + 3 * square)
        shape = (-1,) + (1,) * len(signal.spatial)
        return cotangent.becomes(
            Doubt(0.0, slack / 3), energy=cotangent.energy * returned.reshape(shape)
        )

    return after, back


def _affinely(
    signal: Signal, affine: Affine, inverse: float = 1.0, shift: float = 0.0, slack: float = 0.0
) -> tuple[Signal, Back]:
    """Expect what ``scale * (x - mean) * root(inverse) + bias`` does; ``shift`` is mean squared."""
    bias = affine.bias * scaled_by(-signal.log)
    gain = affine.scale * inverse
    added = gain * shift + bias
    even = added == 0 and affine.even
    level = np.maximum(signal.level, 1e-300)
    follows = float(signal.share @ (gain * level / np.maximum(gain * level + added, 1e-300)))
    total = np.maximum(gain * level + added, 1e-300)[:, None]
    after = signal.becomes(
        follows,
        Doubt(0.0, slack),
        energy=signal.energy * gain + added,
        pair=np.clip((signal.pair * gain * level[:, None] + added) / total, -1, 1),
        mean=signal.mean * np.sqrt(gain * level / total[:, 0])
        + affine.bias_mean * scaled_by(-signal.log / 2) / np.sqrt(total[:, 0]),
        values=tuple(of.scaled(math.sqrt(gain)) for of in signal.values) if even else (),
    )

    def back(cotangent: Cotangent) -> Cotangent:
        by_value = tuple(e.scaled(1 / math.sqrt(gain)) for e in cotangent.by_value) if even else ()
        return cotangent._replace(energy=cotangent.energy * gain, tilt=None, by_value=by_value)

    return after, back
