"""How alike are the gradients at different inputs, with and without shortcuts?

    python -m experiments shattering

Two measurements at birth. *Pairs*: a few orthogonal inputs go through wide fully connected ReLU
networks of L layers, the same cotangent comes back to each, and the gradients are compared in pairs
(``gradflow.correlation``, over some cotangents). Plain networks and residual ones, ``x + W
relu(x)``, have He's initialisation; centred ones take the mean out of each ReLU and scale it to
variance 1, as batch norm does over many examples. *Lines*: the autocorrelation of the gradient
along a straight line of inputs (``gradflow.line``), which are one batch, through plain and residual
networks with batch norm of the same weights.

Theory (``gradflow.oracles.gradient_correlation``): with the inputs' correlation rho, which a layer
changes, a layer multiplies the gradients' by kappa_0(rho), the share of open gates in common.
Centred inputs stay orthogonal, and that is 1/2 each time: the 1/2^L of Balduzzi et al. holds for
them. ReLU makes inputs alike, so that in plain networks the correlation falls as a power of L only;
a unit of a residual network multiplies it by (1 + kappa_0(rho))/2, which is more than the 3/4 of
inputs that stay orthogonal.

Pass: of pairs, the mean correlation is within 15 % of theory's in all three kinds at every depth
where theory's is above 0.01, and in plain and residual networks of more than one layer it is nearer
to theory's than to 2^-L and (3/4)^L, in logarithms; of lines, the autocorrelation at neighbouring
points is lower in the plain than in the residual network of every seed, from 12 layers on. At 4
layers, two units, the two are alike (0.875 and 0.878): shown, and not judged. The tolerances are
set by hand. Theory is for wide layers, and narrow ones correlate more: after 6 layers of width 64
by a fifth in plain and centred networks and a twentieth in residual ones, at 768 by 3 % at most.

Takes about a minute of processor time. For a look at it in a few seconds, too coarse to
pass: ``--width 128 --seeds 8 --line-depths 12 --points 64``.

Reference: Balduzzi et al., The Shattered Gradients Problem, 2017; the products of kappa_0 are
derived in this project.
"""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import gradflow, lab
from convjax.lab import Columns, Criterion, as_rows, check_least, compiler_options
from experiments._shattering_networks import CONVS, LINE, PAIR, Cell, Probed, of
from experiments._shattering_shown import draw as draw
from experiments._shattering_shown import table as table

PAIR_KINDS, LINE_KINDS = ("plain", "centred", "residual"), ("plain", "residual")
PAIR_SEEDS, LINE_SEEDS = 16, 6
RESOLVED, TOLERANCE = 0.01, 0.15
DEEP = 12


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
    out: Path = Path("results/shattering")
    """Folder for the table and the figure; it is made if it is not there."""


def cells(config: Config) -> list[Probed]:
    """Return what is measured, what pairs go through first.

    Raises:
      ValueError: an option that cannot be done.
    """
    seeds, line_seeds = _seeds(config)
    check(dataclasses.replace(config, seeds=seeds, line_seeds=line_seeds))
    pairs, lines = (seeds, config.inputs), (line_seeds, config.points)
    return [
        Probed(Cell(probe, kind, depth, width), *many, config.samples)
        for probe, kinds, depths, width, many in (
            (PAIR, PAIR_KINDS, config.depths, config.width, pairs),
            (LINE, LINE_KINDS, config.line_depths, config.line_width, lines),
        )
        for kind in kinds
        for depth in depths
    ]


def _seeds(config: Config) -> tuple[int, int]:
    """Return how many networks of each kind pairs and lines go through."""
    seeds, line_seeds = config.seeds, config.line_seeds
    if line_seeds is None:
        line_seeds = LINE_SEEDS if seeds is None else seeds
    return PAIR_SEEDS if seeds is None else seeds, line_seeds


def check(config: Config) -> None:
    """Refuse options that cannot be done."""
    check_least(config, depths=1, width=2, inputs=2, seeds=2, line_depths=2 * CONVS)
    check_least(config, line_width=2, points=4, line_seeds=2, samples=1)
    if config.inputs > config.width:
        raise ValueError(
            f"inputs={config.inputs} cannot be orthogonal where width={config.width}; at most as "
            "many as the width can"
        )
    if any(depth % CONVS for depth in config.line_depths):
        raise ValueError(
            f"line_depths={list(config.line_depths)} must be even: a branch has {CONVS} layers"
        )


def measure(probed: Probed) -> Columns:
    """Return ``correlation``: of pairs, at position 0, or along a line, by lag in points."""
    probe = _pairs if probed.kind.probe == PAIR else _line

    def every():
        keys = jax.vmap(jax.random.key)(jnp.arange(probed.seeds))
        return jax.lax.map(lambda key: probe(probed, key), keys)

    found = jax.jit(every).lower().compile(compiler_options(2))()
    if isinstance(found, gradflow.Line):
        found.correlation.check()
        values = found.autocorrelation
    else:
        values = found.check().mean[:, None]
    return as_rows(probed.kind, correlation=values)


def _pairs(probed: Probed, key: jax.Array) -> gradflow.Correlation:
    cell = probed.kind
    weights, signal, cotangent = jax.random.split(key, 3)
    basis = jnp.linalg.qr(jax.random.normal(signal, (cell.width, probed.batch_size)))[0]
    return gradflow.correlation(
        cell.network(nnx.Rngs(weights)),
        # Features of variance 1, as the centred ReLU takes them.
        basis.T * math.sqrt(cell.width),
        cotangent=cotangent,
        samples=probed.samples,
        train=True,
    )


def _line(probed: Probed, key: jax.Array) -> gradflow.Line:
    cell = probed.kind
    weights, signal, cotangent = jax.random.split(key, 3)
    start, end = jax.random.normal(signal, (2, cell.width))
    return gradflow.line(
        cell.network(nnx.Rngs(weights)),
        start,
        end,
        points=probed.batch_size,
        cotangent=cotangent,
        samples=probed.samples,
        train=True,
    )


def judge(columns: Columns) -> list[Criterion]:
    """Hold pairs against theory, and compare lines through plain and residual networks."""
    pairs = of(columns, PAIR)
    criteria = []
    for kind in dict.fromkeys(cell.kind for cell in pairs):
        means = {cell: float(values.mean()) for cell, values in pairs.items() if cell.kind == kind}
        criteria += _pairs_judged(kind, means)
    lines = of(columns, LINE)
    for depth in sorted({cell.depth for cell in lines if cell.depth >= DEEP}):
        plain, residual = (_neighbours(lines, kind, depth) for kind in LINE_KINDS)
        criteria.append(
            lab.that(
                f"lines, {depth} layers: plain below residual, neighbours",
                bool(np.all(plain < residual)),
                f"{plain.mean():.3f}, {residual.mean():.3f}; "
                f"{np.sum(plain < residual)} of {len(plain)}",
                "every network",
            )
        )
    return criteria


def _neighbours(lines: dict[Cell, np.ndarray], kind: str, depth: int) -> np.ndarray:
    """Return every network's autocorrelation at lag 1."""
    (found,) = (v for cell, v in lines.items() if (cell.kind, cell.depth) == (kind, depth))
    return found[:, 1]


def _pairs_judged(kind: str, means: dict[Cell, float]) -> list[Criterion]:
    criteria = []
    held = [cell for cell in means if cell.expected > RESOLVED]
    if held:
        worst = max(held, key=lambda cell: abs(means[cell] / cell.expected - 1))
        criteria.append(
            lab.within(
                f"{kind}: pairs, {worst.depth} layers (worst of {len(held)})",
                means[worst],
                worst.expected,
                relative=TOLERANCE,
            )
        )
    deep = [cell for cell in means if cell.depth > 1]
    if kind != "centred" and deep:
        last = max(deep, key=lambda cell: cell.depth)
        power = "2^-L" if kind == "plain" else "(3/4)^L"
        criteria.append(
            lab.that(
                f"{kind}: nearer to theory than to {power}",
                all(_nearer(means[cell], cell) for cell in deep),
                f"{last.depth} layers: {lab.digits(means[last])}",
                f"{lab.digits(last.expected)}, not {lab.digits(last.orthogonal)}",
            )
        )
    return criteria


def _nearer(mean: float, cell: Cell) -> bool:
    """Whether a mean is nearer to theory, in logarithms, than to inputs that stay orthogonal."""
    return mean > 0 and mean**2 > cell.expected * cell.orthogonal
