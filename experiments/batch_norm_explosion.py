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
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from rich.table import Table

from convjax import gradflow, lab, nn, plots
from convjax.lab import Columns, Criterion

LEAST = 4
# Smaller batches are shown but not held to theory.
HELD = 8
DISCARD = 8
TOLERANCE = 0.03

APART = ("depth",)


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options; every activation is measured at every batch size."""

    batch_sizes: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    """Examples whose statistics are shared; at least 4."""
    activations: tuple[Literal["relu", "linear"], ...] = ("relu", "linear")
    """Between norm and matrix."""
    width: int = 1024
    """Features of every layer; it should be some times the largest batch size."""
    depths: tuple[int, ...] = (30,)
    """Layers; each depth is judged and shown by itself."""
    discard: int | None = None
    """Layers that are left out at either end; without it 8, or a third of fewer than 24."""
    seeds: int = 6
    """Networks of each kind; each has the same weights at every batch size."""


@dataclasses.dataclass(frozen=True)
class Normed:
    """Networks of one activation, batch size, width and depth."""

    activation: str
    batch_size: int
    width: int
    depth: int

    def __str__(self) -> str:
        return f"{self.activation}, batch size {self.batch_size}, {self.depth} layers"

    @property
    def expected(self) -> float:
        """The gain of a layer, by theory."""
        return gradflow.oracles.batch_norm_gain(self.batch_size, self.activation)

    def network(self, rngs: nnx.Rngs) -> nn.Repeat:
        """Return one network."""

        def unit(rngs):
            width = self.width
            return nn.Chain(
                norm=nn.BatchNorm(width, epsilon=0.0, use_scale=False, use_bias=False, rngs=rngs),
                activation=nn.Activation(self.activation),
                # The scale does not matter: the next norm divides it out.
                dense=nn.Dense(width, width, kernel_init="he", use_bias=False, rngs=rngs),
            )

        return nn.Repeat(unit, self.depth, rngs=rngs)

    def gains(self, key: jax.Array) -> jax.Array:
        """Return the gain of each layer of one network, the input side first."""
        net_key, signal_key = jax.random.split(key)
        net = self.network(nnx.Rngs(net_key))
        x, cotangent = jax.random.normal(signal_key, (2, self.batch_size, self.width))
        cotangent -= jnp.mean(cotangent, 0, keepdims=True)
        profile = gradflow.profile(net, x, cotangent=cotangent, train=True)
        logs = jnp.append(profile["input"].gradient.log_norm, profile["*"].gradient.log_norm)
        return jnp.exp(2 * (logs[:-1] - logs[1:]))


@dataclasses.dataclass(frozen=True)
class Networks:
    """Many networks of one kind: a cell of the study.

    Attributes:
      kind: of network.
      discard: layers that do not count at either end.
      seeds: how many.
    """

    kind: Normed
    discard: int
    seeds: int

    def __str__(self) -> str:
        return str(self.kind)


def cells(config: Config) -> list[Networks]:
    """Return what is measured.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    return [
        Networks(
            Normed(activation, batch_size, config.width, depth),
            min(DISCARD, depth // 3) if config.discard is None else config.discard,
            config.seeds,
        )
        for depth in config.depths
        for activation in config.activations
        for batch_size in config.batch_sizes
    ]


def check(config: Config) -> None:
    """Refuse options that cannot be done."""
    lab.check_several(config, "batch_sizes", "activations")
    if min(config.batch_sizes) < LEAST:
        raise ValueError(
            f"batch_sizes={list(config.batch_sizes)} must each be at least {LEAST}: the mean gain "
            "of smaller batches is infinite"
        )
    lab.check_least(config, depths=1, width=1, seeds=2)
    if config.discard is not None:
        lab.check_least(config, discard=0)
        if min(config.depths) <= 2 * config.discard:
            raise ValueError(
                f"depths={list(config.depths)}: {min(config.depths)} leaves no layer where "
                f"discard={config.discard} are left out at either end; make each at least "
                f"{2 * config.discard + 1}"
            )


def measure(networks: Networks) -> Columns:
    """Return the gain of every layer of every network."""
    keys = jax.random.split(jax.random.key(0), networks.seeds)
    gains = np.asarray(jax.jit(partial(jax.lax.map, networks.kind.gains))(keys))
    rows = lab.as_rows(networks.kind, place="layer", gain=gains)
    layer, last = rows["layer"], networks.kind.depth - 1
    return rows | {"kept": np.minimum(layer, last - layer) >= networks.discard}


@dataclasses.dataclass(frozen=True)
class Gains:
    """What the networks of one kind did.

    Attributes:
      kind: of network.
      gains: of every layer, a row for each network.
      kept: which layers count.
    """

    kind: Normed
    gains: np.ndarray
    kept: np.ndarray

    @property
    def gain(self) -> float:
        """Mean over the layers that count and over networks."""
        return float(self.gains[:, self.kept].mean())

    @property
    def error(self) -> float:
        """Its standard error, over networks."""
        means = self.gains[:, self.kept].mean(1)
        return float(means.std(ddof=1)) / math.sqrt(len(means))

    @property
    def off(self) -> float:
        """How far the gain is away from theory's, as a share of it."""
        return self.gain / self.kind.expected - 1


def gains(columns: Columns) -> dict[str, list[Gains]]:
    """Return by activation what every kind of network did, small batches first."""
    found: dict[str, list[Gains]] = {}
    for kind, (gain, kept) in lab.by_kind(columns, Normed, "gain", "kept", place="layer"):
        found.setdefault(kind.activation, []).append(Gains(kind, gain, kept[0]))
    for rows in found.values():
        rows.sort(key=lambda row: row.kind.batch_size)
    return found


def judge(columns: Columns) -> list[Criterion]:
    """Hold the gains, at their worst batch size, against theory, and ask that they fall."""
    criteria = []
    for activation, rows in gains(columns).items():
        held = [row for row in rows if row.kind.batch_size >= HELD]
        if held:
            worst = max(held, key=lambda row: abs(row.off))
            of = f" (worst of {len(held)})" if len(held) > 1 else ""
            claim = f"{activation}: gain of a layer, batch size {worst.kind.batch_size}{of}"
            theory = worst.kind.expected
            criteria.append(lab.within(claim, worst.gain, theory, relative=TOLERANCE))
        if len(rows) > 1:
            found = [row.gain for row in rows]
            claim = f"{activation}: the gain falls as the batch grows"
            falls, told = bool(np.all(np.diff(found) < 0)), ", ".join(map(lab.digits, found))
            criteria.append(lab.that(claim, falls, told, "each below the one before"))
    return criteria


def draw(columns: Columns) -> Figure:
    """Draw the gain by batch size, and by layer for the smallest and largest that are held."""
    found = gains(columns)
    rows = [row for rows in found.values() for row in rows]
    by_size = [_by_batch_size(activation, rows) for activation, rows in found.items()]
    shown = [plots.Panel("by batch size, ±3 s.e.", "log2 of the batch size", "gain", by_size)]
    sizes = [row.kind.batch_size for row in rows]
    held = [size for size in sizes if size >= HELD] or sizes
    for size in sorted({min(held), max(held)}):
        title = f"from the second layer on, batch of {size}"
        each = [_by_layer(row) for row in rows if row.kind.batch_size == size]
        shown.append(plots.Panel(title, "layer", "gain", each))
    title = "Gain of the squared gradient per layer, batch norm, at initialization"
    return plots.panels(title, shown)


def _by_batch_size(activation: str, rows: Sequence[Gains]) -> plots.Series:
    found = np.array([row.gain for row in rows])
    whisker = 3 * np.array([row.error for row in rows])
    sizes = np.log2([row.kind.batch_size for row in rows])
    theory = [row.kind.expected for row in rows]
    return plots.Series(activation, sizes, found, found - whisker, found + whisker, theory)


def _by_layer(row: Gains) -> plots.Series:
    layers = np.arange(1, row.kind.depth)
    theory = np.full(len(layers), row.kind.expected)
    return plots.Series(row.kind.activation, layers, row.gains.mean(0)[1:], expected=theory)


def table(columns: Columns) -> Table:
    """Return the gain at every batch size beside theory's."""
    rows = [
        (
            activation,
            row.kind.batch_size,
            *(f"{value:.4f}" for value in (row.gain, row.error, row.kind.expected)),
            f"{row.off:+.2%}",
        )
        for activation, rows in gains(columns).items()
        for row in rows
    ]
    width, seeds = int(columns["width"][0]), len(set(columns["seed"].tolist()))
    title = f"Gain of a layer, batch norm, width {width}, {seeds} networks each"
    heads = ("activation", "batch size", "gain", "s.e.", "theory", "off by")
    return lab.plain_table(title, heads, rows)
