"""How fast does batch norm make the gradients of a plain network explode, by batch size?

    python -m experiments batch-norm-explosion

Fully connected layers of batch norm (no epsilon, no scale or bias), activation and matrix. A batch
goes through a few networks, a unit Gaussian cotangent whose mean over the batch is zero comes back,
and the squared norm of the batch's gradient before every layer is divided by that after it: the
layer's gain. The first and the last layers, which still know the ends, are left out.

Theory (``gradflow.oracles.batch_norm_gain``): in wide networks the gain depends on the batch size B
alone. For ReLU it falls from 3.08 at B = 4 to pi/(pi-1) = 1.467; for a linear network, which has
the least of all, it is (B-2)/(B-3). The mean of the gain is compared: it does not exist below
B = 4, and at 4 its variance does not, so that 4 is shown but not held to the formula.

Pass: for both activations, the gain is within 3 % of theory's at every batch size from 8, and falls
from each batch size to the next. The tolerance is set by hand. Width is finite: at 1024 and B = 256
ReLU's gain lies a third of a percent low, and a linear network's rises from 0.96 near the input to
1.05 near the output, so that what agrees there is the mean over layers, as many left out in front
as behind.

Takes about a minute and a half of processor time. For a look at it in a few seconds:
``--activations relu --batch-sizes 8 32 --width 256 --seeds 2``.

Reference: Yang et al., A Mean Field Theory of Batch Normalization, 2019, theorems 8 and 9; their
rate is that of the squared norm.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from rich.table import Table

from convjax import gradflow, nn, plots
from experiments import _cli, _outcome
from experiments._ahead import ahead
from experiments._outcome import Columns, Criterion, Experiment, digits
from experiments._progress import Ticker

LEAST, HELD = 4, 8
TOLERANCE = 0.03


@dataclasses.dataclass(frozen=True)
class Config(_cli.Options):
    """Options; every activation is measured at every batch size."""

    batch_sizes: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    """Examples whose statistics are shared; at least 4."""
    activations: tuple[Literal["relu", "linear"], ...] = ("relu", "linear")
    """Between norm and matrix."""
    width: int = 1024
    """Features of every layer; it should be some times the largest batch size."""
    depth: int = 30
    """Layers."""
    discard: int = 8
    """Layers that are left out at either end."""
    seeds: int = 6
    """Networks of each kind; each has the same weights at every batch size."""
    out: Path = Path("results/batch-norm-explosion")
    """Folder for the table and the figure; it is made if it is not there."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """One activation and batch size: what was measured and what theory says.

    Attributes:
      activation: its name.
      batch_size: examples whose statistics are shared.
      gain: of a layer, mean over the layers that are kept and over networks.
      error: its standard error, over networks.
      expected: what it should be.
    """

    activation: str
    batch_size: int
    gain: float
    error: float
    expected: float

    @property
    def off(self) -> float:
        """How far the gain is away from theory's, as a share of it."""
        return self.gain / self.expected - 1


def measure(config: Config) -> Columns:
    """Return the gain of every layer of every network.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    cells = [(a, size) for a in config.activations for size in config.batch_sizes]
    keys = jax.random.split(jax.random.key(0), config.seeds)

    def prepare(cell):
        return jax.jit(partial(_gains, config.depth, config.width, *cell)).lower(keys).compile()

    blocks = []
    with Ticker(len(cells)) as ticker:
        ticker.begin("compiling")
        for cell, program in ahead(prepare, cells):
            blocks.append(_block(config, *cell, np.asarray(program(keys))))
            ticker.finish(f"{cell[0]}, batch size {cell[1]}")
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def check(config: Config) -> None:
    """Refuse options that cannot be done."""
    for option in ("batch_sizes", "activations"):
        values = getattr(config, option)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{option}={list(values)} must hold at least one value, none twice")
    if min(config.batch_sizes) < LEAST:
        raise ValueError(
            f"batch_sizes={list(config.batch_sizes)} must each be at least {LEAST}: the mean gain "
            "of smaller batches is infinite"
        )
    for option, least in (("width", 1), ("discard", 0), ("seeds", 2)):
        if getattr(config, option) < least:
            raise ValueError(f"{option}={getattr(config, option)} must be at least {least}")
    if config.depth <= 2 * config.discard:
        raise ValueError(
            f"depth={config.depth} leaves no layer where discard={config.discard} are left out at "
            f"either end; make it at least {2 * config.discard + 1}"
        )


def _gains(depth: int, width: int, activation: str, batch_size: int, keys: jax.Array) -> jax.Array:
    """Return each layer's gain, the input side first, a row for each network."""

    def unit(rngs):
        return nn.Chain(
            norm=nn.BatchNorm(width, epsilon=0.0, use_scale=False, use_bias=False, rngs=rngs),
            activation=nn.Activation(activation),
            # The scale is of no matter: the next norm divides it out.
            dense=nn.Dense(width, width, kernel_init="he", use_bias=False, rngs=rngs),
        )

    def one(key):
        net_key, signal_key = jax.random.split(key)
        net = nn.Repeat(unit, depth, rngs=nnx.Rngs(net_key))
        x, cotangent = jax.random.normal(signal_key, (2, batch_size, width))
        cotangent -= jnp.mean(cotangent, 0, keepdims=True)
        profile = gradflow.profile(net, x, cotangent=cotangent, train=True)
        logs = jnp.append(profile["input"].gradient.log_norm, profile["*"].gradient.log_norm)
        return jnp.exp(2 * (logs[:-1] - logs[1:]))

    return jax.lax.map(one, keys)


def _block(config: Config, activation: str, batch_size: int, gains: np.ndarray) -> Columns:
    layers = np.arange(config.depth)
    kept = (layers >= config.discard) & (layers < config.depth - config.discard)
    rows = {
        "activation": activation,
        "batch_size": batch_size,
        "width": config.width,
        "seed": np.repeat(np.arange(config.seeds), config.depth),
        "layer": np.tile(layers, config.seeds),
        "kept": np.tile(kept, config.seeds),
        "gain": gains.ravel(),
    }
    return {name: np.broadcast_to(values, (gains.size,)) for name, values in rows.items()}


def summaries(columns: Columns) -> list[Summary]:
    """Return one summary for each activation and batch size, small batches first."""
    names, sizes = columns["activation"], columns["batch_size"]
    return [
        _summary(columns, activation, size)
        for activation in dict.fromkeys(names.tolist())
        for size in sorted(set(sizes[names == activation].tolist()))
    ]


def _here(columns: Columns, activation: str, batch_size: int) -> np.ndarray:
    return (columns["activation"] == activation) & (columns["batch_size"] == batch_size)


def _summary(columns: Columns, activation: str, batch_size: int) -> Summary:
    here = _here(columns, activation, batch_size) & columns["kept"]
    seeds, gains = columns["seed"][here], columns["gain"][here].astype(np.float64)
    by_network = [gains[seeds == seed].mean() for seed in set(seeds.tolist())]
    return Summary(
        activation=activation,
        batch_size=batch_size,
        gain=float(np.mean(by_network)),
        error=float(np.std(by_network, ddof=1)) / math.sqrt(len(by_network)),
        expected=gradflow.oracles.batch_norm_gain(batch_size, activation),
    )


def judge(columns: Columns) -> list[Criterion]:
    """Hold the gains, at their worst batch size, against theory, and ask that they fall."""
    criteria = []
    rows = summaries(columns)
    for activation in dict.fromkeys(row.activation for row in rows):
        of_activation = [row for row in rows if row.activation == activation]
        held = [row for row in of_activation if row.batch_size >= HELD]
        if held:
            worst = max(held, key=lambda row: abs(row.off))
            which = f"batch size {worst.batch_size}" + (
                f" (worst of {len(held)})" if len(held) > 1 else ""
            )
            criteria.append(
                _outcome.within(
                    f"{activation}: gain of a layer, {which}",
                    worst.gain,
                    worst.expected,
                    relative=TOLERANCE,
                )
            )
        if len(of_activation) > 1:
            gains = [row.gain for row in of_activation]
            criteria.append(
                _outcome.that(
                    f"{activation}: the gain falls as the batch grows",
                    bool(np.all(np.diff(gains) < 0)),
                    ", ".join(digits(gain) for gain in gains),
                    "each below the one before",
                )
            )
    return criteria


def draw(columns: Columns) -> Figure:
    """Draw the gain by batch size, and by layer for the smallest and largest that are held."""
    rows = summaries(columns)
    by_size = [
        _by_batch_size([row for row in rows if row.activation == activation])
        for activation in dict.fromkeys(row.activation for row in rows)
    ]
    shown = [plots.Panel("by batch size, ±3 s.e.", "log2 of the batch size", "gain", by_size)]
    sizes = [row.batch_size for row in rows]
    held = [size for size in sizes if size >= HELD] or sizes
    for size in sorted({min(held), max(held)}):
        each = [_by_layer(columns, row) for row in rows if row.batch_size == size]
        shown.append(
            plots.Panel(f"from the second layer on, batch of {size}", "layer", "gain", each)
        )
    return plots.panels("Gain of the squared gradient per layer, batch norm, at birth", shown)


def _by_batch_size(rows: Sequence[Summary]) -> plots.Series:
    gains, errors = (np.array([getattr(row, name) for row in rows]) for name in ("gain", "error"))
    return plots.Series(
        rows[0].activation,
        np.log2([row.batch_size for row in rows]),
        gains,
        gains - 3 * errors,
        gains + 3 * errors,
        [row.expected for row in rows],
    )


def _by_layer(columns: Columns, row: Summary) -> plots.Series:
    here = _here(columns, row.activation, row.batch_size)
    layers = np.array(sorted(set(columns["layer"][here].tolist()) - {0}))
    gains = [columns["gain"][here & (columns["layer"] == layer)].mean() for layer in layers]
    return plots.Series(row.activation, layers, gains, expected=np.full(len(layers), row.expected))


def table(columns: Columns) -> Table:
    """Return the gain at every batch size beside theory's."""
    rows = [
        (
            row.activation,
            row.batch_size,
            *(f"{value:.4f}" for value in (row.gain, row.error, row.expected)),
            f"{row.off:+.2%}",
        )
        for row in summaries(columns)
    ]
    width, seeds = int(columns["width"][0]), len(set(columns["seed"].tolist()))
    title = f"Gain of a layer, batch norm, width {width}, {seeds} networks each"
    heads = ("activation", "batch size", "gain", "s.e.", "theory", "off by")
    return _outcome.plain_table(title, heads, rows)


EXPERIMENT = Experiment(
    name="batch-norm-explosion",
    about=__doc__ or "",
    config=Config,
    measure=measure,
    judge=judge,
    draw=draw,
    table=table,
)


def main(argv: Sequence[str]) -> int:
    """Run the experiment from the command line and return the exit code."""
    return _outcome.run(EXPERIMENT, argv)
