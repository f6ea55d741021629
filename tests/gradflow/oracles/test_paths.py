"""Rows 11 and 12: energy by path length, and what counting paths makes of it."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from convjax.gradflow import oracles
from tests.gradflow.oracles.monte_carlo import (
    agrees,
    back,
    batch_norm,
    batch_norm_back,
    norm_branch,
    relu,
    weights,
)


def by_subsets(values):
    """Sum the product over every subset, by its size."""
    total = np.zeros(len(values) + 1)
    for chosen in itertools.product([False, True], repeat=len(values)):
        total[sum(chosen)] += math.prod(v for v, take in zip(values, chosen, strict=True) if take)
    return total / total.sum()


def test_both_measures_by_enumeration():
    gains = np.random.default_rng(0).exponential(size=7)
    np.testing.assert_allclose(oracles.path_energy(gains), by_subsets(gains), rtol=1e-12)
    np.testing.assert_allclose(oracles.sampled_paths(gains), by_subsets(np.sqrt(gains)), rtol=1e-12)


@pytest.mark.parametrize("gain", [0.0, 0.04, 1.0, 3.0])
def test_equal_gains_are_the_binomial(gain):
    expected = stats.binom.pmf(np.arange(41), 40, gain / (1 + gain))
    np.testing.assert_allclose(oracles.path_energy([gain] * 40), expected, rtol=1e-10, atol=1e-300)


def test_shares_sum_to_one_and_their_mean_is_the_sum_of_the_odds():
    gains = np.random.default_rng(1).exponential(size=1000)
    shares = oracles.path_energy(gains)
    assert len(shares) == 1001 and shares.sum() == pytest.approx(1)
    assert shares @ np.arange(1001) == pytest.approx((gains / (1 + gains)).sum())
    assert oracles.path_energy([]).tolist() == [1]


def drawn_branches(rng, n, units, scale, nets):
    """Return the matrices by which each branch hands a cotangent back: x + scale * W relu(x)."""
    x = rng.standard_normal((nets, 1, n))
    handed = []
    for _ in range(units):
        w = weights(rng, nets, n, n, 2.0)
        handed.append(scale * back(w) * (x > 0))
        x = x + scale * relu(x) @ w
    return handed


@pytest.mark.parametrize("scale", [1.0, 20**-0.5])
def test_mean_length_of_drawn_networks(scale):
    rng, units, n = np.random.default_rng(2), 20, 64
    handed = drawn_branches(rng, n, units, scale, 24)
    by_length = np.zeros((24, units + 1, n))  # one cotangent for each number of branches passed
    by_length[:, 0] = rng.standard_normal((24, n))
    for branch in reversed(handed):
        by_length[:, 1:] = by_length[:, 1:] + by_length[:, :-1] @ branch
    energies = (by_length**2).sum(-1)
    expected = oracles.path_energy([scale**2] * units)
    shares = energies / energies.sum(1, keepdims=True)
    lengths = np.arange(units + 1)
    agrees(shares @ lengths, expected @ lengths, precision=0.05)
    assert 0.5 * np.abs(energies.mean(0) / energies.sum(1).mean() - expected).sum() < 0.1


def test_veits_measure_of_drawn_networks():
    rng, units, n = np.random.default_rng(3), 7, 128
    handed = drawn_branches(rng, n, units, 0.6, 8)
    cotangent = rng.standard_normal((8, 1, n))
    lengths = np.arange(units + 1)
    sampled = []
    for k in lengths:
        norms = []
        for _ in range(6):
            g = cotangent
            for branch in sorted(rng.choice(units, k, replace=False), reverse=True):
                g = g @ handed[branch]
            norms.append(np.linalg.norm(g, axis=-1).mean())
        sampled.append(math.comb(units, k) * np.mean(norms))
    found = np.array(sampled) / np.sum(sampled)
    expected = oracles.sampled_paths([0.36] * units)
    assert found @ lengths == pytest.approx(expected @ lengths, rel=0.03)
    assert expected @ lengths > 1.3 * (oracles.path_energy([0.36] * units) @ lengths)


def three_stages(units):
    """Gains of the branches of three stages, each of which starts at variance 1."""
    return np.tile(oracles.batch_norm_residual_gain(units, convs=2) - 1, 3)


def test_few_paths_and_nearly_all_of_the_energy_are_5_to_17_long():
    counted = oracles.sampled_paths(np.ones(54))
    assert counted[5:18].sum() == pytest.approx(0.0045, abs=5e-5)
    assert counted[5:18].sum() == pytest.approx(
        sum(math.comb(54, k) for k in range(5, 18)) / 2**54, rel=1e-9
    )
    shares = oracles.path_energy(three_stages(18))
    assert shares @ np.arange(55) == pytest.approx(12.3, abs=0.05)
    low, high = np.searchsorted(shares.cumsum(), [0.05, 0.95])
    assert (low, high) == (8, 17)
    assert shares[5:18].sum() > 0.95


def test_norm_times_count_finds_longer_paths_than_energy():
    found = oracles.sampled_paths(three_stages(18)) @ np.arange(55)
    assert found == pytest.approx(18.5, abs=0.05)


def test_three_stages_of_a_drawn_network_with_batch_norm():
    rng, n, batch = np.random.default_rng(4), 128, 64
    x, pulls = rng.standard_normal((1, batch, n)), []
    for i in range(18):
        if i % 6 == 0:
            x, deviation = batch_norm(x)
            pulls.append(("stage", x, deviation))
        y, pull = norm_branch(rng, x, 2)
        pulls.append(("unit", pull, None))
        x = x + y
    by_length = np.zeros((19, batch, n))
    g = rng.standard_normal((batch, n))
    by_length[0] = g - g.mean(0)
    passed = 0
    for kind, item, deviation in reversed(pulls):
        held = by_length[: passed + 1]
        if kind == "stage":
            by_length[: passed + 1] = batch_norm_back(held, item, deviation)
        else:
            by_length[1 : passed + 2] += item(held)
            passed += 1
    energies = (by_length**2).sum((1, 2))
    found, expected = energies / energies.sum(), oracles.path_energy(three_stages(6))
    assert found @ np.arange(19) == pytest.approx(expected @ np.arange(19), rel=0.05)
    assert 0.5 * np.abs(found - expected).sum() < 0.1
