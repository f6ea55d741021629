"""How large is the gradient at the input of a network with shortcuts, by the branches' scale?

    python -m experiments skip-and-scale

Fully connected networks without norm or bias, of He's initialisation, dozens of each kind. A unit
is ``x + scale * branch(x)``, its plain twin ``scale * branch(x)``: the same parameters, one term
less. The branch is ReLU, W, or else W, ReLU, W; the scale is 1, L^-1/2, 1/L or 0 for L units. A
small batch of Gaussian examples goes through each network, a unit Gaussian cotangent g_L comes
back, and |g_l|^2 / |g_L|^2 is measured behind every unit and at the input.

Theory (``gradflow.oracles.residual_gain``): the energies of branch and shortcut add, so that the
mean of |g_0|^2 / |g_L|^2 is (1 + scale^2 a)^L, with a = 1 for the first branch and 2 for the
second. Without the shortcut it is (scale^2 a)^L. For W, ReLU, W this is exact at any width, because
whether a gate is open depends on the sign of fresh weights alone. For ReLU, W it is the limit of
wide networks: its gates sit on the trunk, where a large feature keeps its gate open for units to
come and feeds all others meanwhile. To first order in 1/n the mean is larger by the factor that
``finite_width`` gives: at scale 1 and width 256 by 3.6 % at 16 units and 8.2 % at 32.

Pass: for every branch, scale and depth the mean over networks of |g_0|^2 / |g_L|^2 is theory's
within 3 standard errors, ``finite_width`` included; with scale 0 it is 1 within 1e-6 in every
network. It is the arithmetic mean that theory speaks of. The logarithm scatters, and the typical
network, the geometric mean in the table, has less.

Takes somewhat over a minute of processor time. For a look at it in a few seconds:
``--depths 8 --seeds 8``.

Reference: Balduzzi et al., The Shattered Gradients Problem, 2017, for 2^L; Hayou et al., Stable
ResNet, 2021, for the scales.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from rich.table import Table

from convjax import lab, plots
from convjax.lab import (
    Columns,
    Criterion,
    Ensemble,
    check_least,
    check_several,
    log_ratios,
    over_seeds,
)
from experiments._shortcuts import GAINS, SCALES, Cell, Summary, summaries

STANDARD_ERRORS = 3.0
EXACTLY = 1e-6
MOST_UNITS = 500


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options; every branch is measured at every scale and depth."""

    depths: tuple[int, ...] = (8, 32)
    """Residual units."""
    scales: tuple[str, ...] = tuple(SCALES)
    """Factors on the branches: 1, L^-1/2, 1/L, 0. The plain twins have 1."""
    width: int = 256
    """Features of every layer."""
    batch_size: int = 8
    """Examples that go through each network; their gradients are measured together."""
    seeds: int = 64
    """Networks of each kind; twins of one seed have the same weights."""
    out: Path = Path("results/skip-and-scale")
    """Folder for the table and the figure; it is made if it is not there."""


def cells(config: Config) -> list[Ensemble]:
    """Return what is measured, the shallow networks first.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    kinds = [("identity", scale) for scale in config.scales] + [("none", "1")]
    return [
        Ensemble(
            Cell(branch, shortcut, scale, units, config.width), config.seeds, config.batch_size
        )
        for units in config.depths
        for branch in GAINS
        for shortcut, scale in kinds
    ]


def check(config: Config) -> None:
    """Refuse options that cannot be done."""
    check_least(config, depths=1, width=1, batch_size=1, seeds=2)
    if max(config.depths) > MOST_UNITS:
        raise ValueError(
            f"depths={config.depths}: beyond {MOST_UNITS} units no float64 holds 3^L; choose less"
        )
    check_several(config, "scales")
    for scale in config.scales:
        if scale not in SCALES:
            raise ValueError(lab.unknown("scales:", scale, SCALES))


def measure(networks: Ensemble) -> Columns:
    """Return ln(|g_l|^2 / |g_L|^2) at the input and behind every unit of every network."""

    def one(cell: Cell, key: jax.Array) -> dict[str, jax.Array]:
        weights, signal, cotangent = jax.random.split(key, 3)
        x = jax.random.normal(signal, (networks.batch_size, cell.width))
        return {"log_ratio": log_ratios(cell.network(nnx.Rngs(weights)), x, cotangent)}

    return over_seeds(networks, one)


def judge(columns: Columns) -> list[Criterion]:
    """Hold the mean of every kind of network, at its worst depth, against theory."""
    kinds: dict[tuple[str, str], list[Summary]] = {}
    for row in summaries(columns):
        kinds.setdefault((row.cell.branch, row.cell.label), []).append(row)
    return [_judged(rows) for rows in kinds.values()]


def _judged(rows: list[Summary]) -> Criterion:
    cell = rows[0].cell
    name = f"{cell.branch}, {cell.label}"
    worst = f" (worst of {len(rows)})" if len(rows) > 1 else ""
    if cell.factor == 0 and cell.shortcut == "identity":
        return lab.within(
            f"{name}: ratio - 1, every network",
            max(row.worst for row in rows),
            0.0,
            absolute=EXACTLY,
            why="rounding",
        )
    row = max(rows, key=lambda row: abs(row.away))
    return lab.within(
        f"{name}: mean ratio, {row.cell.units} units{worst}",
        float(row.mean[-1]),
        row.expected,
        absolute=STANDARD_ERRORS * float(row.error[-1]),
        why=f"{STANDARD_ERRORS:g} s.e.",
    )


def draw(columns: Columns) -> Figure:
    """Draw the mean against the units travelled back, and the input's over theory's."""
    rows = summaries(columns)
    deepest = max(row.cell.units for row in rows)
    shown = []
    for branch in dict.fromkeys(row.cell.branch for row in rows):
        ours = [row for row in rows if row.cell.branch == branch]
        along = [_along(row) for row in ours if row.cell.units == deepest]
        title, ratio = f"branch {branch}: {deepest} units", "mean |g_l|² / |g_L|²"
        shown.append(plots.Panel(title, "units travelled back", ratio, along, yscale="log"))
        title, units = f"branch {branch}: at the input, ± 3 s.e.", "units (side by side)"
        ends = _ends(ours, deepest)
        shown.append(plots.Panel(title, units, "mean / theory", ends, level=1.0))
    return plots.panels("Gradient with and without shortcuts, at birth", shown, columns=2)


def _along(row: Summary) -> plots.Series:
    back = np.arange(row.cell.units + 1)
    some = back[:: max(1, len(back) // 16)]
    mean, error = row.mean[some], STANDARD_ERRORS * row.error[some]
    gain = row.expected ** (some / row.cell.units)
    return plots.Series(row.cell.label, some, mean, mean - error, mean + error, gain)


def _ends(rows: list[Summary], deepest: int) -> list[plots.Series]:
    series = []
    for i, label in enumerate(dict.fromkeys(row.cell.label for row in rows)):
        ours = [row for row in rows if row.cell.label == label]
        beside = [row.cell.units + 0.02 * (i - 2) * deepest for row in ours]
        theory = np.array([row.expected for row in ours])
        mean = np.array([row.mean[-1] for row in ours]) / theory
        error = STANDARD_ERRORS * np.array([row.error[-1] for row in ours]) / theory
        series.append(plots.Series(label, beside, mean, mean - error, mean + error))
    return series


def table(columns: Columns) -> Table:
    """Return the mean of every kind of network beside theory's."""
    heads = ("branch", "shortcut", "scale", "units", "theory", "mean", "s.e.", "away", "typical")
    rows = [
        (
            *(row.cell.branch, row.cell.shortcut, row.cell.scale, row.cell.units),
            *(lab.digits(v) for v in (row.expected, row.mean[-1])),
            *(lab.digits(row.error[-1], 2), f"{row.away:+.1f}", lab.digits(row.typical)),
        )
        for row in summaries(columns)
    ]
    seeds = len(set(columns["seed"].tolist()))
    title = f"Ratio |g_0|^2 / |g_L|^2 of {seeds} networks of width {columns['width'][0]}"
    return lab.plain_table(title, heads, rows)
