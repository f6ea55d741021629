"""Along how many branches does the gradient of a residual network come back?

    python -m experiments path-lengths

Fully connected stacks of pre-activation units at initialization: no norm, ``x + s W relu(x)`` with
s = 1 and L^-1/2 for L units; with batch norm and m = 1 or 2 layers in the branch; and the latter
with other shortcuts: scaled by 0.5, gated (highway, bias -2), and none. A unit Gaussian cotangent
whose mean over the batch is zero comes back, and the gradient at the input is taken apart exactly
(``gradflow.paths``) by the number k of branches it came through.

Theory (``gradflow.oracles.path_energy``): paths are uncorrelated, so that energies |g_k|^2 add, and
with a_l the gain of branch l over that of its shortcut they are in proportion to the coefficients
of prod(1 + a_l t). The mean length is then sum a_l/(1 + a_l), and the skips alone hold a share of
1/prod(1 + a_l). Of shortcuts scaled by c, a = gain/c^2 - 1; a gate is taken for a scale of
1 - sigmoid(bias), which leaves out what the gate's own slope hands back. Veit et al. measured
something else, ``sampled_paths``: how many paths there are of a length, times the norm of one.
Norms do not add; the table shows both.

Pass: the mean length and the logarithm of the skips' share within 5 % of theory's, for every
network but the gated one; the growth of |g|^2 per unit, over the last two thirds, within 3 % for
shortcuts scaled by 0.5 and none; and identity shortcuts with the lowest growth of the four. With
these growth falls as the trunk's variance grows; with the others it is the same everywhere, because
their input has the variance at which they are at rest. Tolerances are set by hand.

Takes about a minute of processor time. For a look at it in a few seconds, too coarse to pass:
``--depths 12 --width 64 --batch-size 32 --seeds 2``.

Reference: Veit et al., Residual Networks Behave Like Ensembles of Relatively Shallow Networks,
2016; He et al., Identity Mappings in Deep Residual Networks, 2016, for the shortcuts.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.table import Table

from convjax import gradflow, lab, models, plots
from convjax.gradflow import oracles

SCALE, BIAS = 0.5, -2.0
CARRIES = {"identity": 1.0, "scaled": SCALE, "gated": 1 / (1 + math.exp(BIAS)), "none": 0.0}
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
    """One kind of network."""

    norm: str  # "none" or "batch"
    shortcut: str  # "identity", "scaled", "gated" or "none"
    convs: int  # layers in a branch
    branch_scale: float
    depth: int  # units
    width: int
    batch_size: int

    # Whether there is a choice between branch and shortcut.
    has_paths = property(lambda self: self.shortcut != "none")
    # Whether it is one of the four shortcuts that are compared.
    is_variant = property(lambda self: self.norm == "batch" and self.convs == 2)
    # Whether every unit gives the trunk as much variance as it takes.
    at_rest = property(lambda self: self.norm == "batch" and self.shortcut != "identity")
    # Whether its theory is exact for wide layers and large batches.
    held = property(lambda self: self.shortcut != "gated")
    # The factor of the shortcut.
    carry = property(lambda self: CARRIES[self.shortcut])
    # What theory says of every branch's gain over that of its shortcut.
    gains = property(lambda self: self.unit_gains / self.carry**2 - 1)

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
    """Return what is measured: every kind of network of every depth."""
    lab.check_least(config, depths=6, width=1, batch_size=4, seeds=2)
    return [
        lab.Ensemble(kind, config.seeds)
        for depth in config.depths
        for kind in kinds(depth, config.width, config.batch_size)
    ]


measure = lab.measure


class Paths(NamedTuple):
    """Along which paths the gradients of one kind of network came."""

    kind: Stack
    logs: lab.Mean  # ln(|g_l|^2 / |g_L|^2), input first
    growth: lab.Mean  # of |g|^2 per unit, without the first units
    shares: lab.Mean | None  # of the energy that came along paths of each length
    length: lab.Mean | None  # in branches, weighted by energy
    skips: lab.Mean | None  # logarithm of the share that came through no branch
    coherence: lab.Mean | None  # energy of the gradient over the sum of the energies by length
    counted: Any  # mean length by norm times count, as Veit et al. have it


def paths(columns: lab.Columns) -> list[Paths]:
    """Return the paths of every kind of network, in the order of the columns."""
    found = lab.by_kind(columns, Stack, "log_ratio", "log_energy", "coherence")
    return [_paths(kind, *values) for kind, values in found]


def _paths(kind: Stack, logs: np.ndarray, energies: np.ndarray, coherence: np.ndarray) -> Paths:
    first, of_units = kind.depth // LEFT_OUT, np.log(kind.unit_gains)
    growth = np.exp((logs[:, first] - logs[:, -1]) / (kind.depth - first))
    trunk = (
        lab.Mean(kind, logs, np.append(np.cumsum(of_units[::-1])[::-1], 0.0)),
        lab.Mean(kind, growth, np.exp(of_units[first:].mean())),
    )
    if not kind.has_paths:
        return Paths(kind, *trunk, None, None, None, None, None)
    shares = np.exp(energies - np.logaddexp.reduce(energies, axis=1, keepdims=True))
    theory, branches = oracles.path_energy(kind.gains), np.arange(kind.depth + 1)
    return Paths(
        kind,
        *trunk,
        lab.Mean(kind, shares, theory),
        lab.Mean(kind, shares @ branches, theory @ branches),
        lab.Mean(kind, np.log(shares[:, 0]), np.log(theory[0])),
        lab.Mean(kind, coherence[:, 0], 1.0),
        oracles.sampled_paths(kind.gains) @ branches,
    )


def judge(columns: lab.Columns) -> list[lab.Criterion]:
    """Hold lengths, the skips' share and growth against theory, and compare the shortcuts."""
    rows, criteria = paths(columns), []
    held = [row for row in rows if row.kind.held]
    for row in held:
        if row.length and row.skips:
            claim = f"{row.kind.label}: mean length"
            criteria += lab.worst(claim, [row.length], relative=LENGTH_TOLERANCE)
            claim = f"{row.kind.label}: ln of the skips' share"
            criteria += lab.worst(claim, [row.skips], relative=SHARE_TOLERANCE)
    for row in (row for row in held if row.kind.at_rest):
        claim = f"{row.kind.label}: growth of |g|^2 per unit"
        criteria += lab.worst(claim, [row.growth], relative=GROWTH_TOLERANCE)
    growth = {row.kind.shortcut: row.growth for row in rows if row.kind.is_variant}
    others = [one.values for name, one in growth.items() if name != "identity"]
    lowest = lab.that(
        "of the shortcuts beside batch norm, identity has the lowest growth per unit",
        bool(np.all(growth["identity"].values < np.min(others, axis=0))),
        ", ".join(f"{name} {one.mean:.3f}" for name, one in growth.items()),
        "identity below the others, in every network",
    )
    return [*criteria, lowest]


def draw(columns: lab.Columns) -> plots.Sheet:
    """Draw the energy by length, and the gradient along the trunk by shortcut."""
    rows = paths(columns)
    shown, axes = [], ("branches k on the path", "share of the energy")
    for norm, title in (("none", "without norm"), ("batch", "batch norm")):
        found = [row.shares for row in rows if row.kind.norm == norm]
        shown.append(plots.Panel(title, *axes, [_by_length(one) for one in found if one]))
    trunks = [
        lab.series(row.kind.label, np.arange(row.kind.depth + 1), row.logs, logs=True)
        for row in rows
        if row.kind.is_variant
    ]
    title, ratio = "batch norm, by shortcut", "|g_l|² / |g_L|²"
    shown.append(plots.Panel(title, "unit l", ratio, trunks, yscale="log"))
    return plots.panels("The gradient by the length of its paths, at initialization", shown)


def _by_length(shares: lab.Mean) -> plots.Series:
    seen = np.flatnonzero(np.maximum(shares.values.max(0), shares.expected) > 1e-3)
    some = np.arange(seen[0], seen[-1] + 1)
    return lab.series(shares.kind.label, some, shares.at(some))


def table(columns: lab.Columns) -> Table:
    """Return lengths, the skips' share and growth beside theory's."""
    rows = paths(columns)
    first, seeds = rows[0].kind, len(rows[0].logs.values)
    return lab.formatted_table(
        f"{first.depth} units of width {first.width}, {seeds} networks of each kind, means",
        rows,
        ("network", "kind.label"),
        ("length", "length.mean:.2f"),
        ("theory", "length.expected:.2f"),
        ("norm x count", "counted:.2f"),
        ("5-95 %", _range),
        ("skips", lambda row: f"{np.exp(row.skips.mean):.2e}" if row.skips else ""),
        ("theory", lambda row: f"{row.shares.expected[0]:.2e}" if row.shares else ""),
        ("coherence", "coherence.mean:.2f"),
        ("growth", "growth.mean:.3f"),
        ("theory", "growth.expected:.3f"),
    )


def _range(row: Paths) -> str:
    """Return the lengths between which nine tenths of the energy came."""
    if row.shares is None:
        return ""
    low, high = np.searchsorted(np.cumsum(row.shares.mean), (0.05, 0.95))
    return f"{low}-{high}"
