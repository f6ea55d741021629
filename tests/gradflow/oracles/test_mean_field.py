"""Row 3: fixed point, gain and correlation length of wide plain networks."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from convjax import nn
from convjax.gradflow import oracles

FOUR = [(1.0, 0.759), (1.5, 0.9386), (1.76, 0.9998), (2.0, 1.0477)]
SMOOTH = ("tanh", "sigmoid", "softplus", "silu", "gelu", "exact_gelu", "elu", "selu")


def test_the_four_of_the_table():
    found = [oracles.chi("tanh", weight, 0.05) for weight, _ in FOUR]
    np.testing.assert_allclose(found, [expected for _, expected in FOUR], atol=6e-5)


def test_the_phase_changes_at_1_76():
    below, above = (oracles.chi("tanh", weight, 0.05) for weight in (1.755, 1.765))
    assert below < 1 < above


def plain_tanh(rng, n, depth, weight, bias):
    """Return the variance of every pre-activation and the gain of every layer."""
    x, layers, variances = rng.standard_normal(n), [], []
    for _ in range(depth):
        w = rng.standard_normal((n, n)) * np.sqrt(weight / n)
        h = x @ w + rng.standard_normal(n) * np.sqrt(bias)
        x = np.tanh(h)
        layers.append((w, 1 - x**2))
        variances.append((h**2).mean())
    g, gains = rng.standard_normal(n), []
    for w, slope in reversed(layers):
        before = (g * slope) @ w.T
        gains.append((before**2).sum() / (g**2).sum())
        g = before
    return np.array(variances), np.array(gains[::-1])


@pytest.mark.parametrize("weight", [1.0, 1.5, 2.0])
def test_chi_and_fixed_point_of_drawn_networks(weight):
    rng = np.random.default_rng(3)
    variances, gains = zip(*(plain_tanh(rng, 400, 24, weight, 0.05) for _ in range(3)), strict=True)
    settled = slice(8, None)
    q = np.mean([v[settled] for v in variances])
    assert q == pytest.approx(oracles.fixed_point("tanh", weight, 0.05), rel=0.04)
    gain = np.exp(np.mean([np.log(g[settled]) for g in gains]))
    assert gain == pytest.approx(oracles.chi("tanh", weight, 0.05), rel=0.03)


@pytest.mark.parametrize("name", [*SMOOTH, "erf"])
def test_fixed_point_and_chi_by_the_library_s_own_activations(name):
    f = special.erf if name == "erf" else nn.ACTIVATIONS[name]
    weight, bias = (1.3, 0.2) if name not in ("selu", "softplus") else (0.6, 0.2)
    q = oracles.fixed_point(name, weight, bias)
    assert 0 < q < 10
    z = np.linspace(-9, 9, 4001)
    values = np.asarray(f(jnp.float32(math.sqrt(q) * z)), np.float64)
    slopes = np.gradient(values, math.sqrt(q) * z)
    density = stats.norm.pdf(z)
    assert weight * np.trapezoid(values**2 * density, z) + bias == pytest.approx(q, rel=1e-4)
    gain = weight * np.trapezoid(slopes**2 * density, z)
    assert gain == pytest.approx(oracles.chi(name, weight, bias), rel=1e-3)


@pytest.mark.parametrize("name", ["tanh", "softplus", "silu", "elu", "relu", "linear"])
def test_a_function_gives_what_its_name_gives(name):
    def function(x):
        known = {
            "tanh": lambda: np.sinh(x) / np.cosh(x),
            "softplus": lambda: np.log1p(np.exp(x)),
            "silu": lambda: x / (1 + np.exp(-x)),
            "elu": lambda: np.where(x > 0, x, np.exp(x) - 1),
            "relu": lambda: x * (x > 0),
            "linear": lambda: 1.0 * x,
        }
        return known[name]()

    for weight, bias in ((0.7, 0.1), (0.9, 0.4)):
        for oracle in (oracles.fixed_point, oracles.chi):
            assert oracle(function, weight, bias) == pytest.approx(
                oracle(name, weight, bias), rel=1e-8
            )


def test_homogeneous_activations_in_closed_form():
    assert oracles.fixed_point("relu", 1.5, 0.2) == pytest.approx(0.2 / 0.25)
    assert oracles.fixed_point("linear", 0.5, 0.2) == pytest.approx(0.4)
    assert oracles.chi("relu", 2, 0) == pytest.approx(1)
    assert oracles.chi("relu", 1.5, 7) == pytest.approx(oracles.relu_gain(1.5))
    assert oracles.chi("leaky_relu", 2, 0) == pytest.approx(1 + 0.01**2)
    assert oracles.chi("linear", 0.5, 1) == pytest.approx(0.5)
    assert oracles.fixed_point("relu", 2.5, 0.0) == math.inf
    assert oracles.fixed_point("relu", 2.0, 0.1) == math.inf
    assert oracles.fixed_point("relu", 1.9, 0.0) == 0


def test_tanh_without_bias_dies_out_or_settles():
    assert oracles.fixed_point("tanh", 0.9, 0) == 0
    assert oracles.chi("tanh", 0.9, 0) == pytest.approx(0.9)
    q = oracles.fixed_point("tanh", 1.1, 0)
    z = np.random.default_rng(4).standard_normal(400_000)
    assert 0.01 < q < 0.2
    assert 1.1 * np.mean(np.tanh(np.sqrt(q) * z) ** 2) == pytest.approx(q, rel=0.01)


def test_correlation_length():
    assert oracles.correlation_length(math.exp(-1 / 7)) == pytest.approx(7)
    assert oracles.correlation_length(math.exp(1 / 7)) == pytest.approx(7)
    assert oracles.correlation_length(1) == math.inf
