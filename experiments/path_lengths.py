"""Along how many branches does the gradient of a residual network come back?

    python -m experiments path-lengths

Fully connected stacks of pre-activation units at birth: no norm, ``x + s W relu(x)`` with s = 1
and L^-1/2 for L units; with batch norm and m = 1 or 2 layers in the branch; and the latter with
other shortcuts: scaled by 0.5, gated (highway, bias -2), and none. A batch goes through each
network, a unit Gaussian cotangent whose mean over the batch is zero comes back, and the gradient at
the input is taken apart exactly (``gradflow.paths``) by the number k of branches it came through.

Theory (``gradflow.oracles.path_energy``): paths are uncorrelated, so that energies |g_k|^2 add, and
with a_l the gain of branch l over that of its shortcut they are in proportion to the coefficients
of prod(1 + a_l t). The mean length is then sum a_l/(1 + a_l), and the skips alone hold a share of
1/prod(1 + a_l). Without norm a = s^2; with batch norm a_l is ``batch_norm_residual_gain`` less 1.
A shortcut scaled by c gives a unit the gain ``scaled_shortcut_gain`` and a = gain/c^2 - 1; a gate
is taken for a scale of 1 - sigmoid(bias), which leaves out what the gate's own slope hands back.

Veit et al. measured something else, ``gradflow.oracles.sampled_paths``: how many paths there are of
a length, times the norm of one. Norms do not add: that puts the mean length of the second network
at four branches where its energy has come through one. The table shows both.

Pass: the mean length within 5 % of theory's, and the logarithm of the skips' share within 5 %, for
every network but the gated one; the growth of |g|^2 per unit (``gradflow.profile``) within 3 % of
theory's for shortcuts scaled by 0.5 and none; and identity shortcuts with the lowest growth of
the four. Growth is that of the last two thirds of the units: with identity it falls as the trunk's
variance grows, with the others it is the same everywhere, because their input has the variance at
which they are at rest. Tolerances are set by hand.

Takes about a minute of processor time. For a look at it in a few seconds, too coarse to pass:
``--depths 12 --width 64 --batch-size 32 --seeds 2``.

Reference: Veit et al., Residual Networks Behave Like Ensembles of Relatively Shallow Networks,
2016; He et al., Identity Mappings in Deep Residual Networks, 2016, for the shortcuts.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from rich.table import Table

from convjax import gradflow, lab, plots
from convjax.lab import (
    Columns,
    Criterion,
    Ensemble,
    check_least,
    log_ratios,
    over_seeds,
)
from experiments._path_networks import Cell, Summary, kinds, summaries

LENGTH_TOLERANCE, SHARE_TOLERANCE, GROWTH_TOLERANCE = 0.05, 0.05, 0.03


APART = ("depth",)


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options; every kind of network is measured at every depth."""

    depths: tuple[int, ...] = (24,)
    """Residual units, at least 6; each depth is judged and drawn by itself."""
    width: int = 256
    """Features of every layer."""
    batch_size: int = 128
    """Examples, at least 4; theory is for many."""
    seeds: int = 6
    """Networks of each kind; those with as many layers in a branch have the same weights."""
    out: Path = Path("results/path-lengths")
    """Folder for the table and the figure; it is made if it is not there."""


def cells(config: Config) -> list[Ensemble]:
    """Return what is measured: every kind of network of every depth.

    Raises:
      ValueError: an option that cannot be done.
    """
    check_least(config, depths=6, width=1, batch_size=4, seeds=2)
    return [
        Ensemble(kind, config.seeds)
        for depth in config.depths
        for kind in kinds(depth, config.width, config.batch_size)
    ]


def measure(networks: Ensemble) -> Columns:
    """Return what came along paths of each length, and the gradient behind every unit.

    At position k ``log_energy`` is ln|g_k|^2, minus infinity where there is no path of that length;
    at position l ``log_ratio`` is ln(|g_l|^2 / |g_L|^2) at the input and behind every unit.
    ``coherence`` is |sum g_k|^2 / sum |g_k|^2, the same at every position.
    """

    def one(cell: Cell, key: jax.Array) -> dict[str, jax.Array]:
        weights, signal = jax.random.split(key)
        net = cell.network(nnx.Rngs(weights))
        x, cotangent = jax.random.normal(signal, (2, cell.batch_size, 1, 1, cell.width))
        x, cotangent = x * cell.start**0.5, cotangent - jnp.mean(cotangent, 0, keepdims=True)
        found = gradflow.paths(net, x, cotangent=cotangent, train=True)
        logs = 2 * found.parts.log_norm
        missing = cell.depth + 1 - logs.size
        whole = 2 * found.gradient.log_norm - jax.nn.logsumexp(logs)
        return {
            "log_energy": jnp.pad(logs, (0, missing), constant_values=-jnp.inf),
            "log_ratio": log_ratios(net, x, cotangent),
            "coherence": jnp.broadcast_to(jnp.exp(whole), (cell.depth + 1,)),
        }

    return over_seeds(networks, one)


def judge(columns: Columns) -> list[Criterion]:
    """Hold lengths, the skips' share and growth against theory, and compare the shortcuts."""
    rows = summaries(columns)
    criteria = []
    for row in rows:
        if row.cell.held and row.cell.has_paths:
            criteria += _paths_judged(row)
    for row in rows:
        if row.cell.held and row.cell.at_rest:
            criteria.append(
                lab.within(
                    f"{row.cell.label}: growth of |g|^2 per unit",
                    float(row.growth.mean()),
                    row.cell.growth,
                    relative=GROWTH_TOLERANCE,
                )
            )
    return [*criteria, _lowest([row for row in rows if row.cell.is_variant])]


def _paths_judged(row: Summary) -> list[Criterion]:
    shares = gradflow.oracles.path_energy(row.cell.gains)
    return [
        lab.within(
            f"{row.cell.label}: mean length",
            float(row.lengths.mean()),
            float(shares @ np.arange(len(shares))),
            relative=LENGTH_TOLERANCE,
        ),
        lab.within(
            f"{row.cell.label}: ln of the skips' share",
            float(row.log_skip_shares.mean()),
            float(np.log(shares[0])),
            relative=SHARE_TOLERANCE,
        ),
    ]


def _lowest(rows: Sequence[Summary]) -> Criterion:
    growth = {row.cell.shortcut: row.growth for row in rows}
    others = np.min([values for name, values in growth.items() if name != "identity"], axis=0)
    return lab.that(
        "of the shortcuts beside batch norm, identity has the lowest growth per unit",
        bool(np.all(growth["identity"] < others)),
        ", ".join(f"{name} {values.mean():.3f}" for name, values in growth.items()),
        "identity below the others, in every network",
    )


def draw(columns: Columns) -> Figure:
    """Draw the energy by length, and the gradient along the trunk by shortcut."""
    rows = summaries(columns)
    bare, normed = ([r for r in rows if (r.cell.norm == kind)] for kind in ("none", "batch"))
    variants = [row for row in rows if row.cell.is_variant]
    length, share = "branches k on the path", "share of the energy"
    trunk: dict[str, Any] = {"yscale": "log"}
    shown = [
        plots.Panel("without norm", length, share, [_by_length(row) for row in bare]),
        plots.Panel(
            "batch norm", length, share, [_by_length(row) for row in normed if row.cell.has_paths]
        ),
        plots.Panel(
            "batch norm, by shortcut",
            "unit l",
            "|g_l|² / |g_L|²",
            list(map(_along, variants)),
            **trunk,
        ),
    ]
    return plots.panels("The gradient by the length of its paths, at birth", shown)


def _by_length(row: Summary) -> plots.Series:
    shares, theory = row.shares, gradflow.oracles.path_energy(row.cell.gains)
    seen = np.flatnonzero(np.maximum(shares.max(0), theory) > 1e-3)
    some = np.arange(seen[0], seen[-1] + 1)
    whiskers = (shares.mean(0)[some], shares.min(0)[some], shares.max(0)[some])
    return plots.Series(row.cell.label, some, *whiskers, theory[some])


def _along(row: Summary) -> plots.Series:
    places = np.arange(row.cell.depth + 1)
    logs = row.logs
    theory = np.append(np.cumsum(np.log(row.cell.unit_gains)[::-1])[::-1], 0.0)
    return plots.Series(
        row.cell.label, places, *np.exp([logs.mean(0), logs.min(0), logs.max(0), theory])
    )


def table(columns: Columns) -> Table:
    """Return lengths, the skips' share and growth beside theory's."""
    rows = summaries(columns)
    heads = ("network", "length", "theory", "norm x count", "5-95 %", "skips", "theory")
    heads = (*heads, "coherence", "growth", "theory")
    first, seeds = rows[0].cell, len(rows[0].logs)
    title = f"{first.depth} units of width {first.width}, {seeds} networks of each kind, means"
    return lab.plain_table(title, heads, [_shown(row) for row in rows])


def _shown(row: Summary) -> tuple[str, ...]:
    growth = (f"{row.growth.mean():.3f}", f"{row.cell.growth:.3f}")
    if not row.cell.has_paths:
        return (row.cell.label, *[""] * 7, *growth)
    energy, counted = (
        oracle(row.cell.gains)
        for oracle in (gradflow.oracles.path_energy, gradflow.oracles.sampled_paths)
    )
    lengths = np.arange(len(energy))
    low, high = np.searchsorted(np.cumsum(row.shares.mean(0)), (0.05, 0.95))
    return (
        row.cell.label,
        *(f"{value:.2f}" for value in (row.lengths.mean(), energy @ lengths, counted @ lengths)),
        f"{low}-{high}",
        *(f"{value:.2e}" for value in (np.exp(row.log_skip_shares.mean()), energy[0])),
        f"{row.coherence.mean():.2f}",
        *growth,
    )
