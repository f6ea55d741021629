"""What to expect of the pools, and of squeeze-and-excitation."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from convjax import nn
from convjax.gradflow._theory._axes import Window, along, convolution
from convjax.gradflow._theory._combine import in_turn, joined
from convjax.gradflow._theory._duals import function_of, moments
from convjax.gradflow._theory._means import Matrices, averaged
from convjax.gradflow._theory._run import Back, Scope, expected
from convjax.gradflow._theory._sites import concentrated, exactly, kept_by
from convjax.gradflow._theory._state import Cotangent, Doubt, Law, Signal, Way, scaled_by
from convjax.gradflow._theory._values import ByValue, of_data

MAXIMUM_SLACK = 0.15


@expected.register
def _(node: nn.Pool, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    strides = node.window_shape if node.strides is None else node.strides
    window = convolution(signal.spatial, node.window_shape, strides=strides, padding=node.padding)
    if node.kind == "max":
        return _known(node, signal, _maximum(signal, window))
    maps = _weighted(window, count_padding=node.count_include_pad)
    return _known(node, signal, _mean(signal, maps, blurs=window.size > 1))


@expected.register
def _(node: nn.CellPool, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    if {*signal.spatial} == {node.side}:
        return expected(nn.Identity(), signal, scope)
    maps = [node.shares(size) for size in signal.spatial]
    return _known(node, signal, _mean(signal, maps, blurs=True))


@expected.register
def _(node: nn.Upsample, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    maps = [node.shares(size) for size in signal.spatial]
    return _known(node, signal, _mean(signal, maps, blurs=True))


def _known(
    node: nn.Pool | nn.CellPool | nn.Upsample, signal: Signal, found: tuple[Signal, Back]
) -> tuple[Signal, Back]:
    """Replace what is expected of the batch by what becomes of it: nothing of it is random."""
    if signal.data is None or signal.log or len(signal.features) > 1:
        return found
    with jax.ensure_compile_time_eval():
        value = np.asarray(node(jnp.asarray(signal.data, float)), float)
    after = signal.becomes(
        1.0,
        echo=found[0].echo,
        reach=found[0].reach,
        values=(of_data(value),),
        **exactly(value, signal.pairs),
    )
    return after, found[1]


def _mean(signal: Signal, maps: Matrices, *, blurs: bool) -> tuple[Signal, Back]:
    """Average over windows: neighbours' correlation decides what is left."""
    ways = [m.T for m in maps]
    pair, size = _averaged(signal.itself + signal.mean[:, None] ** 2, signal, maps)
    # Of correlations that differ by chance, a window sees the mean.
    kept, reach = kept_by(signal.reach, [round((m > 0).sum(1).mean()) for m in maps])
    energy = size.reshape(-1, *(1,) * len(maps)) * _evened(signal, maps)
    near = float(np.abs(signal.pair[:, signal.pairs.near]).mean())
    through = math.prod(float(m.sum(1).mean()) for m in maps)
    after = signal.becomes(
        1.0,
        Doubt(_unevenness(signal, maps), 0.3 * near * (1 - near) * blurs),
        energy=energy,
        pair=concentrated(pair, signal.pairs, kept),
        reach=reach,
        mean=np.clip(signal.mean * through / np.sqrt(size), -1, 1),
        echo=_echoed(signal.echo, signal, maps, size),
    )

    def back(cotangent: Cotangent) -> Cotangent:
        pair, size = _averaged(cotangent.itself, signal, ways)
        return cotangent.becomes(
            Doubt(_unevenness(signal, ways)),
            energy=size.reshape(-1, *(1,) * len(maps)) * _evened(cotangent, ways),
            pair=pair,
            echo=_echoed(cotangent.echo, signal, ways, size),
        )

    return after, back


def _weighted(window: Window, *, count_padding: bool = False) -> list[np.ndarray]:
    """Return the mean over windows as a matrix for each axis, ``(out, in)``."""
    sums = [taps.sum(0) for taps in window.axes]
    return [
        m / (len(taps) if count_padding else np.maximum(m.sum(1, keepdims=True), 1))
        for m, taps in zip(sums, window.axes, strict=True)
    ]


def _averaged(values: np.ndarray, signal: Signal, maps: Matrices) -> tuple[np.ndarray, np.ndarray]:
    """Return correlations after a linear map, and by how much it multiplies the energy."""
    found = averaged(values, signal.pairs, maps, maps)
    size = np.maximum(found[:, 0], 1e-300)
    return np.clip(found[:, 1:] / size[:, None], -1, 1), size


def _unevenness(signal: Signal, maps: Matrices) -> float:
    """Return the variance of the energy after a linear map over that before, of independent values.

    The map weighs directions unevenly: the squared spread of its spectrum, over sites and channels.
    """
    spread = [float((m.T @ m).ravel() @ (m.T @ m).ravel()) * m.shape[1] for m in maps]
    even = [float((m**2).sum()) ** 2 for m in maps]
    sites = signal.batch * math.prod(m.shape[1] for m in maps)
    uneven = math.prod(spread) / math.prod(even) - 1
    return max(2 * uneven / sites / sum(signal.features), 0.0)


def _evened(of: Signal | Cotangent, maps: Matrices) -> np.ndarray:
    """Return the energies at the places of a map's output, their mean that of its input's."""
    energy = along(of.energy, [m**2 for m in maps])
    level = energy.reshape(len(energy), -1).mean(1) / of.energy.reshape(len(energy), -1).mean(1)
    return energy / np.maximum(level, 1e-300).reshape(-1, *(1,) * len(maps))


def _echoed(
    echo: np.ndarray | None, signal: Signal, maps: Matrices, size: np.ndarray
) -> np.ndarray | None:
    if echo is None:
        return None
    alone = [np.eye(m.shape[1]) for m in maps]
    if any(m.shape[0] != m.shape[1] for m in maps):
        return None
    return averaged(echo, signal.pairs, maps, alone) / np.sqrt(size)[:, None]


def _maximum(signal: Signal, window: Window) -> tuple[Signal, Back]:
    """Take the largest of every window, of values that are alike in pairs.

    A window at the border has fewer of them: padding is never the largest.
    """
    reads = window.gather(np.ones((1, *signal.spatial)))[0].round().astype(int)
    counts, place = np.unique(reads, return_inverse=True)
    laws = signal.laws or (None,) * len(signal.features)
    sizes = counts.tolist()
    found = np.array([[_largest(signal, law, i, n) for n in sizes] for i, law in enumerate(laws)])
    often = np.bincount(place.ravel()) / place.size
    first, square, picked, beside = np.moveaxis(found, 2, 0) @ often
    shape = (-1,) + (1,) * len(signal.spatial)
    level = np.maximum(signal.level, 1e-300)
    second, mean = square * level, first * np.sqrt(level)
    energy = np.stack([of[place.reshape(window.output), 1] for of in found])
    within = signal.mean**2
    rho = (signal.pair - within[:, None]) / np.maximum(1 - within[:, None], 1e-12)
    near, far, beside_it, farther = _shared(window)
    together = 1 + beside_it + farther
    # Windows that overlap may have the same largest.
    same = np.where(signal.pairs.near, near, far) * signal.pairs.same
    spread = np.maximum(second - mean**2, 0)[:, None]
    pair = (mean[:, None] ** 2 + spread * (rho + (1 - rho) * same)) / second[:, None]
    maps = _weighted(window)
    echo = _echoed(signal.echo, signal, maps, square)
    if echo is not None:
        # A normal value has the covariance with the largest that it has with the window's mean.
        linear = averaged(signal.itself, signal.pairs, maps, [np.eye(len(m)) for m in maps])[:, 0]
        echo = echo * ((beside - first * signal.mean) / np.maximum(linear, 1e-12))[:, None]
    after = signal.becomes(
        1.0,
        Doubt(0.0, MAXIMUM_SLACK),
        energy=energy * level.reshape(shape),
        pair=np.clip(pair, -1, 1),
        mean=mean / np.sqrt(second),
        echo=echo,
    )
    places = math.prod(signal.spatial)

    def back(cotangent: Cotangent) -> Cotangent:
        # Every window hands its gradient to one place, where those of several windows add.
        near, far, *_ = signal.pairs.means(cotangent.pair).T
        total = cotangent.energy.reshape(len(second), -1).sum(1) / places
        total = total * np.maximum(1 + near * beside_it + far * farther, 0)
        share = min(math.prod(window.output) / places / together, 1.0)
        size = total / np.maximum(cotangent.energy.reshape(len(second), -1).mean(1), 1e-300)
        return cotangent.becomes(
            echo=_echoed(cotangent.echo, signal, [m.T for m in maps], size),
            energy=np.broadcast_to(total.reshape(shape), (len(total), *signal.spatial)),
            pair=cotangent.pair * share,
            picked=picked,
        )

    return after, back


WINDOWS, SAMPLES = 256, 32
"""Windows of an image, and images, on which shared maxima are counted."""


def _shared(window: Window) -> tuple[float, float, float, float]:
    """Return how often windows have the same largest value, where values are independent.

    Returns:
      The share of pairs of neighbours, and of other pairs, that do; and how many neighbours and
      others have the largest value of any one, in the mean.
    """
    sums = [taps.sum(0) for taps in window.axes]
    reach = [int(np.abs(np.subtract(*np.nonzero(s @ s.T))).max(initial=0)) for s in sums]
    if not any(reach):
        return 0.0, 0.0, 0.0, 0.0
    picks = _picks(window, round(WINDOWS ** (1 / len(sums))))
    sides = picks.shape[1:]
    near = far = neighbours = 0.0
    for step in itertools.product(*(range(-r, r + 1) for r in reach)):
        if not any(step) or any(abs(d) >= n for d, n in zip(step, sides, strict=True)):
            continue
        here, there = (_moved(sign, step, sides) for sign in (1, -1))
        same = float((picks[here] == picks[there]).mean())
        held = math.prod(1 - abs(d) / n for d, n in zip(step, window.output, strict=True))
        if max(map(abs, step)) == 1:
            near, neighbours = near + same * held, neighbours + held
        else:
            far += same * held
    others = math.prod(window.output) - 1 - neighbours
    return near / max(neighbours, 1e-9), far / max(others, 1.0), near, far


def _moved(sign: int, step: Sequence[int], sides: Sequence[int]) -> tuple[slice, ...]:
    """Return those places of an image from which one is reached by a step, in one direction."""
    moves = [sign * d for d in step]
    ends = zip(moves, sides, strict=True)
    return (slice(None), *(slice(max(-d, 0), n - max(d, 0)) for d, n in ends))


def _picks(window: Window, most: int) -> np.ndarray:
    """Return which place is largest in each window: ``(samples, *output)``, or a corner of it."""
    axes = [np.where(t.any(2), t.argmax(2), -1).T[:most] for t in window.axes]
    index = np.zeros((1, 1), int)
    for reads, taps in zip(axes, window.axes, strict=True):
        outer, inner = index[:, None, :, None], reads[None, :, None, :]
        joined = np.where((outer < 0) | (inner < 0), -1, outer * taps.shape[2] + inner)
        index = joined.reshape(len(index) * len(reads), -1)
    values = np.random.default_rng(0).normal(size=(SAMPLES, index.max() + 2))
    values[:, -1] = -np.inf
    best = values[:, index].argmax(2)
    return index[np.arange(len(index)), best].reshape(SAMPLES, *(len(reads) for reads in axes))


def _largest(
    signal: Signal, law: Law | None, i: int, count: int
) -> tuple[float, float, float, float]:
    """Return mean and mean square of the largest of a window, in units of one entry's RMS.

    And how many times larger than elsewhere the mean squared slope of the activation is there, and
    the mean product of the largest and any one of the window.
    """
    level = float(signal.level[i]) * scaled_by(signal.log)
    if law is None:
        mean = float(signal.mean[i]) * math.sqrt(level)
        law = Law("linear", None, mean, max(level - mean**2, 1e-300))
    rho = float(signal.pair[i][signal.pairs.near].mean())
    within = float(signal.mean[i]) ** 2
    rho = min(max((rho - within) / max(1 - within, 1e-12), 0.0), 1 - 1e-6)
    known = function_of(law.name, law.function)
    shared, weight = np.polynomial.hermite_e.hermegauss(24)
    weight = weight / weight.sum()
    grid = np.linspace(-7, 7, 401)
    z = math.sqrt(rho) * shared[:, None] + math.sqrt(1 - rho) * grid
    # Distribution of the largest of `count` independent ones on the grid.
    steps = np.diff(scipy.special.ndtr(grid) ** count, prepend=0.0)
    z = law.mean + math.sqrt(law.variance) * z
    value, density = known.value(z), np.exp(-(grid**2) / 2)
    below = np.cumsum(value * density, axis=1) / np.cumsum(density)
    largest = value
    slope = float(weight @ known.slope(z) ** 2 @ steps)
    first = float(weight @ largest @ steps)
    square = float(weight @ largest**2 @ steps)
    beside = (square + (count - 1) * float(weight @ (largest * below) @ steps)) / count
    unit = max(level, 1e-300)
    elsewhere = moments(law.name, law.function, law.mean, law.variance).slope
    return first / math.sqrt(unit), square / unit, slope / max(elsewhere, 1e-300), beside / unit


@expected.register
def _(node: nn.GlobalPool, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    return _global(node, signal)


def _global(node: nn.GlobalPool, signal: Signal) -> tuple[Signal, Back]:
    places = math.prod(signal.spatial)
    spatial = (1,) * len(signal.spatial) if node.keepdims else ()
    self_share, nodes = signal.pairs.within(signal.spatial)
    flat = np.sqrt(signal.energy).reshape(len(signal.features), -1).mean(1) ** 2
    level = np.maximum(signal.level, 1e-300)
    if node.kind == "avg":
        square = self_share * level + signal.pair @ nodes * flat
        mean = signal.mean * np.sqrt(flat)
        slack = 0.02
    else:
        laws = signal.laws or (None,) * len(signal.features)
        found = [_largest(signal, law, i, places) for i, law in enumerate(laws)]
        square = np.array([f[1] for f in found]) * level
        mean = np.array([f[0] for f in found]) * np.sqrt(level)
        slack = 2 * MAXIMUM_SLACK
    square = np.maximum(square, 1e-300)
    across = signal.pairs.across(signal.pair, signal.spatial)
    pair = np.where(signal.pairs.same, 1.0, (across * flat / square)[:, None])
    count = sum(signal.features)
    alike = 1 / signal.batch + float((across**2).mean())
    # Correlations that are not what they are expected to be are so at all places.
    loose = signal.overlap * (1 - self_share) * float((flat / square).max()) ** 2
    after = signal.becomes(
        1.0,
        Doubt(math.log1p(2 * alike / count + loose * (node.kind == "avg")), slack),
        energy=square.reshape(-1, *spatial),
        pair=np.clip(pair, -1, 1),
        mean=mean / np.sqrt(square),
    )

    def back(cotangent: Cotangent) -> Cotangent:
        energy = cotangent.energy.reshape(len(cotangent.features), -1).sum(1)
        share = 1 / places**2 if node.kind == "avg" else 1 / places
        same = 1.0 if node.kind == "avg" else 1 / places
        full = np.stack([np.full(signal.spatial, e * share) for e in energy])
        pair = np.where(signal.pairs.same, same, cotangent.pair)
        return cotangent.becomes(energy=full, pair=pair)

    return after, back


@expected.register
def _(node: nn.SqueezeExcite, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    own = signal._replace(own=Doubt(), carry=1.0)
    inner = scope._replace(rows=[])
    squeezed, back = _global(nn.GlobalPool("avg", keepdims=True), own)
    backs = [back]
    for leaf in (node.reduce, node.activation, node.expand):
        squeezed, back = expected(leaf, squeezed, inner)
        backs.append(back)
    return gated(signal, squeezed, in_turn(backs), node.gate.name, node.gate.function)


def gated(
    signal: Signal, squeezed: Signal, back_squeezed: Back, name: str, function: Any
) -> tuple[Signal, Back]:
    """Expect what the product with a gate does, and what flows back through the gate.

    The gate of one channel and example, h(z), is handed the sum over the places of gradient times
    value, of mean square e e' (P + the sum over pairs of places of both correlations), times h'(z).

    Args:
      signal: what is multiplied.
      squeezed: what the gate is a function of, one vector an example.
      back_squeezed: from the gradient there to that of the signal.
      name: of that function, if it is a known activation.
      function: the function itself.
    """
    level = float(squeezed.level[0]) * scaled_by(squeezed.log)
    mean = float(squeezed.mean[0]) * math.sqrt(level)
    variance = max(level - mean**2, 1e-12)
    gate = moments(name, function, mean, variance)
    rho = np.clip((squeezed.pair[0] * level - mean**2) / variance, -1, 1)
    tied = np.where(signal.pairs.same, 1.0, gate.pair(rho) / gate.second)
    points, weights = np.polynomial.hermite_e.hermegauss(24)

    def opened(size: float = 1.0) -> np.ndarray:
        """Return gates, of z that are larger by a factor."""
        return function_of(name, function).value(size * (mean + variance**0.5 * points))

    def squares(size: float = 1.0) -> np.ndarray:
        return np.maximum(opened(size) ** 2, 1e-6)

    def expect(values: np.ndarray) -> float:
        return float(values @ weights / weights.sum())

    # All of z are a sum of the same few squeezed features, and large or small together; the mean
    # of the logarithm is, to first order, that at their mean size.
    large, small = (squares(math.exp(s / 2)) for s in (0.1, -0.1))
    sway, sway_back = (
        (math.log(expect(large**k) / expect(small**k)) / 0.2) ** 2 * squeezed.total.variance
        for k in (1, -1)
    )
    more, more_back = math.exp(sway / 2), math.exp(sway_back / 2)
    # Of gates far open or closed few pass a gradient on; how many, depends on their size.
    peaked = float(gate.gate_pair(np.ones(1))[0])
    ends = [moments(name, function, mean, variance * math.exp(s)).slope for s in (0.1, -0.1)]
    bend = math.log(max(ends[0], 1e-300) / max(ends[1], 1e-300)) / 0.2
    square = squares()
    gates = opened() * math.sqrt(more), weights / weights.sum()
    spread = expect(square**2) / expect(square) ** 2 - 1
    backwards = expect(square**-2) / expect(1 / square) ** 2 - 1
    others = max(float(squeezed.pairs.across(rho[None], squeezed.spatial)[0]), 0.0)
    alike = others + (1 - others) / signal.batch
    width = sum(signal.features)
    # Few channels count where their energies are unlike.
    few = 1 / (1 + width / signal.unlike)
    doubt = Doubt(math.log1p(spread * alike * few) + sway, 0.05)
    unlike_back = math.log1p(others * backwards / width) + sway_back
    after = signal.becomes(
        1.0,
        doubt,
        energy=signal.energy * gate.second * more,
        pair=signal.pair * tied,
        mean=signal.mean * gate.mean / math.sqrt(gate.second),
        values=tuple(of.times(*gates) for of in signal.spread),
        uneven=(
            more_back * (1 + others * (expect(square) * expect(1 / square) - 1)),
            # What the signal's own doubt has of it is left out.
            unlike_back - doubt.variance,
        ),
    )

    def back(cotangent: Cotangent) -> Cotangent:
        # A norm downstream has made smaller what a large gate enlarged, and the other way round.
        divided = cotangent.inverse != 1
        start = cotangent._replace(own=Way())
        noise = math.log1p((1 + cotangent.uneven) * spread * alike / width) + sway
        loose = unlike_back if divided else noise
        # The gates make signal and gradient larger alike.
        direct = start.becomes(
            Way(loose, doubt.slack, loose),
            energy=cotangent.energy
            * gate.second
            * cotangent.inverse
            * (more_back**2 if divided else more),
            pair=cotangent.pair * tied,
            by_value=_by_factor(cotangent, signal, *gates),
        )
        steered, unsure = steering(start, divided=divided)
        through = back_squeezed(steered.regrouped(squeezed.features)).regrouped(signal.features)
        ratio = math.exp(through.log_energy(signal.batch) - direct.log_energy(signal.batch))
        mean, variance = few_open(ratio, unsure)
        total = joined(signal, direct, through)
        own = total.own._replace(variance=total.own.variance + variance)
        return total._replace(
            energy=total.energy * math.exp(mean + variance / 2) / (1 + ratio),
            own=own,
        )

    def steering(cotangent: Cotangent, *, divided: bool) -> tuple[Cotangent, float]:
        both = cotangent.pair * signal.pair
        self_share, nodes = signal.pairs.within(signal.spatial)
        places = math.prod(signal.spatial)
        own = np.maximum(self_share + both @ nodes, 0.0)
        across = signal.pairs.across(both, signal.spatial) / np.maximum(own, 1e-300)
        if divided:
            # Behind a norm gradient times value has no mean over the batch.
            own = own * np.clip((1 - across) * (1 - 1 / signal.batch), 0, 1)
            across = np.full_like(across, -1 / max(signal.batch - 1, 1))
        across = across * float(gate.slope_pair(np.array([others]))[0]) / max(gate.slope, 1e-300)
        level = cotangent.energy.reshape(len(own), -1).mean(1) * cotangent.inverse
        values = signal.level * scaled_by(signal.log)
        energy = gate.slope * places**2 * level * values * own
        alike = 1 / signal.batch + (1 - 1 / signal.batch) * float((across**2).mean())
        handed = cotangent.becomes(
            Doubt(bend**2 * squeezed.total.variance, doubt.slack),
            energy=energy.reshape(-1, *(1,) * len(squeezed.spatial)),
            pair=np.clip(np.where(signal.pairs.same, 1.0, across[:, None]), -1, 1),
        )
        return handed, (3 * peaked * signal.unlike - 1) * alike / width

    return after, back


def _by_factor(
    cotangent: Cotangent, signal: Signal, gates: np.ndarray, often: np.ndarray
) -> tuple[ByValue, ...]:
    """Return a gradient's energy by the value that was multiplied; empty where none is followed."""
    every = zip(cotangent.by_value, signal.spread, strict=False)
    return tuple(of.without_factor(values, gates, often) for of, values in every)


def few_open(ratio: float, variance: float) -> tuple[float, float]:
    """Return mean and variance of log(1 + ratio g), g of a gamma law with mean 1 and this variance.

    What comes back through gates that saturate comes through the few in between: of n in the mean,
    each as likely, none with probability exp(-n), and most of the mean is owed to rare cases. The
    gamma law of shape n is the sum of exponential shares that has the same first two moments.

    Args:
      ratio: expected energy through the gates over the rest, which is sure.
      variance: relative variance of the former.

    Example:
      >>> from convjax.gradflow._theory._pools import few_open
      >>> mean, variance = few_open(100.0, 1e-6)
      >>> round(mean, 2), round(few_open(100.0, 4.0)[0], 2)  # log(101), and far below it
      (4.62, 2.86)
    """
    shape = 1 / max(variance, 1e-6)
    chance = (np.arange(400) + 0.5) / 400
    logs = np.log1p(ratio * scipy.special.gammaincinv(shape, chance) / shape)
    return float(logs.mean()), float(logs.var())
