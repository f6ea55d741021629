"""Rows 15, 16 and 19: borders and pooling, against convolutions written out."""

import itertools

import numpy as np
import pytest

from convjax.gradflow import oracles
from tests.gradflow.oracles.monte_carlo import agrees


def taps(kernel, rank):
    return list(itertools.product(range(-(kernel // 2), kernel // 2 + 1), repeat=rank))


def moved(x, offset, circular):
    """Return x at place + offset along the spatial axes (networks, *spatial, channels)."""
    axes = tuple(range(1, x.ndim - 1))
    shifted = np.roll(x, [-o for o in offset], axes)
    if not circular:
        for axis, o in zip(axes, offset, strict=True):
            outside = [slice(None)] * x.ndim
            outside[axis] = slice(max(x.shape[axis] - o, 0), None) if o > 0 else slice(0, -o)
            if o:
                shifted[tuple(outside)] = 0
    return shifted


def mix(x, w):
    """Apply one matrix for each network at every place."""
    return np.einsum("n...i,nio->n...o", x, w)


def convolve(x, kernel, circular):
    return sum(mix(moved(x, offset, circular), w) for offset, w in kernel.items())


def convolve_back(g, kernel, circular):
    total = np.zeros_like(g)
    for offset, w in kernel.items():
        total += moved(mix(g, np.swapaxes(w, 1, 2)), tuple(-o for o in offset), circular)
    return total


def stack(rng, size, layers, kernel_size, nets, channels, *, circular=False, separable=False):
    """Return |g_0|^2 / |g_L|^2 of each network of convolutions (or pairs) and ReLUs."""
    places = taps(kernel_size, len(size))
    x = rng.standard_normal((nets, *size, channels))
    run = []
    for _ in range(layers):
        shape = (nets, channels, channels)
        if separable:
            deep = rng.standard_normal((len(places), nets, channels)) / np.sqrt(len(places))
            point = rng.standard_normal(shape) * np.sqrt(2 / channels)
            eye = np.eye(channels)
            kernel = {o: (d[:, :, None] * eye) @ point for o, d in zip(places, deep, strict=True)}
        else:
            variance = 2 / (len(places) * channels)
            kernel = {o: rng.standard_normal(shape) * np.sqrt(variance) for o in places}
        x = convolve(x, kernel, circular)
        run.append((kernel, x > 0))
        x = np.maximum(x, 0)
    g = last = rng.standard_normal(x.shape)
    for kernel, gate in reversed(run):
        g = convolve_back(g * gate, kernel, circular)
    axes = tuple(range(1, g.ndim))
    return (g**2).sum(axes) / (last**2).sum(axes)


def test_the_transposed_convolution_used_here():
    rng = np.random.default_rng(0)
    for circular in (False, True):
        kernel = {o: rng.standard_normal((1, 3, 3)) for o in taps(5, 2)}
        x, g = rng.standard_normal((2, 1, 6, 4, 3))
        forward = (convolve(x, kernel, circular) * g).sum()
        np.testing.assert_allclose(forward, (x * convolve_back(g, kernel, circular)).sum())


@pytest.mark.parametrize(
    ("size", "layers", "kernel_size"),
    [((8, 6), 1, 3), ((8, 6), 5, 3), ((9,), 4, 5), ((4, 3, 5), 2, 3), ((2, 5), 2, 7)],
)
def test_padding_gain_of_drawn_networks(size, layers, kernel_size):
    found = stack(np.random.default_rng(1), size, layers, kernel_size, 300, 12)
    agrees(found, oracles.padding_gain(size, layers, kernel_size), precision=0.04)


def test_circular_padding_loses_nothing():
    found = stack(np.random.default_rng(2), (8, 6), 3, 3, 200, 12, circular=True)
    agrees(found, oracles.relu_gain(2.0) ** 3, precision=0.03)


def test_separable_pairs_lose_what_padding_takes():
    found = stack(np.random.default_rng(3), (8, 6), 4, 3, 300, 16, separable=True)
    agrees(found, oracles.separable_gain((8, 6), 4), precision=0.04)
    assert oracles.separable_gain(8, 12) == pytest.approx(0.299, abs=5e-4)


def test_first_layer_and_limit_in_closed_form():
    for n in (1, 2, 8, 32):
        assert oracles.padding_gain(n, 1) == pytest.approx(((3 * n - 2) / (3 * n)) ** 2)
        limit = (1 + 2 * np.cos(np.pi / (n + 1))) / 3
        assert oracles.padding_limit(n) == pytest.approx(limit**2)
        assert oracles.padding_limit(n, rank=1) == pytest.approx(limit)
    assert oracles.padding_gain(8, 50) == pytest.approx(0.0132, abs=5e-5)
    assert oracles.padding_limit(32) == pytest.approx(0.9940, abs=5e-5)
    assert oracles.padding_gain(8, 0) == 1
    assert oracles.padding_gain(7, 9, kernel_size=1) == pytest.approx(1)


@pytest.mark.parametrize(("size", "kernel_size"), [((8, 6), 3), ((9,), 5), ((4, 3, 5), 3)])
def test_the_ratio_of_layers_settles_at_the_limit(size, kernel_size):
    gains = [oracles.padding_gain(size, n, kernel_size) for n in range(0, 120)]
    ratios = np.array(gains[1:]) / gains[:-1]
    limit = oracles.padding_limit(size, kernel_size)
    assert ratios[-1] == pytest.approx(limit, rel=1e-6)
    assert (np.diff(ratios[:20]) > 0).all() and ratios[0] < limit


def test_sizes_and_rank_say_the_same():
    assert oracles.padding_gain(6, 4, rank=3) == pytest.approx(oracles.padding_gain((6, 6, 6), 4))
    assert oracles.padding_limit(6, rank=1) == pytest.approx(oracles.padding_limit((6,)))


@pytest.mark.parametrize("window", [(2, 3), (4, 5), (8, 15)])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_pooling_gain_is_exact(kind, window):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((8, 15))
    rows, columns = 8 // window[0], 15 // window[1]
    g = rng.standard_normal((rows, columns))
    handed = np.zeros_like(x)
    for i, j in itertools.product(range(rows), range(columns)):
        at = np.s_[i * window[0] : (i + 1) * window[0], j * window[1] : (j + 1) * window[1]]
        view = x[at]
        share = np.full(view.shape, 1 / view.size) if kind == "avg" else view == view.max()
        handed[at] += g[i, j] * share
    found = (handed**2).sum() / (g**2).sum()
    assert oracles.pooling_gain(kind, window) == pytest.approx(found, rel=1e-12)
