"""What to expect of the leaves with a kernel."""

import math
from typing import NamedTuple

import numpy as np

from convjax import nn
from convjax.gradflow._theory._axes import Window, convolution, transposed
from convjax.gradflow._theory._kernels import (
    bias_of,
    centred_only,
    describe,
    kernel_shape,
    rigidity,
    variance_of,
)
from convjax.gradflow._theory._run import Back, Scope, expected
from convjax.gradflow._theory._sites import (
    chosen_sites,
    class_nodes,
    concentrated,
    even_sites,
    gathered,
    kept_by,
)
from convjax.gradflow._theory._state import (
    Cotangent,
    Doubt,
    Law,
    Signal,
    Way,
    by_class,
    over_places,
    scaled_by,
)
from convjax.gradflow._theory._taps import taps_of

DEPTHWISE_SLACK = 0.04


class Kernel(NamedTuple):
    """What theory needs to know of a kernel.

    Attributes:
      variance: mean square of an entry.
      fan_in: channels that one output sums over.
      fan_out: channels that one input reaches.
      window: which places.
      centred: whether each output's weights sum to zero (weight standardisation).
      rigid: how much less than a Gaussian's its effect scatters forward, and back: 1 is a Gaussian,
        0 an isometry.
    """

    variance: float
    fan_in: int
    fan_out: int
    window: Window
    centred: bool = False
    rigid: tuple[float, float] = (1.0, 1.0)


@expected.register
def _(node: nn.Conv, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    *sides, fan_in, out = kernel_shape(node, scope)
    window = convolution(
        signal.spatial,
        sides,
        strides=node.strides,
        padding=node.padding,
        dilation=node.kernel_dilation,
        centre_only=centred_only(node),
    )
    groups = node.feature_group_count
    variance = variance_of(node, scope)
    if centred_only(node):
        variance *= math.prod(sides)
    if node.standardize:
        variance = node.gain**2 / (math.prod(sides) * fan_in if node.scaled else 1)
    kernel = Kernel(
        variance,
        fan_in,
        out // groups,
        window,
        node.standardize,
        rigidity(node, fan_in, out, window),
    )
    describe(node, scope, variance, signal.spatial, sides, groups)
    return _mixed(signal, kernel, out, bias_of(node, scope))


@expected.register
def _(node: nn.PointwiseConv, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    *sides, fan_in, out = kernel_shape(node, scope)
    window = convolution(signal.spatial, sides, strides=node.strides, padding="VALID")
    kernel = Kernel(
        variance_of(node, scope), fan_in, out, window, rigid=rigidity(node, fan_in, out, window)
    )
    return _mixed(signal, kernel, out, bias_of(node, scope))


@expected.register
def _(node: nn.Gate, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    z, back_conv = expected(node.conv, signal, scope)
    after, back = expected(nn.Activation("sigmoid"), z, scope)
    return after, lambda cotangent: back_conv(back(cotangent))


@expected.register
def _(node: nn.Dense, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    fan_in, out = kernel_shape(node, scope)
    window = convolution(signal.spatial, (1,) * len(signal.spatial), padding="VALID")
    kernel = Kernel(
        variance_of(node, scope), fan_in, out, window, rigid=rigidity(node, fan_in, out, window)
    )
    return _mixed(signal, kernel, out, bias_of(node, scope))


@expected.register
def _(node: nn.ConvTranspose, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    *sides, fan_in, out = kernel_shape(node, scope)
    window = transposed(
        signal.spatial,
        sides,
        strides=node.strides,
        padding=node.padding,
        dilation=node.kernel_dilation,
        extra=node.output_padding,
    )
    groups = node.feature_group_count
    kernel = Kernel(variance_of(node, scope), fan_in, out // groups, window)
    return _mixed(signal, kernel, out, bias_of(node, scope))


@expected.register
def _(node: nn.DepthwiseConv, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    *sides, _, out = kernel_shape(node, scope)
    window = convolution(
        signal.spatial,
        sides,
        strides=node.strides,
        padding=node.padding,
        dilation=node.kernel_dilation,
    )
    times = out // sum(signal.features)
    kernel = Kernel(variance_of(node, scope), 1, times, window)
    describe(node, scope, kernel.variance, signal.spatial, sides, sum(signal.features))
    features = tuple(f * times for f in signal.features)
    bias = bias_of(node, scope)
    after, back = _convolved(signal, kernel, features, bias)
    if window.size == 1 or bias[1] or signal.log or after.log:
        return after, back
    laws = signal.laws or (None,) * len(signal.features)

    def between(pair: np.ndarray, near: float) -> list[float]:
        return (signal.pairs.means(pair)[:, :2] @ [near, 1 - near]).tolist()

    # Two inputs of one output; and two outputs of one input.
    inner, outer = _neighbours(_inside(window)), _neighbours(_reached(window))
    terms = between(signal.pair, inner)
    sums = zip(between(after.pair, outer), between(after.steady[1], outer), strict=True)
    taps = [
        taps_of(law or Law("linear", None, *signal.normal(i)), pair, window, of_sums)
        for i, (law, pair, of_sums) in enumerate(zip(laws, terms, sums, strict=True))
    ]
    level = [max(size, 1e-300) for size in after.level.tolist()]

    def returning(cotangent: Cotangent) -> Cotangent:
        handed = back(cotangent)
        if not cotangent.by_value:
            return handed
        tied = between(cotangent.pair, outer)
        with_values = zip(taps, cotangent.by_value, level, tied, strict=True)
        found = [of.before(by_value, v, c) for of, by_value, v, c in with_values]
        more = np.array([mean for _, mean in found]).reshape(-1, *(1,) * len(signal.spatial))
        return handed._replace(energy=handed.energy * more, by_value=tuple(e for e, _ in found))

    return after._replace(
        values=tuple(of.values(v) for of, v in zip(taps, level, strict=True))
    ), returning


def _mixed(
    signal: Signal, kernel: Kernel, out: int, bias: tuple[float, float]
) -> tuple[Signal, Back]:
    """Apply a kernel that mixes the channels."""
    after, back = _convolved(signal.merged(), kernel, (out,), bias)
    if len(signal.features) > 1:
        after = after._replace(cubes=_cubes(signal, kernel))

    def spread(cotangent: Cotangent) -> Cotangent:
        return back(cotangent).regrouped(signal.features)

    return after, spread


def _convolved(
    signal: Signal, kernel: Kernel, features: tuple[int, ...], bias: tuple[float, float]
) -> tuple[Signal, Back]:
    window = kernel.window
    spectrum = None
    kept, reach = kept_by(signal.reach, [len(taps) for taps in window.axes])
    if signal.data is None:
        energy, pair = _patches(signal, kernel)
        pair = concentrated(pair, signal.pairs, kept)
    else:
        energy, pair = _first(signal, kernel)
    depthwise = kernel.fan_in == 1 and sum(signal.features) > 1
    # One channel that is known is no random one.
    one_channel = kernel.fan_in == 1 and (depthwise or signal.data is None)
    scale = scaled_by(-signal.log)
    bias_mean, bias_square = bias
    energy = energy + bias_square * scale
    level = np.maximum(energy.reshape(len(energy), -1).mean(1), 1e-300)
    pair = np.clip(pair + (bias_square * scale / level)[:, None] * (1 - pair), -1, 1)
    mean = np.full(len(features), bias_mean * math.sqrt(scale)) / np.sqrt(level)
    self_share, nodes = signal.pairs.of(signal.batch, window.output)
    taps = window.taps
    width = sum(signal.features)
    # Who sums over a group sees the correlations of its channels alone, which scatter more.
    apart = width / kernel.fan_in - 1 if kernel.fan_in > 1 else 0.0
    square = float((nodes * pair**2).mean(0).sum())
    left, steady = signal.pairs.steady(pair, (self_share, nodes))
    inner = self_share + float((nodes * steady**2).mean(0).sum())
    if one_channel:
        form, latent, ideal = _of_one_channel(signal, signal.mean, window)
        alike = form * signal.unlike
        own = signal.steady[1]
        inner = _of_one_channel(signal._replace(pair=own), np.zeros(len(own)), window)[0]
        inner *= signal.unlike
        common = signal.common
    else:
        latent = common = (signal.overlap + apart / width) / taps
        alike = self_share + square + (1 - self_share) * latent
        inner += latent * float((1 / (left * (2 - left))).mean())
        ideal = signal.common / taps
        if signal.data is not None and kernel.fan_in == width:
            alike, inner, spectrum = _forms(signal.data, kernel)
    # Few taps make values that are not quite normal, and neighbours that share them.
    slack = DEPTHWISE_SLACK if one_channel and window.size > 1 else 0.0
    count = sum(features)
    loose_forward, loose_back = kernel.rigid

    def spread(alike: float) -> float:
        return math.log1p(2 * alike * loose_forward / count)

    follows = 1 - float((bias_square * scale / level).mean())
    after = signal.becomes(
        follows,
        Doubt(spread(alike), slack, spread(inner)),
        features=features,
        energy=energy.reshape(len(features), *window.output),
        pair=pair,
        mean=mean,
        overlap=min(_widened(signal.overlap / taps, loose_forward / count), 1.0),
        latent=latent,
        common=common,
        ideal=ideal,
        reach=reach,
        drawn=round(kernel.fan_in * taps) if bias_square == 0 else 0,
        kernels=0.0 if one_channel else 1 / (kernel.fan_in * taps),
        cubes=_cubes(signal, kernel),
        within=None if kernel.centred or signal.data is not None else _within(window, signal),
        spectrum=spectrum,
        unlike=signal.unlike * (1 + 2 * form) if one_channel else 1 + 2 * alike,
        sizes=2 * inner * loose_forward,
    )

    def back(cotangent: Cotangent) -> Cotangent:
        energy = kernel.variance * kernel.fan_out * window.scatter(cotangent.energy)
        # What a large kernel enlarged the norm downstream has made smaller by as much.
        energy = energy * cotangent.inverse * math.exp(cotangent.met)
        root = np.sqrt(cotangent.energy)
        pair = np.clip(cotangent.pair * _kept(window, root, signal, back=True), -1, 1)
        self_share, nodes = signal.weights
        latent = (cotangent.overlap + apart / count) / taps
        if depthwise:
            latent = cotangent.latent
        square = float((nodes * pair**2).mean(0).sum())
        alike = self_share * cotangent.peak + square + (1 - self_share) * latent
        uneven = 2 * alike
        if depthwise:
            of = signal._replace(pair=cotangent.pair)
            form, *_ = _of_one_channel(of, np.zeros(len(pair)), window)
            alike = form * (1 + cotangent.uneven)
            uneven = (1 + cotangent.uneven) * (1 + 2 * form) - 1
        undoes, both = 0.0, 0.0
        if cotangent.undone is not None:
            # The kernels' own sizes are in it.
            undoes = cotangent.undone
            alike = max(alike - cotangent.sharp * width / (count * kernel.fan_in * taps), 0.0)
        else:
            both = _shared(signal, cotangent, window) * cotangent.sharp / (count * kernel.fan_in)
            both *= 2 * min(loose_back, loose_forward, 1.0)
        # The energies of the signal in this kernel, and of what the last one hands back, are both
        # owed to the product of the two.
        met = 0.0 if depthwise else 2 * signal.kernels * loose_forward / taps
        met *= 1 + cotangent.centred * (1 / float(left.mean()) - 1)
        met *= cotangent.total.bends
        return cotangent.becomes(
            Way(
                math.log1p(2 * alike * loose_back / width) + undoes,
                slack,
                both,
                beyond=2 * cotangent.kernels,
            ),
            kernels=met / count,
            inside=met / count,
            met=met,
            features=signal.features,
            energy=energy,
            pair=pair,
            overlap=min(_widened(cotangent.overlap / taps, loose_back / width), 1.0),
            latent=min(latent, 1.0),
            peak=1 + (cotangent.peak - 1) / taps,
            uneven=uneven,
        )

    return after, back


def _of_one_channel(signal: Signal, mean: np.ndarray, window: Window) -> tuple[float, float, float]:
    """Return how far what a kernel makes of one channel scatters: half its relative variance.

    The energy is a quadratic form in the taps' weights, and its matrix the products of the channel
    with itself shifted from tap to tap: where places are alike, all taps act as one.

    Returns:
      The same; once more; and what of it is not owed to the taps' number.
    """
    self_share, nodes = signal.weights
    near = _neighbours(_inside(window))
    centred = signal.pair - mean[:, None] ** 2

    def shifted(pair: np.ndarray) -> float:
        squares = signal.pairs.means(pair) ** 2
        return float((near * squares[:, 0] + (1 - near) * squares[:, 1]).mean())

    noise = self_share + float((centred**2 @ nodes).mean())
    taps, alike = 1 / window.taps, shifted(signal.pair)
    form = taps + (1 - taps) * (alike + (1 - alike) * noise)
    return form, form, (1 - taps) * shifted(centred)


def _cubes(signal: Signal, kernel: Kernel) -> float:
    """Return the mean cube of the signal's correlations, and of sums of n products, by its skew."""
    taps = kernel.window.taps
    return signal.cubes / taps**2 + signal.skew / max(kernel.fan_in * taps, 1.0) ** 2


def _shared(signal: Signal, cotangent: Cotangent, window: Window) -> float:
    """Return how much of one kernel's scatter signal and gradient share; times its entries' number.

    Both energies are quadratic forms in its entries, and the covariance of two such is twice the
    trace of their product: of n entries 2/n, where either does not correlate from tap to tap.
    """
    pair = signal.pair + cotangent.centred * (signal.steady[1] - signal.pair)
    means = [signal.pairs.means(p).mean(0)[:2] for p in (pair, cotangent.pair)]
    near, taps = _neighbours(_inside(window)), 1 / window.taps
    return taps + (1 - taps) * max(float((means[0] * means[1]) @ [near, 1 - near]), 0.0)


def _inside(window: Window) -> list[int]:
    """Return how many taps along each axis lie inside the image."""
    return [min(len(taps), taps.shape[2]) for taps in window.axes]


def _reached(window: Window) -> list[int]:
    """Return how many outputs along each axis one input has."""
    return [round(taps.sum((0, 1)).max()) for taps in window.axes]


def _neighbours(sides: list[int]) -> float:
    """Return how many pairs of places are neighbours, in a box with these sides."""
    near = math.prod((3 * k - 2) / k**2 for k in sides)
    alone = math.prod(1 / k for k in sides)
    return (near - alone) / (1 - alone) if alone < 1 else 1.0


def _widened(overlap: float, per_channel: float) -> float:
    """Return the overlap after a sum over a number of random channels."""
    return (overlap + (1 + overlap) * per_channel) / (1 + 2 * overlap * per_channel)


def _patches(signal: Signal, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """Return energy and correlations of a random sum over each output's patch."""
    window, factor = kernel.window, kernel.variance * kernel.fan_in
    energy = factor * window.gather(signal.energy)
    root = np.sqrt(signal.energy)
    pair = signal.pair * _kept(window, root, signal)
    if not kernel.centred:
        return energy, pair
    # Weights that sum to zero do not see the patch's mean.
    shape = (-1,) + (1,) * len(window.axes)
    mean = window.gather(root) * signal.mean.reshape(shape) / window.size
    kept = energy - factor * window.size * mean**2
    level = energy.reshape(len(energy), -1).mean(1)
    lost = 1 - kept.reshape(len(kept), -1).mean(1) / np.maximum(level, 1e-300)
    return kept, (pair - lost[:, None]) / np.maximum(1 - lost[:, None], 1e-12)


def _kept(window: Window, root: np.ndarray, signal: Signal, *, back: bool = False) -> np.ndarray:
    """Return what borders leave of the correlations of pairs, by node: taps that read padding.

    Two places share the taps that read inside the image at both. The energies that the taps read
    are taken as products over the axes.

    Args:
      window: which inputs the taps read.
      root: ``(segments, *spatial)``, root of the energy that is read.
      signal: whose pairs they are.
      back: from outputs to inputs instead.
    """
    axes = _reading(window, root, back=back)
    both = by_class(axes)
    own = by_class([np.sqrt((axis**2).sum(1, keepdims=True)) for axis in axes])
    if both is None or own is None:
        return np.ones_like(signal.pair)
    return np.repeat(both / np.maximum(own, 1e-12), signal.pairs.nodes, axis=1)


def _reading(window: Window, root: np.ndarray, *, back: bool = False) -> list[np.ndarray]:
    """Return for each axis ``(segments, taps, outputs)`` the energy's root that a tap reads."""
    found = []
    for k, taps in enumerate(window.axes, start=1):
        one = root.mean(tuple(i for i in range(1, root.ndim) if i != k))
        moved = np.swapaxes(taps, 1, 2) if back else taps
        found.append(np.moveaxis(moved @ one.T, 2, 0))
    return found


def _within(window: Window, signal: Signal) -> np.ndarray | None:
    """Return the outputs' energy without each channel's mean over all sites, over the mean energy.

    A place at the border reads less of what all places share, and so has less of that mean.
    """
    if signal.within is not None and window.size == 1 and window.output == signal.spatial:
        return signal.within
    if not signal.spatial:
        return None
    itself, near, every = over_places(_reading(window, np.sqrt(signal.energy)))
    places, shape = itself[0].size, (-1, *(1,) * (itself.ndim - 1))
    if np.ptp(itself) <= 1e-6 * itself.max():
        return None
    beside, others, twins, rest = (of.reshape(shape) for of in signal.pairs.means(signal.pair).T)
    rows = itself + beside * (near - itself) + others * (every - near)
    rows = rows + (signal.batch - 1) * (twins * itself + rest * (every - itself))
    rows = rows / (signal.batch * places)
    mean = tuple(range(1, itself.ndim))
    left = itself - 2 * rows + rows.mean(mean, keepdims=True)
    return np.maximum(left, 0.0) / itself.mean(mean, keepdims=True)


def _first(signal: Signal, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """Return energy and correlations of a random sum over patches of the batch itself."""
    x = np.asarray(signal.data, float) * scaled_by(-signal.log / 2)
    factor = kernel.variance * kernel.fan_in
    squares = np.mean(np.square(x), axis=(0, -1))[None]
    energy = factor * kernel.window.gather(squares)
    sites = chosen_sites(len(x), kernel.window.output)
    patches = gathered(x, kernel.window, sites)
    if kernel.centred:
        whole = np.sum(patches**2)
        patches = patches - patches.mean(1, keepdims=True)
        energy = energy * np.sum(patches**2) / max(whole, 1e-300)
    return energy, class_nodes(patches @ patches.T, sites, signal.pairs, energy)[None]


def _forms(x: np.ndarray, kernel: Kernel) -> tuple[float, float, np.ndarray]:
    """Return half the relative variance of what a random kernel makes of the batch.

    The energy of an output channel is a quadratic form in the kernel's entries, whose matrix is
    that of the patches' products: the sum of its squared eigenvalues, over its trace's square.

    Returns:
      The same; what it is without each output channel's mean; and the eigenvalues then.
    """
    sites = even_sites(len(x), kernel.window.output)
    patches = gathered(np.asarray(x, float), kernel.window, sites)
    if kernel.centred:
        patches = patches - patches.mean(1, keepdims=True)
    every = len(x) * math.prod(kernel.window.output)

    def form(products: np.ndarray) -> float:
        alone, count = np.diag(products), len(products)
        beside = (np.sum(products**2) - np.sum(alone**2)) / max(count * (count - 1), 1)
        square = np.mean(alone**2) / every + (1 - 1 / every) * beside
        return float(square / max(np.mean(alone) ** 2, 1e-300))

    centred = patches - patches.mean(0)
    within = centred @ centred.T
    return form(patches @ patches.T), form(within), np.maximum(np.linalg.eigvalsh(within), 0.0)
