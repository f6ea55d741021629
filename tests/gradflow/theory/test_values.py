"""Values on a grid, gradients by value, means over windows: against formulas and plain loops."""

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest

from convjax.gradflow._theory._axes import convolution
from convjax.gradflow._theory._means import averaged
from convjax.gradflow._theory._pools import _shared
from convjax.gradflow._theory._state import Law, Pairs
from convjax.gradflow._theory._taps import taps_of
from convjax.gradflow._theory._values import ByValue, Normal, Values, normal, of_data, scaled


def relu(z):
    return np.maximum(z, 0)


def gate(z):
    return (z > 0) * 1.0


def test_a_walk_held_at_zero_has_spitzers_mean():
    walk = normal(relu, 0.0, 1.0)
    for k in range(1, 13):
        expected = sum(1 / math.sqrt(2 * math.pi * i) for i in range(1, k + 1))
        assert walk.mean(lambda x: x) == pytest.approx(expected, rel=2e-3)
        walk = walk.plus(Normal(0.0, 1.0)).through(relu)
    assert walk.weight.sum() == pytest.approx(1)


# At zero, where a rectified value is as a rule, and around others.
PLACES = (0.0, 0.0), (0.5, 0.6), (1.5, 1.7)


def _comes_back(energy, inside, by_value, at):
    """Hold the mean energy of the samples that lie inside against what is said of their value."""
    measured = energy[inside].mean() / energy.mean()
    assert by_value(np.array(at)) == pytest.approx(measured, rel=0.04)


@pytest.mark.parametrize("bent", [False, True])
def test_a_gradient_by_value_comes_back_as_it_does_in_a_sample(bent):
    generator = np.random.default_rng(0)
    x, y = relu(generator.normal(size=200_000)), generator.normal(0.3, 0.8, size=200_000)
    y = relu(y) if bent else y
    z = x + y
    values, other = normal(relu, 0.0, 1.0), Normal(0.3, 0.64)
    other = normal(relu, *other) if bent else other
    total = values.plus(other)
    assert total.mean(np.square) == pytest.approx(np.mean(z**2), rel=0.01)
    assert total.through(gate).mean(lambda g: g) == pytest.approx(gate(z).mean(), rel=0.01)
    # Energy that grows with the value downstream, through the gate, to the first term.
    after = scaled(total.through(relu), 1 + total.at**2)[0]
    before, more = after.before(relu, gate, total)
    energy = after(relu(z)) * gate(z)
    assert more == pytest.approx(energy.mean(), rel=0.01)
    by_first = before.without(values, other)
    for low, high in PLACES:
        _comes_back(energy, (x >= low) & (x <= high), by_first, (low + high) / 2)


def test_a_gradient_by_value_comes_back_through_a_factor():
    generator = np.random.default_rng(0)
    x, opened = relu(generator.normal(size=300_000)), generator.choice([0.2, 1.5], 300_000)
    factor, often = np.array([0.2, 1.5]), np.array([0.5, 0.5])
    values = normal(relu, 0.0, 1.0)
    product = values.times(factor, often)
    for moment in (np.abs, np.square, lambda z: z**4):
        assert product.mean(moment) == pytest.approx(moment(opened * x).mean(), rel=0.02)
    after = scaled(product, 1 / (0.1 + product.at**2))[0]
    energy = opened**2 * after(opened * x)
    before = after.without_factor(values, factor, often)
    for low, high in PLACES:
        _comes_back(energy, (x >= low) & (x <= high), before, (low + high) / 2)


def test_what_is_dropped_is_zero():
    values = normal(lambda z: z, 0.5, 1.0)
    dropped = values.dropped(0.25)
    assert dropped.mean(lambda x: x) == pytest.approx(0.5, rel=1e-6)
    assert dropped.mean(np.square) == pytest.approx(1.25 / 0.75, rel=1e-3)
    assert dropped.weight[600] > 0.25


def test_silence_stays_and_a_wide_sum_fits():
    values, silent = normal(relu, 0.0, 1.0), of_data(np.zeros(3))
    assert silent.plus(silent).mean(np.abs) == pytest.approx(0)
    assert values.times(np.zeros(1), np.ones(1)).mean(np.abs) == pytest.approx(0)
    assert values.plus(silent).mean(np.square) == pytest.approx(0.5, rel=1e-3)
    assert values.plus(Normal(0.0, 0.0)) is values
    assert values.through(relu).mean(np.square) == pytest.approx(0.5, rel=1e-3)
    wide = values.plus(Normal(0.0, 100.0))
    assert wide.mean(np.square) == pytest.approx(100.5, rel=1e-3)


def test_data_is_spread_as_it_is():
    x = np.array([0.0] * 9 + [3.0])
    assert of_data(x).mean(gate) == pytest.approx(0.1)
    even = ByValue(Values(1.0, of_data(x).weight), np.ones(1601))
    assert even(np.array(5.0)) == 1


@pytest.mark.parametrize("sides", [(5, 4), (7,), (3, 4, 3)])
def test_means_over_windows_are_those_of_a_loop_over_pairs(sides):
    generator = np.random.default_rng(1)
    left = [generator.uniform(size=(n, n)) for n in sides]
    right = [generator.uniform(size=(n, n)) for n in sides]
    near, far, twin, other = 0.4, 0.1, 0.3, 0.05
    places = list(np.ndindex(*sides))

    def step(i, j):
        return max(abs(a - b) for a, b in zip(i, j, strict=True))

    def covariance(i, j):
        return 1.0 if i == j else near if step(i, j) == 1 else far

    def between(i, j):
        return twin if i == j else other

    def product(matrices, i, j):
        return math.prod(m[a, b] for m, a, b in zip(matrices, i, j, strict=True))

    one = np.array([[product(left, i, s) for s in places] for i in places])
    two = np.array([[product(right, i, s) for s in places] for i in places])
    whole = one @ np.array([[covariance(i, j) for j in places] for i in places]) @ two.T
    across = one @ np.array([[between(i, j) for j in places] for i in places]) @ two.T
    classes = {k: [] for k in (0, 1, 2, "twin", "other")}
    for (a, i), (b, j) in itertools.product(enumerate(places), repeat=2):
        classes[min(step(i, j), 2)].append(whole[a, b])
        classes["twin" if i == j else "other"].append(across[a, b])
    values = np.array([[1.0, near, near, far, far, twin, twin, other, other]])
    found = averaged(values, Pairs(2), left, right)[0]
    expected = [np.mean(classes[k]) for k in (0, 1, 1, 2, 2, "twin", "twin", "other", "other")]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("sides", [(5, 4), (7,), (2, 4, 3)])
def test_roots_of_energies_by_class_are_those_of_a_loop_over_pairs(sides):
    generator = np.random.default_rng(2)
    axes = [generator.uniform(0.2, 1.0, n) for n in sides]
    energy = functools.reduce(np.multiply.outer, axes)
    places, root = list(np.ndindex(*sides)), np.sqrt(energy)
    classes = {"near": [], "far": [], "twin": [], "other": []}
    for i, j in itertools.product(places, repeat=2):
        value = root[i] * root[j] / energy.mean()
        step = max(abs(a - b) for a, b in zip(i, j, strict=True))
        classes["other" if step else "twin"].append(value)
        if step:
            classes["near" if step == 1 else "far"].append(value)
    expected = [np.mean(classes[name]) if classes[name] else None for name in classes]
    for found, value in zip(Pairs(1).roots(energy[None])[0], expected, strict=True):
        assert value is None or found == pytest.approx(value, rel=1e-9)


def channel(alike, sides, channels, batch=1):
    """Rectified channels, the sums that 3x3 kernels make of them, and how gradients come back."""
    generator = np.random.default_rng(3)
    shared = generator.standard_normal((channels, batch, 1, 1))
    own = generator.standard_normal((channels, batch, *sides))
    x = relu(math.sqrt(alike) * shared + math.sqrt(1 - alike) * own)
    kernel = generator.standard_normal((9, channels, 1, 1, 1))

    def read(values):
        padded = np.pad(values, [(0, 0), (0, 0), (1, 1), (1, 1)])
        for i, j in itertools.product(range(3), repeat=2):
            yield padded[:, :, i : i + sides[0], j : j + sides[1]]

    def back(gradient, square=False):
        taps = zip(kernel[::-1], read(gradient), strict=True)
        return sum((tap * of) ** 2 if square else tap * of for tap, of in taps)

    return x, sum(tap * of for tap, of in zip(kernel, read(x), strict=True)), back


def beside(values):
    """Mean product of two places over that of one with itself."""
    count = values.shape[-1] * values.shape[-2]
    both = (np.mean(values, (-2, -1)) ** 2).mean() * count - np.mean(values**2)
    return float(both / (count - 1) / np.mean(values**2))


@pytest.mark.parametrize(("alike", "sides"), [(0.7, (2, 3)), (0.2, (6, 5))])
def test_what_a_kernel_makes_of_a_rectified_channel_is_spread_as_in_a_sample(alike, sides):
    x, y, back = channel(alike, sides, 40_000)
    law, window = Law("relu", None, 0.0, 1.0), convolution(sides, 3)
    taps = taps_of(law, beside(x), window, (beside(y), 0.0))
    values = taps.values(float(np.mean(y**2)))
    assert values.weight[600] == pytest.approx(np.mean(y == 0), abs=0.012)
    # What a rectifier behind lets back comes to terms that are not silent.
    open_ = ByValue(values, (values.at > 0) / values.mean(gate))
    for tied, handed in ((0.0, back(gate(y), square=True)), (beside(gate(y)), back(gate(y)) ** 2)):
        before, mean = taps.before(open_, float(np.mean(y**2)), tied)
        right = np.mean(handed) / np.mean(back(gate(y), square=True))
        assert mean == pytest.approx(right, abs=0.05 if tied else 0.02)
        expected = np.mean(handed * (x > 0)) / np.mean(handed)
        part = before.values.weight @ (before.energy * (before.values.at > 0))
        assert part == pytest.approx(expected, rel=0.04 if tied else 0.03)


@pytest.mark.parametrize("alike", [0.0, 0.6])
def test_a_gradient_by_value_comes_through_a_norm_behind_a_kernel_as_in_a_sample(alike):
    sides = (6, 5)
    x, y, back = channel(alike, sides, 2_000, batch=30)
    size = y.std((1, 2, 3), keepdims=True)
    z = (y - y.mean((1, 2, 3), keepdims=True)) / size
    slope = 1 + 0.8 * z
    values = normal(lambda v: v, 0.0, 1.0)
    law = Law("relu", None, 0.0, 1.0)
    taps = taps_of(law, beside(x), convolution(sides, 3), (beside(y), beside(z)))
    of = dataclasses.replace(
        scaled(values, (1 + 0.8 * values.at) ** 2)[0],
        sizeless=True,
        sign=np.sign(1 + 0.8 * values.at),
    )
    square = back(slope / size, square=True)
    for tied, handed in ((0.0, square), (beside(slope), back(slope / size) ** 2)):
        before, mean = taps.before(of, float(np.mean(y**2)), tied)
        assert mean == pytest.approx(np.mean(handed) / np.mean(square), rel=0.04)
        if alike:
            continue  # then images differ in their spread, which is left out
        for low, high in ((0.0, 1e-9), (0.4, 0.6), (1.2, 1.5)):
            inside = (x >= low) & (x < high)
            measured = handed[inside].mean() / handed.mean()
            assert before(np.array((low + high) / 2)) == pytest.approx(measured, rel=0.13)


def test_a_rectifier_behind_a_norm_hands_the_same_back_to_every_value():
    """Where gradients are independent, by symmetry: kernel and its negative are as likely."""
    values = normal(lambda v: v, 0.0, 1.0)
    of = dataclasses.replace(scaled(values, gate(values.at))[0], sizeless=True)
    taps = taps_of(Law("relu6", None, 0.0, 1.0), 0.3, convolution((7, 7), 3), (0.3, 0.1))
    before, mean = taps.before(of, 1.0, 0.0)
    assert mean == pytest.approx(1)
    assert before(np.linspace(0, 2, 30)) == pytest.approx(np.ones(30), abs=0.015)


@pytest.mark.parametrize("sides", [(2, 2), (6, 5), (9,)])
def test_shared_maxima_are_counted_as_in_a_sample(sides):
    generator = np.random.default_rng(2)
    places = list(np.ndindex(*sides))
    total = 0
    for _ in range(300):
        field = generator.normal(size=sides)
        picks = [
            max(
                (p for p in places if all(abs(a - b) <= 1 for a, b in zip(p, i, strict=True))),
                key=lambda p: field[p],
            )
            for i in places
        ]
        total += sum(picks.count(p) for p in picks) / len(picks)
    *_, near, far = _shared(convolution(sides, 3, padding="SAME"))
    assert 1 + near + far == pytest.approx(total / 300, rel=0.05)


def test_windows_that_do_not_overlap_share_nothing():
    assert _shared(convolution((6, 6), 2, strides=2, padding="VALID")) == (0.0, 0.0, 0.0, 0.0)
