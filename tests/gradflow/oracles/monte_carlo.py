"""Random networks in NumPy, forward and backward written out, from which oracles are checked.

Nothing here is shared with the closed forms: weights are drawn, signals go forward, cotangents come
back. Leading axes of weights are networks; a signal is (networks, batch, features).
"""

import numpy as np


def weights(rng, nets, fan_in, fan_out, scale):
    """Draw matrices of variance scale / fan_in."""
    return rng.standard_normal((nets, fan_in, fan_out)) * np.sqrt(scale / fan_in)


def centred_weights(rng, nets, fan_in, fan_out, scale):
    """Draw matrices whose columns have mean 0 and variance scale / fan_in exactly."""
    w = rng.standard_normal((nets, fan_in, fan_out))
    w -= w.mean(1, keepdims=True)
    return w / np.sqrt((w**2).mean(1, keepdims=True)) * np.sqrt(scale / fan_in)


def relu(x):
    return np.maximum(x, 0.0)


def batch_norm(x):
    """Return x normalised over the batch, and what its backward pass needs."""
    centred = x - x.mean(-2, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-2, keepdims=True))
    return centred / deviation, deviation


def batch_norm_back(g, y, deviation):
    """Return the cotangent before the norm; y is what the norm returned."""
    along = (g * y).mean(-2, keepdims=True)
    return (g - g.mean(-2, keepdims=True) - y * along) / deviation


def back(w):
    """Return the transposed matrices."""
    return np.swapaxes(w, -1, -2)


def energy(g):
    """Return the squared norm of each network's cotangent."""
    return (g**2).sum((-1, -2))


def agrees(samples, expected, *, precision):
    """Ask that a mean lie within three standard errors, and that those be small enough to tell."""
    samples = np.asarray(samples)
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    assert error < precision * abs(expected), f"standard error {error} is no test of {expected}"
    np.testing.assert_allclose(samples.mean(), expected, rtol=0, atol=3 * error)


def norm_branch(rng, x, convs):
    """Run norm, ReLU, He matrix, ``convs`` times; return the output and the backward pass."""
    steps = []
    for _ in range(convs):
        y, deviation = batch_norm(x)
        w = weights(rng, len(x), x.shape[-1], x.shape[-1], 2.0)
        x = relu(y) @ w
        steps.append((y, deviation, w))

    def pull(g):
        for y, deviation, w in reversed(steps):
            g = batch_norm_back((g @ back(w)) * (y > 0), y, deviation)
        return g

    return x, pull
