"""Rows 4, 5, 6, 8 and 9: batch norm and centred weights at initialization, against samples."""

import math

import numpy as np
import pytest

from convjax.gradflow import oracles
from tests.gradflow.oracles.monte_carlo import (
    back,
    batch_norm,
    batch_norm_back,
    centred_weights,
    energy,
    norm_branch,
    relu,
    weights,
)


def centred_cotangent(rng, shape):
    g = rng.standard_normal(shape)
    return g - g.mean(-2, keepdims=True)


def test_the_backward_pass_of_the_norm_used_here():
    rng = np.random.default_rng(0)
    x, g, d = (rng.standard_normal((5, 3)) for _ in range(3))
    y, deviation = batch_norm(x)
    h = 1e-6
    moved = (batch_norm(x + h * d)[0] - batch_norm(x - h * d)[0]) / (2 * h)
    np.testing.assert_allclose((moved * g).sum(), (batch_norm_back(g, y, deviation) * d).sum())


def plain_norm_gains(rng, batch, n, depth, nets, activation):
    """Return the gain of every layer: norm, activation, matrix."""
    x = rng.standard_normal((nets, batch, n))
    layers = []
    for _ in range(depth):
        y, deviation = batch_norm(x)
        w = weights(rng, nets, n, n, 1.0)
        gate = (y > 0) if activation == "relu" else np.ones_like(y)
        layers.append((y, deviation, gate, w))
        x = (y * gate) @ w
    g = centred_cotangent(rng, x.shape)
    gains = []
    for y, deviation, gate, w in reversed(layers):
        before = batch_norm_back((g @ back(w)) * gate, y, deviation)
        gains.append(energy(before) / energy(g))
        g = before
    return np.array(gains[::-1])


@pytest.mark.parametrize(
    ("batch", "activation"), [(8, "relu"), (16, "relu"), (64, "relu"), (8, "linear")]
)
def test_plain_gain_of_drawn_networks(batch, activation):
    gains = plain_norm_gains(np.random.default_rng(1), batch, 500, 14, 3, activation)
    found = gains[4:-4].mean()
    assert found == pytest.approx(oracles.batch_norm_gain(batch, activation), rel=0.03)


def test_plain_gain_of_the_table():
    expected = {4: 3.084, 8: 1.788, 16: 1.590, 64: 1.493, 1024: 1.4685}
    found = {b: oracles.batch_norm_gain(b) for b in expected}
    assert found == pytest.approx(expected, abs=6e-4)
    assert oracles.batch_norm_gain(8, "linear") == pytest.approx(1.2)


def test_plain_gain_falls_with_the_batch_to_that_of_centred_layers():
    found = [oracles.batch_norm_gain(b) for b in range(4, 300)]
    assert (np.diff(found) < 0).all()
    assert min(found) > 1 / oracles.CENTRED == pytest.approx(math.pi / (math.pi - 1))
    assert oracles.batch_norm_gain(10**7) == pytest.approx(1 / oracles.CENTRED, rel=1e-6)
    linear = [oracles.batch_norm_gain(b, "linear") for b in range(4, 300)]
    assert (np.diff(linear) < 0).all() and min(linear) > 1
    assert all(a < b for a, b in zip(linear, found, strict=True))


def test_centred_weights_explode_without_any_norm():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3, 8, 400))
    layers, variances = [], []
    for _ in range(12):
        # The scale at which the variance over inputs is kept.
        w = centred_weights(rng, 3, 400, 400, 2 / oracles.CENTRED)
        x = x @ w
        layers.append((w, x > 0))
        variances.append(x.var())
        x = relu(x)
    np.testing.assert_allclose(variances, variances[0], rtol=0.15)
    g = last = rng.standard_normal(x.shape)
    for w, gate in reversed(layers):
        g = (g * gate) @ back(w)
    found = np.exp(np.log(energy(g) / energy(last)).mean() / 12)
    assert found == pytest.approx(1 / oracles.CENTRED, rel=0.03)


def residual_norm(rng, *, batch, n, units, convs, nets, shortcut=1.0, scale=1.0):
    """Return the variance before every unit and the gain of every unit."""
    x = rng.standard_normal((nets, batch, n))
    pulls, variances = [], [x.var(1).mean()]
    for _ in range(units):
        y, pull = norm_branch(rng, x, convs)
        x = shortcut * x + scale * y
        pulls.append(pull)
        variances.append(x.var(1).mean())
    g = centred_cotangent(rng, x.shape)
    gains = []
    for pull in reversed(pulls):
        before = shortcut * g + scale * pull(g)
        gains.append(energy(before) / energy(g))
        g = before
    return np.array(variances), np.array(gains[::-1]).mean(1)


@pytest.mark.parametrize("convs", [1, 2])
def test_residual_variance_gain_and_exponent(convs):
    units = 40
    variances, gains = residual_norm(
        np.random.default_rng(3), batch=128, n=200, units=units, convs=convs, nets=2
    )
    slope = np.polyfit(np.arange(units + 1), variances, 1)[0]
    assert slope == pytest.approx(oracles.CENTRED, rel=0.03)
    np.testing.assert_allclose(variances, oracles.batch_norm_residual_variance(units), rtol=0.06)
    expected = oracles.batch_norm_residual_gain(units, convs)
    np.testing.assert_allclose(gains, expected, rtol=0.08)
    assert np.log(gains).sum() == pytest.approx(np.log(expected).sum(), rel=0.03)
    # To first order ln |g_l|^2 is a line in ln(v_l), whose slope is the exponent.
    position = np.log(variances[5:-1] / oracles.CENTRED)
    exponent = -np.polyfit(position, np.cumsum(np.log(gains[::-1]))[::-1][5:], 1)[0]
    assert exponent == pytest.approx(oracles.batch_norm_residual_exponent(convs), rel=0.12)


@pytest.mark.parametrize("convs", [1, 2, 3])
def test_the_exponent_is_that_of_the_gains(convs):
    log = np.cumsum(np.log(oracles.batch_norm_residual_gain(200_000, convs)))
    slope = (log[-1] - log[20_000 - 1]) / math.log(10)
    assert slope == pytest.approx(oracles.batch_norm_residual_exponent(convs), rel=1e-3)


def test_exponents_of_the_table():
    assert oracles.batch_norm_residual_exponent(1) == pytest.approx(1.467, abs=5e-4)
    assert oracles.batch_norm_residual_exponent(2) == pytest.approx(2.152, abs=5e-4)


def test_variance_grows_by_one_where_the_norm_comes_last():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 128, 200))
    found = [x.var(1).mean()]
    for _ in range(20):
        x = x + batch_norm(relu(x))[0] @ weights(rng, 2, 200, 200, 1.0)
        found.append(x.var(1).mean())
    expected = oracles.batch_norm_residual_variance(20, order="relu-norm-conv")
    np.testing.assert_allclose(found, expected, rtol=0.05)
    assert expected[-1] == 21


@pytest.mark.parametrize(
    ("shortcut", "scale", "convs"), [(0.5, 1.0, 2), (0.5, 0.3, 1), (-0.8, 2.0, 2), (0.0, 1.0, 2)]
)
def test_scaled_shortcut(shortcut, scale, convs):
    _, gains = residual_norm(
        np.random.default_rng(5),
        batch=128,
        n=256,
        units=24,
        convs=convs,
        nets=1,
        shortcut=shortcut,
        scale=scale,
    )
    found = gains[10:-2].mean()
    assert found == pytest.approx(oracles.scaled_shortcut_gain(shortcut, convs), rel=0.03)


def test_scaled_shortcut_between_its_ends():
    expected = oracles.batch_norm_residual_exponent(2)
    assert oracles.scaled_shortcut_gain(0.0) == pytest.approx(expected)
    found = [oracles.scaled_shortcut_gain(s) for s in np.linspace(0, 0.999, 20)]
    assert (np.diff(found) < 0).all() and 1 < found[-1] < 1.01
    assert oracles.scaled_shortcut_gain(0.5) == pytest.approx(1.864, abs=5e-4)
