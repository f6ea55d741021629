"""What to expect of the leaves that act on every entry by itself, or on whole examples."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from convjax import nn
from convjax.gradflow._theory._duals import Moments, function_of, moments
from convjax.gradflow._theory._run import Back, Scope, expected
from convjax.gradflow._theory._sites import at_sites, chosen_sites, class_nodes, exactly
from convjax.gradflow._theory._state import Cotangent, Doubt, Gate, Law, Signal, Way, scaled_by
from convjax.gradflow._theory._values import ByValue, Values, normal, of_data, scaled

Pair = Callable[[np.ndarray], np.ndarray]
"""A function of the correlation of two values."""


@expected.register
def _(node: nn.Identity, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    return signal, lambda cotangent: cotangent


@expected.register
def _(node: nn.Scale, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    fixed = isinstance(node.value, float)
    value: Any = node.value if fixed else scope.values(node.value)
    value = np.broadcast_to(1.0 if value is None else value, (sum(signal.features),))
    parts = np.split(value, np.cumsum(signal.features)[:-1])
    square = np.array([np.mean(part**2) for part in parts])
    energy = square.reshape(-1, *(1,) * len(signal.spatial))
    means = np.array([np.mean(part) for part in parts])
    # Channels that are multiplied alike keep their mean; where signs differ, it is lost.
    kept = np.where(square > 0, means / np.sqrt(np.maximum(square, 1e-300)), 1.0)
    even = float(np.ptp(value**2)) == 0
    after = signal.becomes(
        1.0,
        energy=signal.energy * energy,
        mean=signal.mean * kept,
        drawn=signal.drawn if even else 0,
        echo=None if signal.echo is None else signal.echo * kept[:, None],
    )

    def back(cotangent: Cotangent) -> Cotangent:
        return cotangent._replace(energy=cotangent.energy * energy, by_value=())

    return after, back


@expected.register
def _(node: nn.Activation, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    if signal.data is not None and not signal.log and len(signal.features) == 1:
        return _of_the_batch(node, signal, signal.data)
    signal = signal._replace(values=signal.spread)
    known = function_of(node.name, node.function)
    found = [_moments(node, signal, i) for i in range(len(signal.features))]
    share = signal.share
    maps = [_by_place(node, signal, i) for i in range(len(signal.features))]
    if signal.values:
        plain = [
            moments(node.name, node.function, *_normal(node, signal, i)) for i in range(len(maps))
        ]
        maps = [_refitted(of, n, m) for of, n, (_, m) in zip(maps, plain, found, strict=True)]
    energy = np.array([square for square, _ in maps]) * scaled_by(-_size(node, signal))
    slopes = np.array([slope for _, slope in maps])
    elastic = np.array([m.elasticity for _, m in found])
    self_share, nodes = signal.weights
    pair = np.array([m.pair(r) / max(m.second, 1e-300) for r, m in found])
    mean = np.array([m.mean / math.sqrt(max(m.second, 1e-300)) for _, m in found])
    # Channels' energies that are more unlike than normal values' make all sums over them scatter.
    usual = self_share + float(share @ ((signal.itself[:, 1:] ** 2) @ nodes))
    more = max(signal.unlike / (1 + 2 * usual), 1.0)
    each = share**2 / signal.features
    loud = [_loudest(node, signal, i, m) for i, (_, m) in enumerate(found)]

    def noise(again: np.ndarray) -> np.ndarray:
        """Return what the function adds, channel by channel, times what it adds in other units."""
        return more * np.array(
            [_noise(signal, m, r, again) for (r, _), m in zip(found, loud, strict=True)]
        )

    fresh_noise = noise(np.ones(1))[:, 0]
    doubt = math.log1p(max(float(each @ fresh_noise), 0.0))
    bends = [_bend(node, signal, i) for i in range(len(signal.features))]
    steepness = float(share @ [_steepness(m) for _, m in found])
    latent = signal.latent * steepness
    passed = float(share @ [_mean_slope(m) ** 2 / max(m.slope, 1e-300) for _, m in found])
    fresh = (np.array([m.square_pair(r) for r, m in found]) - pair**2) @ nodes
    # A channel that is large throughout is so within, too, once it is bent.
    signal = signal._replace(total=signal.total._replace(centred=None))
    after = signal.becomes(
        float(share @ elastic),
        Doubt(doubt),
        energy=energy,
        pair=np.clip(pair, -1, 1),
        mean=mean,
        # What scatters is what the channels are drawn from; and the mean over those there are.
        overlap=min(signal.common * steepness + float(share @ fresh) / sum(signal.features), 1.0),
        latent=latent,
        common=signal.common * steepness,
        kernels=signal.kernels * math.sqrt(steepness) * passed,
        cubes=_cubes_after(signal, pair, share, found),
        unlike=1
        + float(share @ elastic) ** 2 * (signal.unlike - 1)
        + max(float(share @ fresh_noise), 0.0),
        laws=tuple(_law(node, signal, i) for i in range(len(signal.features))),
        values=tuple(of.through(known.value) for of in signal.values),
        echo=None if signal.echo is None else signal.echo * _follows(node, signal, found),
    )
    if signal.echo is not None:
        after = after._replace(gate=Gate.of(doubt, lambda again: each @ noise(again)))

    def back(cotangent: Cotangent) -> Cotangent:
        safe = np.maximum([m.slope for _, m in found], 1e-300)
        gate = np.array([m.slope_pair(r) for r, m in found]) / safe[:, None]
        tilt = np.array(
            [
                np.append(m.tilt_pair(r) * t, m.tilt_pair(np.ones(1))) / s
                for (r, m), t, s in zip(found, cotangent.pair, safe, strict=True)
            ]
        )
        tau = cotangent.pair**2 + cotangent.latent
        gates = [_opened(node, signal, cotangent, i, m) for i, (_, m) in enumerate(found)]
        itself = [float(pair(np.ones(1))[0]) for pair in gates]
        opened = np.array([pair(r) for pair, (r, _) in zip(gates, found, strict=True)])
        scatter = [
            self_share * 3 * (s - 1) * cotangent.peak
            + float(nodes @ ((o - 1) * (1 + 2 * t)))
            - b**2 * _of_squares(signal, i, found[i][0], np.ones(1))[0]
            for i, (s, o, t, b) in enumerate(zip(itself, opened, tau, bends, strict=True))
        ]
        parts = cotangent.share
        usual = 1 + 2 * float(parts @ (tau @ nodes)) + 2 * self_share
        more = max((1 + cotangent.uneven) / usual, 1.0)
        each = more * parts**2 / signal.features
        doubt = math.log1p(max(float(each @ scatter), 0.0))

        def with_others(again: np.ndarray) -> np.ndarray:
            """Return the covariance with other units': there are weights between the cotangents."""
            return each @ np.array(
                [
                    _openings(signal, m, r, again) - b**2 * _of_squares(signal, i, r, again)
                    for i, ((r, m), b) in enumerate(zip(found, bends, strict=True))
                ]
            )

        latent = cotangent.latent * float((nodes * gate**2).sum(1).mean() + self_share)
        alone = max(itself)
        fresh = (opened * (1 + 2 * tau) - (gate * cotangent.pair) ** 2) @ nodes
        # Of what makes sites unlike, not what makes all of them larger.
        together = (opened * (1 + 2 * tau) - 1) @ nodes
        apart = (1 - self_share) * (3 * alone - 1) - float(parts @ together)
        steep = slopes
        if cotangent.picked is not None:
            steep = slopes * cotangent.picked.reshape(-1, *(1,) * len(signal.spatial))
        by_value, steeper = _by_value(node, signal, cotangent)
        if by_value:
            steep = steep * steeper.reshape(-1, *(1,) * len(signal.spatial))
        return cotangent.becomes(
            # A signal that is larger than expected meets other slopes.
            Way(doubt, bends=float(parts @ bends)),
            centred=0.0,
            energy=cotangent.energy * steep,
            by_value=by_value,
            pair=gate * cotangent.pair,
            tilt=tilt,
            echo=None
            if cotangent.echo is None
            else cotangent.echo * [[_mean_slope(m)] for _, m in found] / np.sqrt(safe)[:, None],
            overlap=min(latent + float(parts @ fresh) / sum(signal.features), 1.0),
            latent=min(latent, 1.0),
            peak=cotangent.peak * (1 + max(apart, 0.0) / sum(signal.features)),
            uneven=more
            * (1 + self_share * (3 * alone * cotangent.peak - 1) + float(parts @ together))
            - 1,
            gate=None if signal.echo is None else Gate.of(doubt, with_others),
        )

    return after, back


def _of_the_batch(node: nn.Activation, signal: Signal, x: np.ndarray) -> tuple[Signal, Back]:
    """Apply a function to values that are known: nothing of them, nor of its slopes, is random."""
    known = function_of(node.name, node.function)
    value, slope = known.value(x), known.slope(x)
    found = [_moments(node, signal, 0)]
    law = (_law(node, signal, 0),)
    after = signal.becomes(
        1.0,
        laws=law,
        values=(of_data(value),),
        echo=None if signal.echo is None else signal.echo * _follows(node, signal, found),
        **exactly(value, signal.pairs),
    )
    level = max(float(np.mean(slope**2)), 1e-300)
    gate, _ = _pairs_of(slope / math.sqrt(level), signal)
    unit = math.sqrt(level * max(float(np.mean(x**2)), 1e-300))
    tilt, tilted = _pairs_of(slope * x / unit, signal)
    opened, alone = _pairs_of(slope**2 / level, signal)
    self_share, nodes = signal.weights

    def back(cotangent: Cotangent) -> Cotangent:
        tau = cotangent.pair[0] ** 2 + cotangent.latent
        latent = cotangent.latent * float(nodes @ gate**2 + self_share)
        fresh = float(nodes @ (opened * (1 + 2 * tau) - (gate * cotangent.pair[0]) ** 2))
        scatter = self_share * (alone - 1) * cotangent.peak + float(nodes @ ((opened - 1) * tau))
        by_value, more = _by_value(node, signal, cotangent)
        return cotangent.becomes(
            Doubt(2 * max(scatter, 0.0) / x.shape[-1]),
            energy=cotangent.energy * np.mean(slope**2, axis=(0, -1)) * more,
            by_value=by_value,
            pair=cotangent.pair * gate,
            tilt=np.append(tilt * cotangent.pair[0], tilted)[None],
            overlap=min(latent + fresh / x.shape[-1], 1.0),
            latent=latent,
            echo=None
            if cotangent.echo is None
            else cotangent.echo * np.mean(slope) / math.sqrt(level),
        )

    return after, back


def _pairs_of(values: np.ndarray, signal: Signal) -> tuple[np.ndarray, float]:
    """Return the mean product of known values at every pair of sites, and of one with itself."""
    sites, square = chosen_sites(len(values), signal.spatial), float(np.mean(values**2))
    found = at_sites(values, sites)
    return class_nodes(found @ found.T, sites, signal.pairs) * square, square


def _size(node: nn.Activation, signal: Signal) -> float:
    """Return the logarithm of the scale at which a function acts: homogeneous ones have none."""
    return 0.0 if node.name in HOMOGENEOUS else signal.log


def _normal(node: nn.Activation, signal: Signal, i: int) -> tuple[float, float]:
    """Return mean and variance of one segment's entries."""
    return signal.normal(i, _size(node, signal))


def _normal_values(signal: Signal, i: int) -> Values:
    """Return how a segment's entries are spread, where they are normal."""
    return normal(lambda z: z, *signal.normal(i))


def _values(node: nn.Activation, signal: Signal, i: int) -> Values:
    """Return how a segment's entries are spread, normal ones too."""
    return signal.values[i] if signal.values else normal(lambda z: z, *_normal(node, signal, i))


def _moments(node: nn.Activation, signal: Signal, i: int) -> tuple[np.ndarray, Moments]:
    """Return the correlations of a segment's normal entries, and the activation's integrals."""
    mean, variance = _normal(node, signal, i)
    square = float(signal.mean[i]) ** 2
    rho = np.clip((signal.pair[i] - square) / max(1 - square, 1e-12), -1, 1)
    m = moments(node.name, node.function, mean, variance)
    return rho, _adjusted(m, node, signal.values[i]) if signal.values else m


def _adjusted(m: Moments, node: nn.Activation, values: Values) -> Moments:
    """Return the moments of values that are not normal; pairs as far between as normal ones are.

    Between independent ones and equal ones, that is; or, where but the size of all is not what it
    is of normal values, between nothing and equal ones.
    """
    known = function_of(node.name, node.function)
    mean, second = values.mean(known.value), values.mean(lambda z: known.value(z) ** 2)
    steep, slope = values.mean(known.slope), values.mean(lambda z: known.slope(z) ** 2)
    elastic = _following(lambda z: known.value(z) ** 2, values)
    size = max(values.mean(np.square), 1e-300)

    def noise(z: np.ndarray) -> np.ndarray:
        bent = known.value(z) ** 2 / max(second, 1e-300) - 1
        return (bent - elastic * (z**2 / size - 1)) ** 2

    def between(pair: Pair, low: float, high: float) -> Pair:
        ends = pair(np.array([0.0, 1.0]))
        if values.sized:
            ends[0] = low = 0.0
        width = max(float(ends[1] - ends[0]), 1e-12)
        return lambda rho: low + (high - low) * (pair(rho) - ends[0]) / width

    return m._replace(
        elasticity=elastic,
        mean=mean,
        second=second,
        slope=slope,
        pair=between(m.pair, mean**2, second),
        slope_pair=between(m.slope_pair, steep**2, slope),
        noise_pair=_reaching(m.noise_pair, values, 0.0, values.mean(noise)),
    )


def _reaching(pair: Pair, values: Values, apart: float, alone: float) -> Pair:
    """Return a covariance that is another one of values with themselves, which are not normal."""
    before = float(pair(np.ones(1))[0]) - apart
    if values.sized or before < 1e-9:
        return pair
    return lambda rho: apart + (pair(rho) - apart) * ((alone - apart) / before)


def _by_value(
    node: nn.Activation, signal: Signal, cotangent: Cotangent
) -> tuple[tuple[ByValue, ...], np.ndarray]:
    """Return the energy handed back by the value before, and by how much more comes back so."""
    if signal.log or not (signal.values or cotangent.by_value):
        return (), np.ones(len(signal.features))
    known = function_of(node.name, node.function)
    found, more = [], []
    for i in range(len(signal.features)):
        values = _values(node, signal, i)
        even = ByValue(values, np.ones_like(values.weight))
        of = cotangent.by_value[i] if cotangent.by_value else even
        before, energy = of.before(known.value, known.slope, values)
        found.append(before)
        more.append(energy / max(even.before(known.value, known.slope, values)[1], 1e-300))
    return tuple(found), np.array(more)


def _opened(node: nn.Activation, signal: Signal, cotangent: Cotangent, i: int, m: Moments) -> Pair:
    """Return ``gate_pair`` where most of the gradient's energy belongs to some of the values."""
    if signal.log or not cotangent.by_value:
        return m.gate_pair
    known, values = function_of(node.name, node.function), _values(node, signal, i)
    weight = values.weight * cotangent.by_value[i](known.value(values.at))
    slope = known.slope(values.at) ** 2
    alone = (weight @ slope**2) * weight.sum() / max(weight @ slope, 1e-300) ** 2
    return _reaching(m.gate_pair, values, 1.0, max(float(alone), 1.0))


def _loudest(node: nn.Activation, signal: Signal, i: int, m: Moments) -> Moments:
    """Return the moments in the channels that hold the energy, where these differ in size.

    Sums over channels scatter as the squares of these energies do, so that a channel's size counts
    by its square: of normal values but for a size S, of mean 1, E S^3 / E S^2 from their moments.
    """
    if not signal.values or not signal.values[i].sized or node.name in HOMOGENEOUS:
        return m
    fourth, sixth = (signal.values[i].mean(lambda y, k=k: y**k) for k in (4, 6))
    mean, variance = _normal(node, signal, i)
    size = (sixth / 15) / max(fourth / 3, 1e-300) / variance
    return moments(node.name, node.function, mean, variance * size)


def _noise(signal: Signal, m: Moments, rho: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Return the relative variance, per channel, that the function adds to the energy.

    Or its covariance with what it adds in other units, by the correlations ``again`` of the values
    with theirs.
    """
    self_share, nodes = signal.weights
    # What is linear in the values is their mean: a norm takes each channel's out, and where
    # channels sum to zero it cancels.
    linear, cubic = _odd(m.noise_pair)
    mean = max(self_share + float(rho @ nodes), 0.0)
    skewed = cubic * again**3 * signal.cubes * (1 - mean) ** 3
    among = np.multiply.outer(again, rho)
    alone, along = m.noise_pair(again) - linear * again, m.noise_pair(among) - linear * among
    # Centred sites cancel in expectation, but not one by one: a site with itself is the least.
    rest = self_share * alone + np.maximum(along @ nodes, 0.0) + skewed
    return rest if signal.balanced else linear * again * mean + rest


def _cubes_after(
    signal: Signal, pair: np.ndarray, share: np.ndarray, found: list[tuple[np.ndarray, Moments]]
) -> float:
    """Return the mean cube of what scatters in the correlations behind an activation.

    Of a scatter x of variance t, ``s x + c x**2 / 2`` has ``s**3`` times its cube and ``3 s**2 c
    t**2`` more, in shares of the energy that each channel's mean leaves.
    """
    self_share, nodes = signal.weights
    left = np.maximum(1 - self_share - pair @ nodes, 0.05)
    steps = np.array([-0.05, 0.0, 0.05])
    ends = np.array([m.pair(steps) / max(m.second, 1e-300) for _, m in found]) / left[:, None]
    slope = min(float(share @ (ends[:, 2] - ends[:, 0])) / 0.1, 1.0)
    curve = float(share @ (ends[:, 2] - 2 * ends[:, 1] + ends[:, 0])) / 0.0025
    return min(slope**3 * signal.cubes + 3 * slope**2 * max(curve, 0.0) * signal.latent**2, 1.0)


def _odd(pair: Pair) -> tuple[float, float]:
    """Return the coefficients of rho and of its cube."""
    ends = pair(np.array([-0.1, -1e-3, 1e-3, 0.1]))
    linear = float(ends[2] - ends[1]) / 2e-3
    return linear, (float(ends[3] - ends[0]) / 2 - 0.1 * linear) / 1e-3


def _openings(signal: Signal, m: Moments, rho: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Return the covariance of the squared slopes, per channel, with those of other units."""
    self_share, nodes = signal.weights
    along = m.gate_pair(np.multiply.outer(again, rho)) - 1
    return self_share * (m.gate_pair(again) - 1) + along @ nodes


def _of_squares(signal: Signal, i: int, rho: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Return the same of the squares of normal values: what ``_bend`` says slopes follow of it."""
    self_share, nodes = signal.weights
    square = float(signal.mean[i]) ** 2

    def pair(rho: np.ndarray) -> np.ndarray:
        return 2 * (1 - square) ** 2 * rho**2 + 4 * square * (1 - square) * rho

    return self_share * pair(again) + pair(np.multiply.outer(again, rho)) @ nodes


def _by_place(node: nn.Activation, signal: Signal, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Return E f**2 and E f'**2 at every place: places differ in energy, at borders for one."""
    mean, variance = _normal(node, signal, i)
    level = float(signal.level[i])
    if level == 0:
        # A silent branch: the function at zero itself, which decides for a kink.
        zero, known = np.zeros(signal.spatial), function_of(node.name, node.function)
        return np.asarray(known.value(zero) ** 2), np.asarray(known.slope(zero) ** 2)
    relative = np.asarray(np.maximum(signal.energy[i] / max(level, 1e-300), 1e-12))
    if node.name in HOMOGENEOUS and mean == 0:
        m = moments(node.name, node.function, 0.0, variance)
        return np.asarray(relative * m.second), np.full_like(relative, m.slope)
    ends = np.log([relative.min(), relative.max()])
    grid = np.linspace(ends[0], ends[1], 3) if ends[1] - ends[0] > 0.01 else np.zeros(1)
    at = [
        moments(node.name, node.function, mean * math.exp(g / 2), variance * math.exp(g))
        for g in grid.tolist()
    ]
    place = np.log(relative)
    second = np.exp(np.interp(place, grid, np.log([max(m.second, 1e-300) for m in at])))
    return np.asarray(second), np.asarray(np.interp(place, grid, [m.slope for m in at]))


def _refitted(of: tuple[np.ndarray, np.ndarray], normal: Moments, m: Moments) -> Any:
    """Return maps of normal values' moments, moved to those that they have."""
    square, slope = of
    return square * m.second / max(normal.second, 1e-300), slope * m.slope / max(
        normal.slope, 1e-300
    )


def _mean_slope(m: Moments) -> float:
    """Return E f'; of an activation it is positive."""
    return math.sqrt(max(float(m.slope_pair(np.zeros(1))[0]), 0.0))


def _follows(
    node: nn.Activation, signal: Signal, found: list[tuple[np.ndarray, Moments]]
) -> np.ndarray:
    """Return what of a covariance with z is left of f(z), in units of the root mean squares.

    Whatever is normal with z has covariance E f' times that with z (Stein).
    """
    squares = [
        sum(part ** (2 - i) for i, part in enumerate(_normal(node, signal, k)))
        for k in range(len(found))
    ]
    return np.array(
        [
            [_mean_slope(m) * math.sqrt(square / max(m.second, 1e-300))]
            for square, (_, m) in zip(squares, found, strict=True)
        ]
    )


HOMOGENEOUS = ("relu", "leaky_relu", "linear")


def _bend(node: nn.Activation, signal: Signal, i: int) -> float:
    """Return how the logarithm of E f'**2 follows that of the energy."""
    if node.name in HOMOGENEOUS:
        return 0.0
    known = function_of(node.name, node.function)
    values = _values(node, signal, i)
    return _following(lambda z: known.slope(z) ** 2, values)


def _following(f: Callable[[np.ndarray], np.ndarray], values: Values) -> float:
    """Return how the logarithm of E f follows that of the values' energy."""
    ends = [values.scaled(math.exp(s / 2)).mean(f) for s in (0.1, -0.1)]
    return math.log(max(ends[0], 1e-300) / max(ends[1], 1e-300)) / 0.2


def _steepness(m: Moments) -> float:
    """Return how much the squared scatter of correlations about zero is multiplied by."""
    step = 1e-3
    ends = m.pair(np.array([step, -step])) / max(m.second, 1e-300)
    return float((ends[0] - ends[1]) / (2 * step)) ** 2


def _law(node: nn.Activation, signal: Signal, i: int) -> Law:
    return Law(node.name, node.function, *_normal(node, signal, i))


@expected.register
def _(node: nn.Dropout, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    rate = node.rate if scope.train else 0.0
    count = signal.batch * math.prod(signal.spatial) * sum(signal.features)
    after, back_dropped = _dropped(rate, signal, count, 1 - rate)
    if rate == 0 or signal.log:
        return after, back_dropped
    before = signal.values or tuple(_normal_values(signal, i) for i in range(len(signal.features)))
    after = after._replace(values=tuple(values.dropped(rate) for values in before))

    def back(cotangent: Cotangent) -> Cotangent:
        handed = back_dropped(cotangent)
        if not cotangent.by_value:
            return handed
        # What a rectifier downstream lets through is what was not dropped.
        parts = [
            scaled(values, of(values.at / (1 - rate)))
            for values, of in zip(before, cotangent.by_value, strict=True)
        ]
        more = np.array([mean for _, mean in parts]).reshape(-1, *(1,) * len(signal.spatial))
        return handed._replace(energy=handed.energy * more, by_value=tuple(of for of, _ in parts))

    return after, back


@expected.register
def _(node: nn.StochasticDepth, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    # One decision for each example: its places live or die together.
    together = np.where(signal.pairs.same, 1.0, 1 - node.rate)
    return _dropped(node.rate if scope.train else 0.0, signal, signal.batch, together)


def _dropped(
    rate: float, signal: Signal, count: int, pairs: float | np.ndarray
) -> tuple[Signal, Back]:
    """Drop with probability ``rate``; the correlations of pairs of sites are multiplied."""
    if rate == 0:
        return signal, lambda cotangent: cotangent
    keep = 1 - rate
    doubt = Doubt(rate / keep / count)
    way = Way(doubt.variance, both=doubt.variance)
    after = signal.becomes(
        1.0,
        doubt,
        energy=signal.energy / keep,
        pair=signal.pair * pairs,
        mean=signal.mean * math.sqrt(keep),
        echo=None if signal.echo is None else signal.echo * math.sqrt(keep),
    )

    def back(cotangent: Cotangent) -> Cotangent:
        return cotangent.becomes(
            way,
            energy=cotangent.energy / keep,
            pair=cotangent.pair * pairs,
            echo=None if cotangent.echo is None else cotangent.echo * math.sqrt(keep),
        )

    return after, back


@expected.register
def _(node: nn.Channels, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    """Keep segments in their order; channels in turns are one segment of all."""
    in_order = list(node.indices) == sorted(node.indices)
    whole, count = signal if in_order else signal.merged(), len(node.indices)
    ends = np.cumsum(whole.features)
    taken = np.bincount(np.searchsorted(ends, node.indices, "right"), minlength=len(ends))
    rows = np.flatnonzero(taken)
    # Of fewer channels the mean energy scatters more.
    self_share, nodes = signal.weights
    each = 2 * (self_share + float(signal.share @ ((signal.pair**2) @ nodes)))
    doubt = Doubt(each * (1 / count - 1 / sum(signal.features)))
    after = whole.becomes(
        1.0,
        doubt,
        features=tuple(taken[rows].tolist()),
        energy=whole.energy[rows],
        pair=whole.pair[rows],
        mean=whole.mean[rows],
    )

    def back(cotangent: Cotangent) -> Cotangent:
        cotangent = cotangent.regrouped(after.features)
        energy, pair = np.zeros_like(whole.energy), np.zeros_like(whole.pair)
        share = (taken[rows] / np.array(whole.features)[rows]).reshape(
            -1, *(1,) * (energy.ndim - 1)
        )
        energy[rows], pair[rows] = cotangent.energy * share, cotangent.pair
        handed = cotangent.becomes(doubt, features=whole.features, energy=energy, pair=pair)
        return handed.regrouped(signal.features)

    return after, back


@expected.register
def _(node: nn.ZeroPadShortcut, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    steps = (slice(None), *(slice(None, None, node.strides),) * len(signal.spatial))
    kept = signal.energy[steps]
    features = signal.features + ((node.extra,) if node.extra else ())

    def padded(values: np.ndarray) -> np.ndarray:
        extra = np.zeros((len(features) - len(values), *values.shape[1:]))
        return np.concatenate([values, extra])

    after = signal.becomes(
        1.0,
        Doubt(0.0, 0.02 if node.strides > 1 else 0.0),
        features=features,
        energy=padded(kept),
        pair=padded(signal.pair),
        mean=padded(signal.mean),
        laws=(signal.laws or (None,) * len(signal.features)) + (None,) * bool(node.extra),
    )

    def back(cotangent: Cotangent) -> Cotangent:
        count = len(signal.features)
        energy = np.zeros_like(signal.energy)
        energy[steps] = cotangent.energy[:count]
        # Where strides leave places out, two places both receive something more rarely.
        share = math.prod(after.spatial) / math.prod(signal.spatial)
        near = 0.0 if node.strides > 1 else share
        seen = np.repeat([near, share, 1.0, share], signal.pairs.nodes)
        self_share, nodes = after.weights
        random = 2 * (self_share + float((nodes * cotangent.pair**2).mean(0).sum()))
        uneven = max(cotangent.uneven, random)
        return cotangent.becomes(
            # What came to the other channels is lost, be it more or less.
            Doubt(uneven * (1 / sum(signal.features) - 1 / sum(features))),
            features=signal.features,
            energy=energy,
            pair=cotangent.pair[:count] * seen,
        )

    return after, back
