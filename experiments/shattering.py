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
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import gradflow
from experiments import _cli, _outcome
from experiments._ahead import ahead
from experiments._ensemble import as_rows, check_least, compiler_options
from experiments._outcome import Columns, Criterion, Experiment
from experiments._progress import Ticker
from experiments._shattering_networks import CONVS, LINE, PAIR, Cell, of
from experiments._shattering_shown import draw, table

PAIR_KINDS, LINE_KINDS = ("plain", "centred", "residual"), ("plain", "residual")
RESOLVED, TOLERANCE = 0.01, 0.15
DEEP = 12


@dataclasses.dataclass(frozen=True)
class Config(_cli.Options):
    """Options."""

    depths: tuple[int, ...] = (1, 2, 4, 6, 8)
    """Layers of the networks that pairs go through."""
    width: int = 768
    """Features of their layers."""
    inputs: int = 8
    """Orthogonal inputs, at most as many as features; each two of them are a pair."""
    seeds: int = 16
    """Networks of each kind that pairs go through."""
    line_depths: tuple[int, ...] = (4, 12, 24, 48)
    """Layers of the networks that lines go through, even and at least 4."""
    line_width: int = 128
    """Features of their layers."""
    points: int = 256
    """Inputs on a line, the batch of their norms."""
    line_seeds: int = 6
    """Networks of each kind that lines go through."""
    samples: int = 16
    """Cotangents for each network."""
    out: Path = Path("results/shattering")
    """Folder for the table and the figure; it is made if it is not there."""


def cells(config: Config) -> list[Cell]:
    """Return every kind of network, those that pairs go through first."""
    pairs = [Cell(PAIR, k, d, config.width) for k in PAIR_KINDS for d in config.depths]
    lines = [Cell(LINE, k, d, config.line_width) for k in LINE_KINDS for d in config.line_depths]
    return pairs + lines


def measure(config: Config) -> Columns:
    """Return ``correlation``: of pairs, at position 0, or along a line, by lag in points.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)

    def prepare(cell: Cell) -> Callable[[], gradflow.Correlation | gradflow.Line]:
        probe, seeds = (_pairs, config.seeds) if cell.probe == PAIR else (_line, config.line_seeds)

        def every():
            keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
            return jax.lax.map(lambda key: probe(cell, config, key), keys)

        return jax.jit(every).lower().compile(compiler_options())

    blocks, every = [], cells(config)
    with Ticker(len(every)) as ticker:
        ticker.begin("compiling")
        for cell, program in ahead(prepare, every):
            found = program()
            if isinstance(found, gradflow.Line):
                found.correlation.check()
                values = found.autocorrelation
            else:
                values = found.check().mean[:, None]
            blocks.append(as_rows(cell, correlation=values))
            ticker.finish(f"{cell.probe}: {cell}")
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


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


def _pairs(cell: Cell, config: Config, key: jax.Array) -> gradflow.Correlation:
    weights, signal, cotangent = jax.random.split(key, 3)
    basis = jnp.linalg.qr(jax.random.normal(signal, (cell.width, config.inputs)))[0]
    return gradflow.correlation(
        cell.network(nnx.Rngs(weights)),
        # Features of variance 1, as the centred ReLU takes them.
        basis.T * math.sqrt(cell.width),
        cotangent=cotangent,
        samples=config.samples,
        train=True,
    )


def _line(cell: Cell, config: Config, key: jax.Array) -> gradflow.Line:
    weights, signal, cotangent = jax.random.split(key, 3)
    start, end = jax.random.normal(signal, (2, cell.width))
    return gradflow.line(
        cell.network(nnx.Rngs(weights)),
        start,
        end,
        points=config.points,
        cotangent=cotangent,
        samples=config.samples,
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
            _outcome.that(
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
            _outcome.within(
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
            _outcome.that(
                f"{kind}: nearer to theory than to {power}",
                all(_nearer(means[cell], cell) for cell in deep),
                f"{last.depth} layers: {_outcome.digits(means[last])}",
                f"{_outcome.digits(last.expected)}, not {_outcome.digits(last.orthogonal)}",
            )
        )
    return criteria


def _nearer(mean: float, cell: Cell) -> bool:
    """Whether a mean is nearer to theory, in logarithms, than to inputs that stay orthogonal."""
    return mean > 0 and mean**2 > cell.expected * cell.orthogonal


EXPERIMENT = Experiment("shattering", __doc__ or "", Config, measure, judge, draw, table)


def main(argv: Sequence[str]) -> int:
    """Run the experiment from the command line and return the exit code."""
    return _outcome.run(EXPERIMENT, argv)
