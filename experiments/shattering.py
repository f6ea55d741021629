"""How alike are the gradients at different inputs, with and without shortcuts?

    python -m experiments shattering

*Pairs*: a few orthogonal inputs go through wide fully connected ReLU networks of L layers, the same
cotangent comes back to each, and the gradients are compared in pairs (``gradflow.correlation``).
Plain networks and residual ones, ``x + W relu(x)``, have He's initialization; centred ones take the
mean out of each ReLU and scale it to variance 1, as batch norm does over many examples. *Lines*:
the autocorrelation of the gradient along a straight line of inputs (``gradflow.line``), which are
one batch, through plain and residual networks with batch norm of the same weights.

Theory (``gradflow.oracles.gradient_correlation``): with the inputs' correlation rho, which a layer
changes, a layer multiplies the gradients' by kappa_0(rho), the share of open gates in common.
Centred inputs stay orthogonal, and that is 1/2 each time: the 1/2^L of Balduzzi et al. holds for
them. ReLU makes inputs alike, so that in plain networks the correlation falls as a power of L only;
a unit of a residual network multiplies it by (1 + kappa_0(rho))/2, which is more than the 3/4 of
inputs that stay orthogonal.

Pass: of pairs, the mean correlation is within 15 % of theory's in all three kinds at every depth
where theory's is above 0.01, and in plain and residual networks of more than one layer it is nearer
to theory's than to 2^-L and (3/4)^L, in logarithms; of lines, the autocorrelation at neighbouring
points is lower in the plain than in the residual network of every seed, from 12 layers on (at 4,
two units, the two are alike). The tolerances are set by hand. Theory is for wide layers, and narrow
ones correlate more: after 6 layers of width 64 by a fifth in plain and centred networks and a
twentieth in residual ones, at 768 by 3 % at most.

Takes about a minute of processor time. For a look at it in a few seconds, too coarse to
pass: ``--width 128 --seeds 8 --line-depths 12 --points 64``.

Reference: Balduzzi et al., The Shattered Gradients Problem, 2017; the products of kappa_0 are
derived in this project.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.table import Table

from convjax import gradflow, lab, nn, plots
from convjax.gradflow import oracles

PAIR, LINE = "pair", "line"
PAIR_KINDS, LINE_KINDS = ("plain", "centred", "residual"), ("plain", "residual")
PAIR_SEEDS, LINE_SEEDS = 16, 6
# What a layer leaves of the correlation, if inputs stay orthogonal.
ORTHOGONAL = {"plain": 1 / 2, "centred": 1 / 2, "residual": 3 / 4}
# Layers in a branch of the networks that lines go through.
CONVS = 2
RESOLVED, TOLERANCE = 0.01, 0.15
DEEP = 12
SHOWN_LAGS = 32


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options."""

    depths: tuple[int, ...] = (1, 2, 4, 6, 8)
    """Layers of the networks that pairs go through."""
    width: int = 768
    """Features of their layers."""
    inputs: int = 8
    """Orthogonal inputs, at most as many as features; each two of them are a pair."""
    seeds: int | None = None
    """Networks of each kind; without it, 16 that pairs go through and 6 that lines do."""
    line_depths: tuple[int, ...] = (4, 12, 24, 48)
    """Layers of the networks that lines go through, even and at least 4."""
    line_width: int = 128
    """Features of their layers."""
    points: int = 256
    """Inputs on a line, the batch of their norms."""
    line_seeds: int | None = None
    """Networks of each kind that lines go through, if other than seeds."""
    samples: int = 16
    """Cotangents for each network."""


@dataclasses.dataclass(frozen=True)
class Stack:
    """One kind of network, and what goes through it."""

    probe: str  # PAIR or LINE
    kind: str  # "plain", "centred" or "residual"; those that lines go through have batch norm
    depth: int
    width: int

    # What it is called beside others of its depth.
    label = property(lambda self: self.kind + ("" if self.probe == PAIR else ", batch norm"))

    def __str__(self) -> str:
        return f"{self.probe}: {self.label}, {self.depth} layers"

    @property
    def expected(self) -> float | None:
        """What the correlation of a pair should be."""
        return oracles.gradient_correlation(self.depth, self.kind) if self.probe == PAIR else None

    @property
    def orthogonal(self) -> float | None:
        """What it would be if the inputs stayed orthogonal."""
        return ORTHOGONAL[self.kind] ** self.depth if self.probe == PAIR else None

    def network(self, rngs: nnx.Rngs) -> nn.Repeat:
        """Initialize one."""
        convs = CONVS if self.probe == LINE else 1
        function, init = (centred, "lecun") if self.kind == "centred" else ("relu", "he")

        def unit(rngs: nnx.Rngs) -> nn.Residual:
            branch: dict[str, nnx.Module] = {}
            for i in range(1, convs + 1):
                if self.probe == LINE:
                    branch[f"norm{i}"] = nn.BatchNorm(self.width, rngs=rngs)
                branch[f"activation{i}"] = nn.Activation(function)
                branch[f"dense{i}"] = nn.Dense(
                    self.width, self.width, kernel_init=init, use_bias=False, rngs=rngs
                )
            shortcut = "identity" if self.kind == "residual" else "none"
            return nn.Residual(nn.Chain(branch), shortcut)

        return nn.Repeat(unit, self.depth // convs, rngs=rngs)


def centred(x: jax.Array) -> jax.Array:
    """Return the ReLU of a unit Gaussian, less its mean, in units of its standard deviation."""
    deviation = math.sqrt(oracles.CENTRED / 2)
    return (jax.nn.relu(x) - 1 / math.sqrt(2 * math.pi)) / deviation


@dataclasses.dataclass(frozen=True)
class Probed(lab.Ensemble):
    """A cell of the study; its examples are orthogonal inputs, or those on a line."""

    samples: int = 1  # cotangents for each network


def cells(config: Config) -> list[Probed]:
    """Return what is measured, what pairs go through first."""
    lab.check_least(config, depths=1, width=2, inputs=2, line_depths=2 * CONVS, line_width=2)
    lab.check_least(config, points=4, samples=1, seeds=2, line_seeds=2)
    if config.inputs > config.width:
        raise ValueError(
            f"inputs={config.inputs} cannot be orthogonal where width={config.width}; at most as "
            "many as the width can"
        )
    if any(depth % CONVS for depth in config.line_depths):
        raise ValueError(
            f"line_depths={list(config.line_depths)} must be even: a branch has {CONVS} layers"
        )
    seeds, line_seeds = config.seeds or PAIR_SEEDS, config.line_seeds or config.seeds or LINE_SEEDS
    return [
        Probed(Stack(probe, kind, depth, width), *many, config.samples)
        for probe, kinds, depths, width, many in (
            (PAIR, PAIR_KINDS, config.depths, config.width, (seeds, config.inputs)),
            (LINE, LINE_KINDS, config.line_depths, config.line_width, (line_seeds, config.points)),
        )
        for kind in kinds
        for depth in depths
    ]


def measure(probed: Probed) -> lab.Columns:
    """Return ``correlation``: of pairs, at position 0, or along a line, by lag in points."""
    found = lab.map_seeds(lambda key: probe(probed, key), probed.seeds, level=2)
    if isinstance(found, gradflow.Line):
        found.correlation.check()
        values = found.autocorrelation
    else:
        values = found.check().mean[:, None]
    return lab.as_rows(probed.kind, correlation=values)


def probe(probed: Probed, key: jax.Array) -> gradflow.Correlation | gradflow.Line:
    """Initialize one network, and send what goes through it."""
    weights, signal, cotangent = jax.random.split(key, 3)
    kind, many = probed.kind, probed.batch_size
    options = {"cotangent": cotangent, "samples": probed.samples, "train": True}
    if kind.probe == LINE:
        start, end = jax.random.normal(signal, (2, kind.width))
        return gradflow.line(kind.network(nnx.Rngs(weights)), start, end, points=many, **options)
    basis = jnp.linalg.qr(jax.random.normal(signal, (kind.width, many)))[0]
    # Features of variance 1, as the centred ReLU takes them.
    x = basis.T * math.sqrt(kind.width)
    return gradflow.correlation(kind.network(nnx.Rngs(weights)), x, **options)


def pairs(columns: lab.Columns) -> list[lab.Mean]:
    """Return the correlation of pairs in every kind of network."""
    found = lab.by_kind(columns, Stack, "correlation")
    return [lab.Mean(kind, v[:, 0], kind.expected) for kind, (v,) in found if kind.probe == PAIR]


def lines(columns: lab.Columns) -> list[lab.Mean]:
    """Return the autocorrelation by lag in every kind of network."""
    found = lab.by_kind(columns, Stack, "correlation")
    return [lab.Mean(kind, v, None) for kind, (v,) in found if kind.probe == LINE]


def judge(columns: lab.Columns) -> list[lab.Criterion]:
    """Hold pairs against theory, and compare lines through plain and residual networks."""
    criteria = []
    for rows in lab.grouped(pairs(columns), "kind.kind").values():
        criteria += lab.worst(
            lambda stack: f"{stack.kind}: pairs, {stack.depth} layers",
            [row for row in rows if row.expected > RESOLVED],
            relative=TOLERANCE,
        )
        criteria += _nearer([row for row in rows if row.kind.depth > 1])
    for depth, rows in sorted(lab.grouped(lines(columns), "kind.depth").items()):
        if depth >= DEEP:
            found = {row.kind.kind: row.values[:, 1] for row in rows}
            plain, residual = (found[kind] for kind in LINE_KINDS)
            below = int(np.sum(plain < residual))
            criteria.append(
                lab.that(
                    f"lines, {depth} layers: plain below residual, neighbours",
                    below == len(plain),
                    f"{plain.mean():.3f}, {residual.mean():.3f}; {below} of {len(plain)}",
                    "every network",
                )
            )
    return criteria


def _nearer(deep: list[lab.Mean]) -> list[lab.Criterion]:
    """Ask that means be nearer to theory, in logarithms, than to inputs that stay orthogonal."""
    if not deep or deep[0].kind.kind == "centred":
        return []
    last = max(deep, key=lambda row: row.kind.depth)
    power = "2^-L" if last.kind.kind == "plain" else "(3/4)^L"
    return [
        lab.that(
            f"{last.kind.kind}: nearer to theory than to {power}",
            all(r.mean > 0 and r.mean**2 > r.expected * r.kind.orthogonal for r in deep),
            f"{last.kind.depth} layers: {lab.digits(last.mean)}",
            f"{lab.digits(last.expected)}, not {lab.digits(last.kind.orthogonal)}",
        )
    ]


def draw(columns: lab.Columns) -> plots.Sheet:
    """Draw the pairs by depth, the autocorrelation by lag, and that of neighbours by depth."""
    by_depth = [
        lab.series(kind, _depths(rows), rows, errors=3, positive=True)
        for kind, rows in lab.grouped(pairs(columns), "kind.kind").items()
    ]
    at = np.unique(_depths(pairs(columns)))
    by_depth.append(plots.Series("(3/4)^L", at, expected=ORTHOGONAL["residual"] ** at))
    found = lines(columns)
    neighbours = [
        lab.series(kind, _depths(rows), np.stack([r.values[:, 1] for r in rows], 1), joined=True)
        for kind, rows in lab.grouped(found, "kind.kind").items()
    ]
    title, layers, what = "pairs of orthogonal inputs, ± 3 s.e.", "layers", "autocorrelation"
    shown = [
        plots.Panel(title, layers, "correlation", by_depth, yscale="log"),
        plots.Panel("lines, batch norm: neighbours", layers, what, neighbours, level=0.0),
    ]
    lags = np.arange(min(found[0].values.shape[1], SHOWN_LAGS))
    depths = sorted(lab.grouped(found, "kind.depth").items())
    for depth, rows in dict([depths[len(depths) // 3], depths[-1]]).items():
        by_lag = [lab.series(row.kind.kind, lags, row.at(lags), joined=True) for row in rows]
        title = f"lines, batch norm: {depth} layers"
        shown.append(plots.Panel(title, "lag in points", what, by_lag, level=0.0))
    title = "How alike the gradients at two inputs are, at initialization"
    return plots.panels(title, shown, columns=2)


def _depths(rows: list[lab.Mean]) -> list[int]:
    return [row.kind.depth for row in rows]


def table(columns: lab.Columns) -> Table:
    """Return the correlation of pairs beside theory's, and of neighbours along lines."""
    found = lines(columns)
    half = {row.kind: f"{_half(row.mean):.1f}" for row in found}
    return lab.formatted_table(
        "Correlation of the gradients of pairs, and of neighbours on a line",
        [*pairs(columns), *(row.at(1) for row in found)],
        ("inputs", "kind.probe"),
        ("network", "kind.label"),
        ("layers", "kind.depth"),
        ("correlation", "mean:.4f"),
        ("s.e.", "error:.4f"),
        ("theory", "expected:.4f"),
        ("off by", "off:+.1%"),
        ("if orthogonal", "kind.orthogonal:.4f"),
        ("1/2 at lag", lambda row: half.get(row.kind, "")),
    )


def _half(autocorrelation: np.ndarray) -> float:
    """Return the lag, between points, at which it first falls below 1/2."""
    after = int(np.argmax(autocorrelation < 0.5))
    before, here = autocorrelation[after - 1], autocorrelation[after]
    return after - float((0.5 - here) / (before - here))
