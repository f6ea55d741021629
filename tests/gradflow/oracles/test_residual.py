"""Rows 7, 10, 17 and 18: shortcuts without norm."""

import math

import numpy as np
import pytest

from convjax.gradflow import oracles
from tests.gradflow.oracles.monte_carlo import agrees, back, energy, relu, weights


def residual(rng, n, units, scale, nets, hidden):
    """Return |g_0|^2 / |g_L|^2 of x + scale * branch(x).

    The branch is ReLU, He matrix; or He matrix, ReLU, He matrix where hidden features are given.
    """
    x = rng.standard_normal((nets, 1, n))
    pulls = []
    for _ in range(units):
        if hidden:
            first = weights(rng, nets, n, hidden, 2.0)
            second = weights(rng, nets, hidden, n, 2.0)
            h = x @ first
            y = relu(h) @ second
            pulls.append((first, h > 0, second))
        else:
            first = weights(rng, nets, n, n, 2.0)
            y = relu(x) @ first
            pulls.append((None, x > 0, first))
        x = x + scale * y
    g = last = rng.standard_normal(x.shape)
    for first, gate, second in reversed(pulls):
        handed = (g @ back(second)) * gate
        g = g + scale * (handed if first is None else handed @ back(first))
    return energy(g) / energy(last)


@pytest.mark.parametrize(
    ("units", "scale", "hidden"),
    [(10, 1.0, 0), (16, 0.25, 0), (16, 1 / 16, 0), (6, 1.0, 70), (5, -0.5, 70)],
)
def test_residual_gain_in_the_mean(units, scale, hidden):
    found = residual(np.random.default_rng(0), 96, units, scale, 120, hidden)
    branch_gain = 2.0 if hidden else 1.0
    agrees(found, oracles.residual_gain(units, scale, branch_gain), precision=0.1)


def test_residual_gain_of_the_table():
    assert oracles.residual_gain(24, 1, 1) == 2**24
    assert oracles.residual_gain(1, 1, 2) == 3
    assert oracles.residual_gain(24, 24**-0.5, 1) == pytest.approx(2.66, abs=0.005)
    assert oracles.residual_gain(10**7, 1e7**-0.5, 1) == pytest.approx(math.e, rel=1e-6)
    assert oracles.residual_gain(10_000, 1e-4, 1) == pytest.approx(1, abs=2e-4)
    assert oracles.residual_gain(24, 0, 1) == 1
    assert oracles.residual_gain(5000, 1, 1) == math.inf


@pytest.mark.parametrize(("units", "scale"), [(6, 1.0), (4, 1.5)])
def test_narrow_trunks_hand_back_more_than_wide_ones(units, scale):
    # Forwards a tangent has the same trace as a cotangent backwards; four share a trunk.
    rng = np.random.default_rng(1)
    x, u = rng.standard_normal((6000, 16, 1)), rng.standard_normal((6000, 16, 4))
    start = np.mean(u**2)
    for _ in range(units):
        w, gate = weights(rng, 6000, 16, 16, 2.0), x > 0
        x, u = (v + scale * w @ (gate * v) for v in (x, u))
    wide, found = oracles.residual_gain(units, scale, 1.0), np.mean(u**2, axis=(1, 2)) / start
    error = found.std() / np.sqrt(len(found)) / wide
    factor = oracles.residual_width_factor(units, scale, 16)
    assert factor > 1.05 + 3 * error
    # What is of second order in 1/n is left out.
    assert abs(found.mean() / wide - factor) < 3 * error + (factor - 1) ** 2
    assert oracles.residual_width_factor(units, 0.0, 16) == 1


@pytest.mark.parametrize(("bias", "expected"), [(-1, 1.6e-7), (-2, 1.75e-3), (-3, 8.8e-2)])
def test_highway_carry(bias, expected):
    rng = np.random.default_rng(1)
    g = last = rng.standard_normal(7)
    for _ in range(50):
        gate = 1 / (1 + np.exp(-np.full(7, float(bias))))
        g = g - gate * g
    found = np.linalg.norm(g) / np.linalg.norm(last)
    assert oracles.highway_carry(bias, 50) == pytest.approx(found, rel=1e-12)
    assert found == pytest.approx(expected, rel=0.03)


def test_highway_carry_of_gates_wide_open_and_shut():
    assert oracles.highway_carry(-800, 50) == 1
    assert oracles.highway_carry(800, 2) == 0
    assert oracles.highway_carry(0, 3) == pytest.approx(1 / 8)


def test_fixup_scale():
    assert oracles.fixup_scale(54, 2) == pytest.approx(0.136, abs=5e-4)
    # m - 1 layers scaled by s each: the branch's slope in its last layer goes as s^(m-1) = L^-1/2,
    # so that L units together move the output as one.
    for convs in (2, 3, 4):
        assert 81 * oracles.fixup_scale(81, convs) ** (2 * (convs - 1)) == pytest.approx(1)


def sinkhorn(logits, iterations=20):
    """Scale columns, then rows, to sum to 1."""
    h = np.exp(logits)
    for _ in range(iterations):
        h = h / h.sum(-2, keepdims=True)
        h = h / h.sum(-1, keepdims=True)
    return h


def sums(matrices):
    """Send a vector of ones forward through the matrices, and another back."""
    forward = backward = np.ones(matrices.shape[-1])
    for h in matrices:
        forward = h @ forward
    for h in matrices[::-1]:
        backward = h.T @ backward
    return np.abs(forward), np.abs(backward)


def test_compound_gain_of_doubly_stochastic_matrices_is_one():
    matrices = sinkhorn(np.random.default_rng(2).standard_normal((60, 4, 4)))
    found = oracles.compound_gain(matrices)
    assert found.forward == pytest.approx(1, abs=1e-12)  # the row step came last
    assert found.backward == pytest.approx(1, abs=1e-3)
    assert found.log < 1e-3


def test_compound_gain_of_free_matrices():
    rng = np.random.default_rng(3)
    matrices = np.eye(4) + 0.3 * rng.standard_normal((30, 4, 4))
    found, (forward, backward) = oracles.compound_gain(matrices), sums(matrices)
    assert found.forward == pytest.approx(forward.max())
    assert found.backward == pytest.approx(backward.max())
    assert found.log == pytest.approx(np.abs(np.log([*forward, *backward])).max())
    assert found.forward > 3  # far from 1: the order of the product shows
    assert found.forward != pytest.approx(oracles.compound_gain(matrices[::-1]).forward, rel=0.05)


def test_the_logarithm_sees_a_lost_column_that_the_largest_sum_hides():
    h = np.array([[0.1, 0.45, 0.45], [0.2, 0.4, 0.4], [0.11, 0.445, 0.445]])
    found = oracles.compound_gain(h[None])
    assert found.forward == pytest.approx(1) and found.backward == pytest.approx(1.295)
    assert found.log == pytest.approx(-math.log(0.41))
