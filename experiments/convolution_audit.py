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

Tolerances without a source are set by hand. Takes about a minute on two cores. For a look at it
in a few seconds: ``--sizes 8 --widths 16 --padding-images 1 --padding-seeds 8 --depthwise-seeds 8
--jacobian-layers 2 --jacobian-width 16``.

Reference: padding is derived in this project; Xiao et al., Dynamical Isometry and a Mean Field
Theory of CNNs, 2018, for delta-orthogonal kernels; Pennington et al. 2017 for the spread.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from rich.table import Table

from convjax import gradflow, plots
from experiments import _cli, _outcome
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
    Summary,
    drawn,
    summaries,
)
from experiments._audit_judged import (
    STANDARD_ERRORS,
    judge_depthwise,
    judge_jacobians,
    judge_padding,
)
from experiments._ensemble import as_rows, by_cell, check_least, log_squares, measured
from experiments._outcome import Columns, Criterion, Experiment
from experiments._progress import Ticker

DEPTHWISE_SIZE, DEPTHWISE_IMAGES = 8, 4
JACOBIAN_SIZE = 4
PROBES = 32


@dataclasses.dataclass(frozen=True)
class Config(_cli.Options):
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
    out: Path = Path("results/convolution-audit")
    """Folder for the table and the figure; it is made if it is not there."""


def measure(config: Config) -> Columns:
    """Return energies at every layer, and moments of the Jacobians; NaN where there is none.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    each = config.widths, config.padding_images, config.padding_seeds
    deep = config.depthwise_width, config.depthwise_layers, DEPTHWISE_IMAGES
    seeds = {
        Cell(PADDING, kind, size, width, config.padding_layers, images): count
        for size, width, images, count in zip(config.sizes, *each, strict=True)
        for kind in (LINEAR, RELU)
    } | {
        Cell(DEPTHWISE, kind, DEPTHWISE_SIZE, *deep): config.depthwise_seeds
        for kind in (FAN_OUT, GENERIC)
    }
    parts = [measured(list(seeds), energies, seeds=list(seeds.values())), jacobians(config)]
    lengths = [len(part["seed"]) for part in parts]
    blank = [dict.fromkeys(MEASURES, np.full(length, np.nan)) for length in lengths]
    filled = [nothing | part for nothing, part in zip(blank, parts, strict=True)]
    return {name: np.concatenate([part[name] for part in filled]) for name in filled[0]}


def check(config: Config) -> None:
    """Refuse options that cannot be done."""
    check_least(config, sizes=3, jacobian_layers=1, jacobian_width=1, jacobian_seeds=2)
    check_least(config, padding_layers=2, depthwise_width=2, depthwise_layers=1, depthwise_seeds=2)
    for option, least in (("widths", 1), ("padding_images", 1), ("padding_seeds", 2)):
        values = getattr(config, option)
        if len(values) != len(config.sizes) or min(values) < least:
            raise ValueError(
                f"{option}={list(values)} must hold one number of at least {least} for each of "
                f"sizes={list(config.sizes)}"
            )


def energies(cell: Cell, key: jax.Array) -> dict[str, jax.Array]:
    """Measure one network with zero padding, and its twin with circular padding."""
    weights, signal, cotangent = jax.random.split(key, 3)
    x = cell.signal(signal)
    return {
        name: log_squares(cell.network(padding, nnx.Rngs(weights)), x, cotangent)
        for name, padding in (("log_zeros", "SAME"), ("log_circular", "CIRCULAR"))
    }


def jacobians(config: Config) -> Columns:
    """Return the moments of the Jacobians of Gaussian and of orthogonal networks."""
    cells = [
        Cell(JACOBIAN, kind, JACOBIAN_SIZE, config.jacobian_width, layers, 1)
        for kind in (GAUSSIAN, ORTHOGONAL)
        for layers in config.jacobian_layers
    ]
    blocks = []
    with Ticker(len(cells)) as ticker:
        for cell in cells:
            ticker.begin(str(cell))
            found = np.array([moments(cell, seed) for seed in range(config.jacobian_seeds)])
            square, spread = np.split(found, 2, axis=1)
            blocks.append(as_rows(cell, mean_square=square, relative_variance=spread))
            ticker.finish(str(cell))
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def moments(cell: Cell, seed: int) -> tuple[float, float]:
    """Return mean and relative variance of s^2 for one network at one image."""
    weights, signal, probes = jax.random.split(jax.random.key(seed), 3)
    x, net = cell.signal(signal), drawn(cell, weights)
    found = gradflow.spectrum(net, x, train=False, method="hutchinson", samples=PROBES, key=probes)
    return found.mean_square, found.relative_variance


def judge(columns: Columns) -> list[Criterion]:
    """Hold what is left, what a wrong fan does, and the spread of the Jacobian against theory."""
    return [*judge_padding(columns), *judge_depthwise(columns), *judge_jacobians(columns)]


def draw(columns: Columns) -> Figure:
    """Draw what is left by layers, the gain of depthwise kernels, and the Jacobian's spread."""
    padding, depthwise = (summaries(columns, part) for part in (PADDING, DEPTHWISE))
    back, left = "layers travelled back", "mean |g_l|² / |g_L|²"
    shown = []
    for size in dict.fromkeys(row.cell.size for row in padding):
        title = f"{size}x{size}, zero padding"
        rows = [row for row in [*padding, *depthwise] if row.cell.size == size]
        right = [row for row in rows if row.cell.kind != GENERIC]
        series = [_left(row, start) for start, row in enumerate(right)]
        low = min(row.cell.shares()[-1] for row in rows)
        scale = "log" if low < 0.1 else "linear"
        shown.append(plots.Panel(title, back, left, series, yscale=scale))
    title = "depthwise kernels, circular padding"
    shown.append(plots.Panel(title, back, left, [_fans(row) for row in depthwise], yscale="log"))
    title, label = "singular values s of the Jacobian, ReLU", "relative variance of s²"
    shown.append(plots.Panel(title, "layers", label, _spreads(columns)))
    return plots.panels("What convolutions do to the gradient, at birth", shown, columns=2)


def _left(row: Summary, start: int) -> plots.Series:
    # Every third layer, and other ones for other networks: on one another they would be hidden.
    some = np.arange(start, row.cell.layers + 1, 3)
    share, error = row.share[some], STANDARD_ERRORS * row.error[some]
    low = np.maximum(share - error, 0.1 * share)
    return plots.Series(_label(row.cell), some, share, low, share + error, row.cell.shares()[some])


def _fans(row: Summary) -> plots.Series:
    gain = 1 / row.cell.width if row.cell.kind == GENERIC else 1.0
    layers = np.arange(row.cell.layers + 1)
    return plots.Series(_label(row.cell), layers, row.circular, expected=gain**layers)


def _label(cell: Cell) -> str:
    return "separable" if cell.kind == FAN_OUT else cell.kind


def _spreads(columns: Columns) -> list[plots.Series]:
    found: dict[str, list[tuple[float, ...]]] = {}
    for cell, (spread,) in by_cell(columns, Cell, "relative_variance"):
        if cell.part == JACOBIAN:
            theory = gradflow.oracles.jacobian_spread(cell.layers, cell.kind)
            row = (cell.layers, spread.mean(), spread.min(), spread.max(), theory)
            found.setdefault(cell.kind, []).append(row)
    return [plots.Series(kind, *np.transpose(rows)) for kind, rows in found.items()]


def table(columns: Columns) -> Table:
    """Return everything measured beside theory."""
    rows = []
    for row in [s for part in (PADDING, DEPTHWISE) for s in summaries(columns, part)]:
        cell, left = row.cell, row.cell.shares()
        name = (cell.part, cell.kind, f"{cell.size}x{cell.size}")
        for layers in (1, cell.layers) if cell.kind != GENERIC else ():
            what = f"left by {layers} layer{'s' if layers > 1 else ''}"
            rows.append(
                (*name, what, *_numbers(left[layers], row.share[layers], row.error[layers]))
            )
        what = f"the same, circular, {cell.layers} layers"
        gain = 1 / cell.width if cell.kind == GENERIC else 1.0
        ends = row.circular[-1], row.circular_error[-1]
        rows.append((*name, what, *_numbers(gain**cell.layers, *ends)))
    for cell, found in by_cell(columns, Cell, "mean_square", "relative_variance"):
        if cell.part == JACOBIAN:
            name = (cell.part, cell.kind, f"{cell.size}x{cell.size}")
            spread = gradflow.oracles.jacobian_spread(cell.layers, cell.kind)
            for what, theory, values in zip(("mean", "spread"), (1.0, spread), found, strict=True):
                error = values.std(ddof=1) / math.sqrt(values.size)
                text = f"{what} of s^2, {cell.layers} layers"
                rows.append((*name, text, *_numbers(theory, values.mean(), error)))
    heads = ("part", "kind", "places", "what", "theory", "mean", "s.e.")
    return _outcome.plain_table("Means over networks", heads, rows)


def _numbers(theory: float, mean: float, error: float) -> tuple[str, ...]:
    return _outcome.digits(theory), _outcome.digits(mean), _outcome.digits(error, 2)


EXPERIMENT = Experiment("convolution-audit", __doc__ or "", Config, measure, judge, draw, table)


def main(argv: Sequence[str]) -> int:
    """Run the experiment from the command line and return the exit code."""
    return _outcome.run(EXPERIMENT, argv)
