"""What zero padding does at borders, against covariances of every place with every other."""

import math

import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, nn

UNITS, BATCH, SIDES, WIDTH = 6, 8, (6, 5), 2000


def _unit(rngs):
    return nn.Chain(
        conv=nn.Conv(WIDTH, WIDTH, (3, 3), use_bias=False, kernel_init="he", rngs=rngs),
        norm=nn.BatchNorm(WIDTH, rngs=rngs),
        relu=nn.Activation("relu"),
    )


def _reads():
    """(taps, places, places): which place each tap reads for an output; nothing beyond borders."""
    axes = [[np.eye(n, k=k) for k in (-1, 0, 1)] for n in SIDES]
    return np.array([np.kron(a, b) for a in axes[0] for b in axes[1]])


def _rectified(own, covariance):
    """E relu(u) relu(v) of normal u and v."""
    roots = np.sqrt(np.outer(own, own))
    rho = np.clip(covariance / roots, -1, 1)
    return roots * (np.sqrt(1 - rho**2) + (math.pi - np.arccos(rho)) * rho) / (2 * math.pi)


def _gains():
    """The convolutions' and the norms' gains in log rms, of infinitely many channels."""
    taps, places = _reads(), math.prod(SIDES)
    same, other = np.eye(places), np.zeros((places, places))  # of one example, and of two
    for _ in range(UNITS):
        before = np.trace(same)
        same, other = (2 / 9 * np.sum(taps @ k @ taps.transpose(0, 2, 1), 0) for k in (same, other))
        after = np.trace(same)
        rows = (same.mean(1) + (BATCH - 1) * other.mean(1)) / BATCH
        means = rows[:, None] + rows - rows.mean()
        left = np.trace(same - means)
        yield 0.5 * math.log(after / before), -0.5 * math.log(after / places)
        same, other = ((k - means) * places / left for k in (same, other))
        own = np.diag(same)
        same, other = _rectified(own, same), _rectified(own, other)


def test_a_border_has_less_of_what_a_norm_takes_out():
    net = nnx.eval_shape(lambda: nn.Repeat(_unit, UNITS, rngs=nnx.Rngs(0)))
    found = gradflow.predict(net, (BATCH, *SIDES, WIDTH), train=True)
    gains = [
        [found[f"{i}/{name}"].activation_gain for name in ("conv", "norm")] for i in range(UNITS)
    ]
    assert np.array(gains) == pytest.approx(np.array(list(_gains())), abs=0.001)
