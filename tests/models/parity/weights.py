"""The weights and the input of the parity goldens: NumPy only, the same on every machine."""

import zlib

import numpy as np


def make_weights(shapes):
    """{state-dict key: shape} -> {key: float64 array}, each sampled with a seed made of its key.

    Convolutions and linear layers are He-scaled by fan-in; scales, variances and layer scales stay
    near 1, so that a network which forgets one of them does not pass.
    """
    return {key: _draw(key, shape) for key, shape in shapes.items()}


def batch(n, h, w, c=3, seed=20261122):
    """A float64 NHWC batch of standard normals."""
    return np.random.RandomState(seed).standard_normal((n, h, w, c))


def digest(shapes):
    """A number that tells whether two networks have the same keys and shapes, in any order."""
    lines = (" ".join([key, *map(str, shape)]) for key, shape in shapes.items())
    return zlib.crc32("\n".join(sorted(lines)).encode())


def _draw(key, shape):
    z = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(shape))
    if len(shape) >= 2:
        return z * np.sqrt(2.0 / np.prod(shape[1:]))
    if key.endswith("running_var"):
        return 1.0 + 0.2 * np.abs(z)
    if key.endswith(("weight", "gamma")):
        return 1.0 + 0.1 * z
    return 0.1 * z
