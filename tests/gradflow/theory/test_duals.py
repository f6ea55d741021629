"""Gaussian integrals of activations against sums over many draws, and against themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import nn
from convjax.gradflow._theory import _duals

EVERY = pytest.mark.parametrize("name", sorted(nn.ACTIVATIONS))
MEAN, VARIANCE, RHO = 0.4, 1.6, -0.35


@pytest.mark.every(2)
@EVERY
def test_value_and_slope_are_the_activations_own(name):
    z = np.linspace(-7, 7, 200, dtype=np.float32) + 0.003
    function = nn.ACTIVATIONS[name]
    np.testing.assert_allclose(_duals.FUNCTIONS[name].value(z), function(z), atol=2e-6)
    slope = jax.vmap(jax.grad(function))(jnp.asarray(z))
    np.testing.assert_allclose(_duals.FUNCTIONS[name].slope(z), slope, atol=1e-5)


@pytest.fixture(scope="module")
def draws():
    rng = np.random.default_rng(1)
    u = rng.normal(size=400_000)
    return u, RHO * u + np.sqrt(1 - RHO**2) * rng.normal(size=u.size)


@EVERY
def test_moments_are_means_over_draws(name, draws):
    f = _duals.FUNCTIONS[name]
    u, v = draws
    z, w = (MEAN + np.sqrt(VARIANCE) * a for a in (u, v))
    fz, fw, sz, sw = f.value(z), f.value(w), f.slope(z), f.slope(w)
    found = _duals.moments(name, None, MEAN, VARIANCE)
    rho = np.array([RHO])

    def close(expected, samples):
        error = samples.std() / np.sqrt(samples.size)
        assert abs(float(np.squeeze(expected)) - samples.mean()) < 5 * error + 1e-4

    close(found.mean, fz)
    close(found.second, fz**2)
    close(found.slope, sz**2)
    close(found.pair(rho), fz * fw)
    close(found.slope_pair(rho), sz * sw)
    close(found.tilt_pair(rho), u * sz * v * sw)
    close(found.gate_pair(rho), sz**2 * sw**2 / found.slope**2)
    one, other = (
        f**2 / found.second - 1 - found.elasticity * (x**2 / (MEAN**2 + VARIANCE) - 1)
        for f, x in ((fz, z), (fw, w))
    )
    close(found.noise_pair(rho), one * other)


@EVERY
def test_elasticity_is_the_second_moments_own_slope(name):
    step = 1e-4
    mean = 0.0
    above, below = (_duals.moments(name, None, mean, 1.3 * np.exp(s)).second for s in (step, -step))
    expected = (np.log(above) - np.log(below)) / (2 * step)
    found = _duals.moments(name, None, mean, 1.3).elasticity
    assert found == pytest.approx(expected, abs=2e-3)


@EVERY
def test_a_pair_of_correlation_one_is_one_value(name):
    found = _duals.moments(name, None, 0.0, 0.9)
    one = np.ones(1)
    assert found.pair(one)[0] == pytest.approx(found.second, rel=1e-6)
    assert found.slope_pair(one)[0] == pytest.approx(found.slope, rel=1e-6)


def test_relu_about_zero_agrees_with_the_series():
    closed, series = _duals.moments("relu", None, 0.0, 2.0), _duals._series("relu", None, 0.0, 2.0)
    rho = np.linspace(-0.9, 0.9, 7)
    np.testing.assert_allclose(closed.pair(rho), series.pair(rho), rtol=1e-3)
    np.testing.assert_allclose(closed.tilt_pair(rho), series.tilt_pair(rho), atol=1e-3)
    np.testing.assert_allclose(closed.noise_pair(rho), series.noise_pair(rho), atol=5e-3)
    np.testing.assert_allclose(closed.gate_pair(rho), series.gate_pair(rho), atol=2e-2)


def test_a_function_of_ones_own_is_integrated_like_the_same_by_name():
    own = _duals.moments("mine", jnp.tanh, 0.2, 1.1)
    named = _duals.moments("tanh", None, 0.2, 1.1)
    assert own.second == pytest.approx(named.second, rel=1e-5)
    assert own.slope == pytest.approx(named.slope, rel=1e-4)
