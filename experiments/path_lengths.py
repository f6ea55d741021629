"""Along how many branches does the gradient of a residual network come back?

    python -m experiments path-lengths

Fully connected stacks of pre-activation units at initialization: no norm, ``x + s W relu(x)`` with
s = 1 and L^-1/2 for L units; with batch norm and m = 1 or 2 layers in the branch; and the latter
with other shortcuts: scaled by 0.5, gated (highway, bias -2), and none. A batch goes through each
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
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from rich.table import Table

from convjax import gradflow, lab, models, plots
from convjax.gradflow import oracles

SCALE, BIAS = 0.5, -2.0
CARRY = 1 / (1 + math.exp(BIAS))
# The share of the first units whose growth is left out.
LEFT_OUT = 3
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


@dataclasses.dataclass(frozen=True)
class Stack:
    """One kind of network.

    Attributes:
      norm: "none" or "batch".
      shortcut: "identity", "scaled", "gated" or "none".
      convs: layers in a branch.
      branch_scale: factor on every branch.
      depth: units, one after the other.
      width: features of every layer.
      batch_size: examples.
    """

    norm: str
    shortcut: str
    convs: int
    branch_scale: float
    depth: int
    width: int
    batch_size: int

    @property
    def label(self) -> str:
        """What it is called beside others."""
        if self.norm == "none":
            return f"no norm, s = {'1' if self.branch_scale == 1 else 'L^-1/2'}"
        beside = {"scaled": f"shortcut {SCALE}", "gated": "gated", "none": "no shortcut"}
        return beside.get(self.shortcut, f"batch norm, m = {self.convs}")

    def __str__(self) -> str:
        return f"{self.label}, {self.depth} units"

    @property
    def has_paths(self) -> bool:
        """Whether there is a choice between branch and shortcut."""
        return self.shortcut != "none"

    @property
    def is_variant(self) -> bool:
        """Whether it is one of the four shortcuts that are compared."""
        return self.norm == "batch" and self.convs == 2

    @property
    def at_rest(self) -> bool:
        """Whether every unit gives the trunk as much variance as it takes."""
        return self.norm == "batch" and self.shortcut != "identity"

    @property
    def held(self) -> bool:
        """Whether its theory is exact for wide layers and large batches."""
        return self.shortcut != "gated"

    @property
    def carry(self) -> float:
        """The factor of the shortcut."""
        return {"identity": 1.0, "scaled": SCALE, "gated": CARRY, "none": 0.0}[self.shortcut]

    @property
    def start(self) -> float:
        """The variance of the input: that at which the trunk is at rest, where there is one."""
        if not self.at_rest:
            return 1.0
        opened = 1 - self.carry if self.shortcut == "gated" else 1.0
        return opened**2 * oracles.CENTRED / (1 - self.carry**2)

    @property
    def unit_gains(self) -> np.ndarray:
        """What theory says of every unit's gain, input side first."""
        if self.norm == "none":
            gain = oracles.residual_gain(1, self.branch_scale, 1.0)
        elif self.at_rest:
            gain = oracles.scaled_shortcut_gain(self.carry, self.convs)
        else:
            return oracles.batch_norm_residual_gain(self.depth, self.convs, self.start)
        return np.full(self.depth, gain)

    @property
    def gains(self) -> np.ndarray:
        """What it says of every branch's gain over that of its shortcut."""
        return self.unit_gains / self.carry**2 - 1

    @property
    def growth(self) -> float:
        """What it says of the growth of |g|^2 per unit, without the first units."""
        return float(np.exp(np.log(self.unit_gains[self.depth // LEFT_OUT :]).mean()))

    def network(self, rngs: nnx.Rngs) -> nnx.Module:
        """Initialize one."""
        return models.deep_stack(
            self.depth * self.convs,
            self.width,
            shortcut=self.shortcut,
            shortcut_scale=SCALE,
            branch_scale=self.branch_scale,
            norm=self.norm,
            convs_per_unit=self.convs,
            kernel_size=(1, 1),
            rngs=rngs,
        )

    def measure(self, key: jax.Array, _: int) -> dict[str, jax.Array]:
        """Return what came along paths of each length, and the gradient behind every unit.

        At position k ``log_energy`` is ln|g_k|^2, minus infinity where there is no path of that
        length; at position l ``log_ratio`` is ln(|g_l|^2 / |g_L|^2) at the input and behind every
        unit. ``coherence`` is |sum g_k|^2 / sum |g_k|^2, the same at every position.
        """
        weights, signal = jax.random.split(key)
        net = self.network(nnx.Rngs(weights))
        x, cotangent = jax.random.normal(signal, (2, self.batch_size, 1, 1, self.width))
        x, cotangent = x * self.start**0.5, cotangent - jnp.mean(cotangent, 0, keepdims=True)
        found = gradflow.paths(net, x, cotangent=cotangent, train=True)
        logs = 2 * found.parts.log_norm
        missing = self.depth + 1 - logs.size
        whole = 2 * found.gradient.log_norm - jax.nn.logsumexp(logs)
        return {
            "log_energy": jnp.pad(logs, (0, missing), constant_values=-jnp.inf),
            "log_ratio": lab.log_ratios(net, x, cotangent),
            "coherence": jnp.broadcast_to(jnp.exp(whole), (self.depth + 1,)),
        }


def kinds(depth: int, width: int, batch_size: int) -> list[Stack]:
    """Return every kind of network of a depth."""
    found = [
        ("none", "identity", 1, 1.0),
        ("none", "identity", 1, depth**-0.5),
        ("batch", "identity", 1, 1.0),
        *(("batch", shortcut, 2, 1.0) for shortcut in ("identity", "scaled", "gated", "none")),
    ]
    same = depth, width, batch_size
    return [Stack(norm, shortcut, convs, scale, *same) for norm, shortcut, convs, scale in found]


def cells(config: Config) -> list[lab.Ensemble]:
    """Return what is measured: every kind of network of every depth.

    Raises:
      ValueError: an option that cannot be done.
    """
    lab.check_least(config, depths=6, width=1, batch_size=4, seeds=2)
    return [
        lab.Ensemble(kind, config.seeds)
        for depth in config.depths
        for kind in kinds(depth, config.width, config.batch_size)
    ]


measure = lab.measure


class Paths(NamedTuple):
    """Along which paths the gradients of one kind of network came: a row for each network."""

    kind: Stack
    shares: np.ndarray  # of the energy that came along paths of each length
    logs: np.ndarray  # ln(|g_l|^2 / |g_L|^2), input first
    coherence: np.ndarray  # energy of the gradient over the sum of the energies by length

    @property
    def lengths(self) -> np.ndarray:
        """Mean length in every network, weighted by energy."""
        return self.shares @ np.arange(self.shares.shape[1])

    @property
    def log_skip_shares(self) -> np.ndarray:
        """Logarithm of the share that came through no branch, in every network."""
        return np.log(self.shares[:, 0])

    @property
    def growth(self) -> np.ndarray:
        """Growth of |g|^2 per unit in every network, without the first units."""
        first = self.kind.depth // LEFT_OUT
        return np.exp((self.logs[:, first] - self.logs[:, -1]) / (self.kind.depth - first))


def paths(columns: lab.Columns) -> list[Paths]:
    """Return the paths of every kind of network, in the order of the columns."""
    found = lab.by_kind(columns, Stack, "log_energy", "log_ratio", "coherence")
    return [
        Paths(kind, np.exp(energies - whole), logs, coherence[:, 0])
        for kind, (energies, logs, coherence) in found
        for whole in [np.logaddexp.reduce(energies, axis=1, keepdims=True)]
    ]


def judge(columns: lab.Columns) -> list[lab.Criterion]:
    """Hold lengths, the skips' share and growth against theory, and compare the shortcuts."""
    rows = paths(columns)
    held = [row for row in rows if row.kind.held]
    criteria = [one for row in held if row.kind.has_paths for one in _judge_paths(row)]
    for kind, growth in [(row.kind, row.growth) for row in held if row.kind.at_rest]:
        claim, mean = f"{kind.label}: growth of |g|^2 per unit", float(growth.mean())
        criteria.append(lab.within(claim, mean, kind.growth, relative=GROWTH_TOLERANCE))
    return [*criteria, _judge_shortcuts([row for row in rows if row.kind.is_variant])]


def _judge_paths(row: Paths) -> list[lab.Criterion]:
    label, shares = row.kind.label, oracles.path_energy(row.kind.gains)
    length, skips = float(row.lengths.mean()), float(row.log_skip_shares.mean())
    theory = float(shares @ np.arange(len(shares))), float(np.log(shares[0]))
    return [
        lab.within(f"{label}: mean length", length, theory[0], relative=LENGTH_TOLERANCE),
        lab.within(f"{label}: ln of the skips' share", skips, theory[1], relative=SHARE_TOLERANCE),
    ]


def _judge_shortcuts(rows: list[Paths]) -> lab.Criterion:
    growth = {row.kind.shortcut: row.growth for row in rows}
    others = np.min([values for name, values in growth.items() if name != "identity"], axis=0)
    return lab.that(
        "of the shortcuts beside batch norm, identity has the lowest growth per unit",
        bool(np.all(growth["identity"] < others)),
        ", ".join(f"{name} {values.mean():.3f}" for name, values in growth.items()),
        "identity below the others, in every network",
    )


def draw(columns: lab.Columns) -> Figure:
    """Draw the energy by length, and the gradient along the trunk by shortcut."""
    rows = paths(columns)
    shown = [
        plots.Panel(title, "branches k on the path", "share of the energy", series)
        for norm, title in (("none", "without norm"), ("batch", "batch norm"))
        for series in [[_by_length(r) for r in rows if r.kind.norm == norm and r.kind.has_paths]]
    ]
    trunks = [_along(row) for row in rows if row.kind.is_variant]
    title, ratio = "batch norm, by shortcut", "|g_l|² / |g_L|²"
    shown.append(plots.Panel(title, "unit l", ratio, trunks, yscale="log"))
    return plots.panels("The gradient by the length of its paths, at initialization", shown)


def _by_length(row: Paths) -> plots.Series:
    theory = oracles.path_energy(row.kind.gains)
    seen = np.flatnonzero(np.maximum(row.shares.max(0), theory) > 1e-3)
    some = np.arange(seen[0], seen[-1] + 1)
    return lab.series(row.kind.label, some, row.shares[:, some], theory[some])


def _along(row: Paths) -> plots.Series:
    theory = np.append(np.cumsum(np.log(row.kind.unit_gains)[::-1])[::-1], 0.0)
    return lab.series(row.kind.label, np.arange(len(theory)), row.logs, theory, logs=True)


def table(columns: lab.Columns) -> Table:
    """Return lengths, the skips' share and growth beside theory's."""
    rows = paths(columns)
    heads = ("network", "length", "theory", "norm x count", "5-95 %", "skips", "theory")
    heads = (*heads, "coherence", "growth", "theory")
    first, seeds = rows[0].kind, len(rows[0].logs)
    title = f"{first.depth} units of width {first.width}, {seeds} networks of each kind, means"
    return lab.plain_table(title, heads, [_shown(row) for row in rows])


def _shown(row: Paths) -> tuple[str, ...]:
    kind = row.kind
    growth = (f"{row.growth.mean():.3f}", f"{kind.growth:.3f}")
    if not kind.has_paths:
        return (kind.label, *[""] * 7, *growth)
    energy, counted = oracles.path_energy(kind.gains), oracles.sampled_paths(kind.gains)
    lengths = np.arange(len(energy))
    low, high = np.searchsorted(np.cumsum(row.shares.mean(0)), (0.05, 0.95))
    return (
        kind.label,
        *(f"{value:.2f}" for value in (row.lengths.mean(), energy @ lengths, counted @ lengths)),
        f"{low}-{high}",
        *(f"{value:.2e}" for value in (np.exp(row.log_skip_shares.mean()), energy[0])),
        f"{row.coherence.mean():.2f}",
        *growth,
    )
