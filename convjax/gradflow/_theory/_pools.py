"""What to expect of the pools, and of squeeze-and-excitation."""

import math
from typing import Any

import numpy as np
import scipy

from convjax import nn
from convjax.gradflow._theory._axes import Window, convolution
from convjax.gradflow._theory._duals import function_of, moments
from convjax.gradflow._theory._run import Back, Scope, expected
from convjax.gradflow._theory._state import Cotangent, Doubt, Law, Signal, scaled_by

MAXIMUM_SLACK = 0.15


@expected.register
def _(node: nn.Pool, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    strides = node.window_shape if node.strides is None else node.strides
    window = convolution(signal.spatial, node.window_shape, strides=strides, padding=node.padding)
    if node.kind == "max":
        return _maximum(signal, window)
    return _mean(signal, window, count_padding=node.count_include_pad)


def _mean(signal: Signal, window: Window, *, count_padding: bool) -> tuple[Signal, Back]:
    """Average over windows: neighbours' correlation decides what is left."""
    ones = np.ones((1, *signal.spatial))
    reads = window.gather(ones)
    divisor = np.full_like(reads, window.size) if count_padding else np.maximum(reads, 1)
    near = signal.pair[:, signal.pairs.near].mean(1)
    shape = (-1,) + (1,) * len(signal.spatial)
    alone = window.gather(signal.energy)
    together = window.gather(np.sqrt(signal.energy)) ** 2
    tied = near.reshape(shape)
    energy = ((1 - tied) * alone + tied * together) / divisor**2
    old, new = signal.level, np.maximum(energy.reshape(len(energy), -1).mean(1), 1e-300)
    share = (reads / divisor).mean() ** 2
    pair = np.clip(signal.pair * (old * share / new)[:, None], -1, 1)
    apart = 1 - float(np.abs(near).mean())
    after = signal.becomes(
        1.0,
        Doubt(0.0, 0.3 * apart * (1 - apart) * (window.size > 1)),
        energy=energy,
        pair=pair,
        mean=np.clip(signal.mean * np.sqrt(old * share / new), -1, 1),
    )

    def back(cotangent: Cotangent) -> Cotangent:
        near = cotangent.pair[:, signal.pairs.near].mean(1).reshape(shape)
        alone = window.scatter(cotangent.energy / divisor**2)
        together = window.scatter(np.sqrt(cotangent.energy) / divisor) ** 2
        energy = (1 - near) * alone + near * together
        # Neighbours in one window get the same.
        pair = np.where(
            signal.pairs.near, cotangent.pair + (1 - cotangent.pair) * 0.5, cotangent.pair
        )
        return cotangent.becomes(energy=energy, pair=pair)

    return after, back


def _maximum(signal: Signal, window: Window) -> tuple[Signal, Back]:
    """Take the largest of every window, of values that are alike in pairs."""
    laws = signal.laws or (None,) * len(signal.features)
    found = [_largest(signal, law, i, window.size) for i, law in enumerate(laws)]
    picked = np.array([slope for _, _, slope in found])
    level = np.maximum(signal.level, 1e-300)
    second = np.array([square for _, square, _ in found]) * level
    mean = np.array([first for first, _, _ in found]) * np.sqrt(level)
    energy = np.stack([np.full(window.output, s) for s in second])
    within = signal.mean**2
    rho = (signal.pair - within[:, None]) / np.maximum(1 - within[:, None], 1e-12)
    spread = np.maximum(second - mean**2, 0)
    pair = (mean[:, None] ** 2 + spread[:, None] * rho) / second[:, None]
    after = signal.becomes(
        1.0,
        Doubt(0.0, MAXIMUM_SLACK),
        energy=energy,
        pair=np.clip(pair, -1, 1),
        mean=mean / np.sqrt(second),
    )
    places = math.prod(signal.spatial)

    def back(cotangent: Cotangent) -> Cotangent:
        # Every window hands its gradient to one place.
        total = cotangent.energy.reshape(len(second), -1).sum(1) / places
        energy = np.stack([np.full(signal.spatial, t) for t in total])
        share = math.prod(window.output) / places
        overlapping = 0.0 if window.size <= places / math.prod(window.output) else 0.1
        return cotangent.becomes(
            Doubt(0.0, overlapping), energy=energy, pair=cotangent.pair * share, picked=picked
        )

    return after, back


def _largest(signal: Signal, law: Law | None, i: int, count: int) -> tuple[float, float, float]:
    """Return mean and mean square of the largest of a window, in units of one entry's RMS.

    And the mean squared slope, there, of the activation that made it.
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
    largest = known.value(z)
    slope = float(weight @ known.slope(z) ** 2 @ steps)
    first = float(weight @ largest @ steps)
    square = float(weight @ largest**2 @ steps)
    unit = max(level, 1e-300)
    return first / math.sqrt(unit), square / unit, slope


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
        square = np.array([s for _, s, _ in found]) * level
        mean = np.array([m for m, _, _ in found]) * np.sqrt(level)
        slack = 2 * MAXIMUM_SLACK
    square = np.maximum(square, 1e-300)
    across = signal.pair[:, ~signal.pairs.same].mean(1)
    pair = np.where(signal.pairs.same, 1.0, (across * flat / square)[:, None])
    count = sum(signal.features)
    alike = 1 / signal.batch + float((across**2).mean())
    after = signal.becomes(
        1.0,
        Doubt(2 * alike / count, slack),
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
    """Weigh the channels: what flows back through the weights is left out."""
    own = signal._replace(own=Doubt(), carry=1.0)
    inner = scope._replace(rows=[])
    squeezed, _ = _global(nn.GlobalPool("avg", keepdims=True), own)
    for leaf in (node.reduce, node.activation, node.expand):
        squeezed, _ = expected(leaf, squeezed, inner)
    return gated(signal, squeezed, node.gate.name, node.gate.function)


def gated(signal: Signal, squeezed: Signal, name: str, function: Any) -> tuple[Signal, Back]:
    """Expect what the product with a gate does; what flows back through the gate is left out.

    Args:
      signal: what is multiplied.
      squeezed: what the gate is a function of, one vector an example.
      name: of that function, if it is a known activation.
      function: the function itself.
    """
    level = float(squeezed.level[0]) * scaled_by(squeezed.log)
    mean = float(squeezed.mean[0]) * math.sqrt(level)
    variance = max(level - mean**2, 1e-12)
    gate = moments(name, function, mean, variance)
    rho = np.clip((squeezed.pair[0] * level - mean**2) / variance, -1, 1)
    tied = np.where(signal.pairs.same, 1.0, gate.pair(rho) / gate.second)
    doubt = Doubt(0.0, 0.05)
    after = signal.becomes(
        1.0,
        doubt,
        energy=signal.energy * gate.second,
        pair=signal.pair * tied,
        mean=signal.mean * gate.mean / math.sqrt(gate.second),
    )

    def back(cotangent: Cotangent) -> Cotangent:
        return cotangent.becomes(
            doubt, energy=cotangent.energy * gate.second, pair=cotangent.pair * tied
        )

    return after, back
