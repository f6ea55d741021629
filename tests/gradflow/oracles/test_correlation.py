"""Row 13: how alike the gradients of two inputs are, against drawn networks."""

import numpy as np
import pytest

from convjax.gradflow import oracles
from tests.gradflow.oracles.monte_carlo import agrees, back, centred_weights, relu, weights

CENTRED_SCALE = 2 * np.pi / (np.pi - 1)


@pytest.mark.parametrize("rho", [-0.8, 0.0, 0.3, 0.95])
def test_kernels_by_sampling(rho):
    u, v = np.random.default_rng(0).standard_normal((2, 400_000))
    v = rho * u + np.sqrt(1 - rho**2) * v
    assert 2 * np.mean(relu(u) * relu(v)) == pytest.approx(oracles.relu_correlation(rho), abs=0.008)
    both = 2 * np.mean((u > 0) & (v > 0))
    assert both == pytest.approx(oracles.relu_gate_correlation(rho), abs=0.005)


def test_kernels_at_their_ends():
    assert oracles.relu_correlation(1) == oracles.relu_gate_correlation(1) == 1
    assert oracles.relu_correlation(-1) == oracles.relu_gate_correlation(-1) == 0
    # The derivative of one is the other.
    rho, h = 0.37, 1e-6
    slope = (oracles.relu_correlation(rho + h) - oracles.relu_correlation(rho - h)) / (2 * h)
    assert slope == pytest.approx(oracles.relu_gate_correlation(rho), rel=1e-8)


def pair(rng, n, rho):
    """Return two inputs of one norm and of correlation rho exactly, without a mean."""
    a, b = rng.standard_normal((2, n))
    a -= a.mean()
    b -= b.mean()
    a /= np.linalg.norm(a)
    b -= a * (a @ b)
    b /= np.linalg.norm(b)
    return np.sqrt(n) * np.stack([a, rho * a + np.sqrt(1 - rho**2) * b])


def drawn(rng, n, depth, kind, rho):
    """Return the correlation of the two gradients over 48 outputs of one network."""
    x, layers = pair(rng, n, rho), []
    for _ in range(depth):
        draw = centred_weights if kind == "centred" else weights
        (w,) = draw(rng, 1, n, n, CENTRED_SCALE if kind == "centred" else 2.0)
        if kind == "residual":
            layers.append((w, x > 0))
            x = x + relu(x) @ w
        else:
            x = x @ w
            layers.append((w, x > 0))
            x = relu(x)
    g = np.broadcast_to(rng.standard_normal((48, 1, n)), (48, 2, n))
    for w, gate in reversed(layers):
        g = g + (g @ back(w)) * gate if kind == "residual" else (g * gate) @ back(w)
    products = np.einsum("kin,kjn->ij", g, g)
    return products[0, 1] / np.sqrt(products[0, 0] * products[1, 1])


@pytest.mark.every(2)
@pytest.mark.parametrize(
    ("kind", "depth", "rho"),
    [
        ("plain", 6, 0.0),
        ("plain", 4, 0.6),
        ("centred", 5, 0.0),
        ("centred", 4, 0.6),
        ("residual", 6, 0.0),
        ("residual", 4, 0.6),
    ],
)
def test_gradient_correlation_of_drawn_networks(kind, depth, rho):
    rng = np.random.default_rng(1)
    # Narrow layers correlate more, by some depth / width.
    found = [drawn(rng, 512, depth, kind, rho) for _ in range(14)]
    agrees(found, oracles.gradient_correlation(depth, kind, rho), precision=0.12)


def test_the_three_regimes():
    def at(depth, kind):
        return oracles.gradient_correlation(depth, kind)

    assert at(8, "plain") == pytest.approx(0.05, abs=5e-5)
    assert at(8, "residual") == pytest.approx(0.187, abs=5e-4)
    for depth in (0, 1, 5, 30):
        assert at(depth, "centred") == pytest.approx(0.5**depth)
    # Plain ReLU networks follow a power of depth near -3, not an exponential.
    power = np.log(at(4000, "plain") / at(1000, "plain")) / np.log(4)
    assert power == pytest.approx(-3, abs=0.05)
    assert at(8, "centred") < at(8, "plain") < at(8, "residual")
    for kind in ("plain", "centred", "residual"):
        assert oracles.gradient_correlation(6, kind, 1.0) == pytest.approx(1)
