"""What do padding, depthwise kernels, wrong fans and orthogonal kernels do to the gradient?

    python -m experiments convolution-audit

Plain convolutional networks without norm or bias at birth, a Gaussian image in, a unit Gaussian
cotangent g_L back; the mean over many networks of |g_l|^2 / |g_L|^2 is the energy that is left.

Zero padding. 3x3 convolutions over 8x8 and 32x32 places: LeCun kernels without activation, He's
with ReLU. At the border part of a window sees zeros, and what would have gone back there is lost
(``gradflow.oracles.padding_gain``): one layer leaves ((3H - 2) / 3H)^2, 0.840 and 0.959; 50 layers
0.0132 and 0.550; at 8x8 each further layer 0.9212. Pass: one layer within 3 %; 50 layers, and at
8x8 the last 25 layers' logarithm, within 3 % for the linear networks, which scatter little; within
3 standard errors for those with ReLU, where the gates of a whole image open and close together and
3 % would take thousands of networks. (At 32x32 fifty layers do not reach the limit, 0.9940.) Every
network has a twin with circular padding and the same kernels, for which theory says 1 exactly: the
control variate that takes out most of the scatter. Pass: the twins' mean is 1 within 3 standard
errors.

Depthwise kernels. Units of ReLU, 3x3 depthwise, 1x1 convolution (variance 1/9 and 2/C), 12 layers
of 32 channels at 8x8: 0.299 is left (``separable_gain``). Pass: within 3 standard errors,
the twins too.

Fans. The depthwise kernels are drawn by fan-out, once by convjax's initialiser, which is told the
groups, once by ``jax.nn.initializers.variance_scaling``, which is not and takes (3, 3, 1, C) for a
kernel with 9 C fans out where it has 9. Pass: with circular padding the gain of a layer is 1 within
5 % with the first and 1/C with the second; what is off by more than a factor of 2 is flagged, and
that is the second alone.

Orthogonal kernels. Singular values s of the Jacobian (``gradflow.spectrum``) through 2, 4 and 6
layers of 256 channels with ReLU over 4x4 places, circular: the relative variance of s^2 is 2 L for
Gaussian kernels, L for delta-orthogonal ones (``jacobian_spread``). Pass: within 5 %, for width and
scatter.

Tolerances without a source are set by hand. Takes somewhat over a minute of processor time. For a
look at it in a few seconds: ``--sizes 8 --widths 16 --padding-images 1 --seeds 8
--jacobian-layers 2 --jacobian-width 16``.

Reference: padding is derived in this project; Xiao et al., Dynamical Isometry and a Mean Field
Theory of CNNs, 2018, for delta-orthogonal kernels; Pennington et al. 2017 for the spread.
"""

import dataclasses
from collections.abc import Hashable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from convjax import gradflow, lab
from convjax.lab import Columns, Ensemble, as_rows, check_least, log_ratios, over_seeds
from experiments._audit import (
    DEPTHWISE,
    FAN_OUT,
    GAUSSIAN,
    GENERIC,
    JACOBIAN,
    LINEAR,
    MEASURES,
    ORTHOGONAL,
    PADDING,
    RELU,
    Cell,
    drawn,
)
from experiments._audit_judged import judge as judge
from experiments._audit_shown import draw as draw
from experiments._audit_shown import table as table

DEPTHWISE_SIZE, DEPTHWISE_IMAGES = 8, 4
JACOBIAN_SIZE = 4
PROBES = 32


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options."""

    sizes: tuple[int, ...] = (8, 32)
    """Places along each axis of the networks with zero padding."""
    widths: tuple[int, ...] = (64, 32)
    """Channels of those networks, one for each size."""
    padding_seeds: tuple[int, ...] = (128, 32)
    """How many of them, for each size."""
    padding_images: tuple[int, ...] = (8, 1)
    """Images that go through each of them, for each size."""
    padding_layers: int = 50
    """Layers of those networks."""
    depthwise_width: int = 32
    """Channels of the networks with depthwise kernels."""
    depthwise_layers: int = 12
    """Their units."""
    depthwise_seeds: int = 1000
    """How many of them, for each way of drawing their kernels."""
    jacobian_layers: tuple[int, ...] = (2, 4, 6)
    """Layers of the networks whose Jacobians are looked at."""
    jacobian_width: int = 256
    """Their channels."""
    jacobian_seeds: int = 6
    """How many of them, for each kind and depth."""
    seeds: int | None = None
    """Networks of every kind; without it, each part has as many as the options above say."""
    depths: tuple[int, ...] = ()
    """Layers of the networks with zero padding and with depthwise kernels, one depth after the
    other; without it, each part has as many as the options above say."""
    out: Path = Path("results/convolution-audit")
    """Folder for the table and the figure; it is made if it is not there."""


def cells(config: Config) -> list[Ensemble]:
    """Return what is measured.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    each = zip(config.sizes, config.widths, config.padding_images, strict=True)
    deep = config.depths or (config.depthwise_layers,)
    padding = [
        Ensemble(Cell(PADDING, kind, size, width, layers, images), count)
        for (size, width, images), count in zip(each, padding_seeds(config), strict=True)
        for layers in config.depths or (config.padding_layers,)
        for kind in (LINEAR, RELU)
    ]
    depthwise = [
        Ensemble(
            Cell(DEPTHWISE, kind, DEPTHWISE_SIZE, config.depthwise_width, layers, DEPTHWISE_IMAGES),
            config.seeds or config.depthwise_seeds,
        )
        for layers in deep
        for kind in (FAN_OUT, GENERIC)
    ]
    jacobian = [
        Ensemble(
            Cell(JACOBIAN, kind, JACOBIAN_SIZE, config.jacobian_width, layers, 1),
            config.seeds or config.jacobian_seeds,
        )
        for kind in (GAUSSIAN, ORTHOGONAL)
        for layers in config.jacobian_layers
    ]
    return [*padding, *depthwise, *jacobian]


def padding_seeds(config: Config) -> tuple[int, ...]:
    """Return how many networks with zero padding there are, for each size."""
    return config.padding_seeds if config.seeds is None else (config.seeds,) * len(config.sizes)


def check(config: Config) -> None:
    """Refuse options that cannot be done."""
    check_least(config, sizes=3, jacobian_layers=1, jacobian_width=1, jacobian_seeds=2)
    check_least(config, padding_layers=2, depthwise_width=2, depthwise_layers=1, depthwise_seeds=2)
    if config.depths:
        check_least(config, depths=2)
    if config.seeds is not None:
        check_least(config, seeds=2)
    each = {
        "widths": (config.widths, 1),
        "padding_images": (config.padding_images, 1),
        "padding_seeds": (padding_seeds(config), 2),
    }
    for option, (values, least) in each.items():
        if len(values) != len(config.sizes) or min(values) < least:
            raise ValueError(
                f"{option}={list(values)} must hold one number of at least {least} for each of "
                f"sizes={list(config.sizes)}"
            )


def group(networks: Ensemble) -> Hashable:
    """Return what decides the program: Jacobians of both kinds are probed by one."""
    cell = networks.kind
    return dataclasses.replace(cell, kind="") if cell.part == JACOBIAN else cell


def measure(networks: Ensemble) -> Columns:
    """Return energies at every layer, or moments of the Jacobians; NaN where there is none."""
    of_jacobian = networks.kind.part == JACOBIAN
    found = jacobians(networks) if of_jacobian else over_seeds(networks, energies)
    return dict.fromkeys(MEASURES, np.full(len(found["seed"]), np.nan)) | found


def energies(cell: Cell, key: jax.Array) -> dict[str, jax.Array]:
    """Measure one network with zero padding, and its twin with circular padding."""
    weights, signal, cotangent = jax.random.split(key, 3)
    x = cell.signal(signal)
    return {
        name: log_ratios(cell.network(padding, nnx.Rngs(weights)), x, cotangent)
        for name, padding in (("log_zeros", "SAME"), ("log_circular", "CIRCULAR"))
    }


def jacobians(networks: Ensemble) -> Columns:
    """Return the moments of the Jacobians of Gaussian or of orthogonal networks."""
    found = np.array([moments(networks.kind, seed) for seed in range(networks.seeds)])
    square, spread = np.split(found, 2, axis=1)
    return as_rows(networks.kind, mean_square=square, relative_variance=spread)


def moments(cell: Cell, seed: int) -> tuple[float, float]:
    """Return mean and relative variance of s^2 for one network at one image."""
    weights, signal, probes = jax.random.split(jax.random.key(seed), 3)
    x, net = cell.signal(signal), drawn(cell, weights)
    found = gradflow.spectrum(net, x, train=False, method="hutchinson", samples=PROBES, key=probes)
    return found.mean_square, found.relative_variance
