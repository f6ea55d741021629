"""Rows 1, 2 and 14: plain stacks without norm, against drawn networks."""

import itertools

import numpy as np
import pytest

from convjax.gradflow import oracles
from tests.gradflow.oracles.monte_carlo import agrees, back, energy, relu, weights


def plain(rng, widths, nets, scale, activation="relu"):
    """Return |g_0|^2 / |g_L|^2 of each network, for one example."""
    x = rng.standard_normal((nets, 1, widths[0]))
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths):
        w = weights(rng, nets, fan_in, fan_out, scale)
        x = x @ w
        layers.append((w, x > 0 if activation == "relu" else 1.0))
        x = relu(x) if activation == "relu" else x
    g = last = rng.standard_normal(x.shape)
    for w, gate in reversed(layers):
        g = (g * gate) @ back(w)
    return energy(g) / energy(last)


@pytest.mark.parametrize("scale", [2.0, 1.0, 1 / 3])
def test_relu_gain_holds_in_the_mean_at_any_width(scale):
    found = plain(np.random.default_rng(0), [20, 31, 17, 26], 6000, scale)
    agrees(found, oracles.relu_gain(scale) ** 3, precision=0.015)


def test_relu_gain_of_the_usual_initialisations():
    assert oracles.relu_gain(2) == 1 and oracles.relu_gain(1) == 0.5
    assert oracles.relu_gain(1 / 3) == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("widths", "activation", "per_layer"),
    [([48] * 25, "relu", 5.0), ([48, 80, 64] * 5 + [48], "relu", 5.0), ([40] * 21, "linear", 2.0)],
)
def test_log_spread(widths, activation, per_layer):
    scale, nets = (2.0, 400) if activation == "relu" else (1.0, 700)
    found = np.log(plain(np.random.default_rng(1), widths, nets, scale, activation))
    # A layer's gain scatters with the width that its gates and its weights sum over: its output's
    # for the gates, its input's for the weights.
    depth = len(widths) - 1
    mean, variance = oracles.log_spread(depth, np.array(widths[1:]), per_layer)
    agrees(found, mean, precision=0.1)
    assert found.var(ddof=1) == pytest.approx(variance, rel=0.2)


def test_log_spread_of_one_width_and_of_many():
    assert oracles.log_spread(32, 64) == (-1.25, 2.5)
    assert oracles.log_spread(3, [10, 20, 40]) == pytest.approx((-0.4375, 0.875))
    assert oracles.log_spread(0, 64) == (0, 0)
    assert oracles.log_spread(7, 9) == pytest.approx(oracles.log_spread(7, [9] * 7))


def jacobian(rng, n, depth, kernel, activation):
    """Multiply layer by layer; half of the gates are open, drawn by a forward pass."""
    x, product = rng.standard_normal(n), np.eye(n)
    for _ in range(depth):
        w = rng.standard_normal((n, n)) / np.sqrt(n)
        if kernel == "orthogonal":
            q, r = np.linalg.qr(w)
            w = q * np.sign(np.diag(r))
        if activation == "relu":
            w *= np.sqrt(2)
        x = w @ x
        gate = (x > 0) if activation == "relu" else np.ones(n)
        x, product = x * gate, (w * gate[:, None]) @ product
    return product


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("kernel", ["gaussian", "orthogonal"])
def test_jacobian_spread(kernel, activation):
    rng = np.random.default_rng(2)
    found = []
    for _ in range(5):
        product = jacobian(rng, 256, 4, kernel, activation)
        mean = (product**2).sum() / 256  # of the squared singular values: a trace
        assert mean == pytest.approx(1, rel=0.3)
        found.append(((product.T @ product) ** 2).sum() / 256 / mean**2 - 1)
    spread = np.mean(found)
    expected = oracles.jacobian_spread(4, kernel, activation)
    assert spread == pytest.approx(expected, rel=0.08, abs=1e-9)
