"""How fast does batch norm make the gradients of a plain network explode, by batch size?

    python -m experiments batch-norm-explosion

Fully connected layers of batch norm (no epsilon, no scale or bias), activation and matrix. A batch
goes through a few networks, a unit Gaussian cotangent whose mean over the batch is zero comes back,
and the gain of a layer is the squared norm of the batch's gradient before it over that after it.
The first and the last layers, which still know the ends, are left out.

Theory (``gradflow.oracles.batch_norm_gain``): in wide networks the gain depends on the batch size B
alone. For ReLU it falls from 3.08 at B = 4 to pi/(pi-1) = 1.467; for a linear network, which has
the least of all, it is (B-2)/(B-3). The mean of the gain does not exist below B = 4, and at 4 its
variance does not, so that 4 is shown but not held to the formula.

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
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.table import Table

from convjax import gradflow, lab, nn, plots
from convjax.gradflow import oracles

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

    # The gain of a layer, by theory.
    expected = property(lambda self: oracles.batch_norm_gain(self.batch_size, self.activation))

    def network(self, rngs: nnx.Rngs) -> nn.Repeat:
        """Return one network."""

        def unit(rngs: nnx.Rngs) -> nn.Chain:
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
        return lab.unit_gains(gradflow.profile(net, x, cotangent=cotangent, train=True))


@dataclasses.dataclass(frozen=True)
class Networks(lab.Ensemble):
    """A cell of the study: many networks, of which some layers at either end do not count."""

    discard: int = 0


def cells(config: Config) -> list[Networks]:
    """Return what is measured."""
    lab.check_several(config, "activations")
    lab.check_least(config, batch_sizes=LEAST, depths=1, width=1, seeds=2, discard=0)
    least = 2 * (config.discard or 0) + 1
    if min(config.depths) < least:
        raise ValueError(
            f"depths={list(config.depths)} must each be at least {least}: "
            f"discard={config.discard} layers are left out at either end"
        )
    return [
        Networks(
            Normed(activation, batch_size, config.width, depth),
            config.seeds,
            discard=min(DISCARD, depth // 3) if config.discard is None else config.discard,
        )
        for depth in config.depths
        for activation in config.activations
        for batch_size in config.batch_sizes
    ]


def measure(networks: Networks) -> lab.Columns:
    """Return the gain of every layer of every network, and whether it counts."""
    kind, seeds = networks.kind, networks.seeds
    gains = lab.map_seeds(kind.gains, seeds, keys=jax.random.split(jax.random.key(0), seeds))
    layer = np.arange(kind.depth)
    kept = np.minimum(layer, layer[::-1]) >= networks.discard
    return lab.as_rows(kind, place="layer", gain=gains, kept=kept)


def gains(columns: lab.Columns) -> dict[str, list[lab.Mean]]:
    """Return by activation the gain of the layers that count, small batches first."""
    found = lab.by_kind(columns, Normed, "gain", "kept", place="layer")
    rows = [lab.Mean(kind, gain[:, kept[0]].mean(1), kind.expected) for kind, (gain, kept) in found]
    return lab.grouped(sorted(rows, key=lambda row: row.kind.batch_size), "kind.activation")


def judge(columns: lab.Columns) -> list[lab.Criterion]:
    """Hold the gains, at their worst batch size, against theory, and ask that they fall."""
    criteria = []
    for activation, rows in gains(columns).items():
        criteria += lab.worst(
            lambda kind: f"{kind.activation}: gain of a layer, batch size {kind.batch_size}",
            [row for row in rows if row.kind.batch_size >= HELD],
            relative=TOLERANCE,
        )
        if len(rows) > 1:
            found = [row.mean for row in rows]
            claim = f"{activation}: the gain falls as the batch grows"
            falls, told = np.all(np.diff(found) < 0), ", ".join(map(lab.digits, found))
            criteria.append(lab.that(claim, falls, told, "each below the one before"))
    return criteria


def draw(columns: lab.Columns) -> plots.Sheet:
    """Draw the gain by batch size, and by layer for the smallest and largest that are held."""
    by_size = [
        lab.series(activation, np.log2([row.kind.batch_size for row in rows]), rows, errors=3)
        for activation, rows in gains(columns).items()
    ]
    shown = [plots.Panel("by batch size, ±3 s.e.", "log2 of the batch size", "gain", by_size)]
    found = [(kind, v[0]) for kind, v in lab.by_kind(columns, Normed, "gain", place="layer")]
    sizes = [kind.batch_size for kind, _ in found]
    held = [size for size in sizes if size >= HELD] or sizes
    for size in sorted({min(held), max(held)}):
        each = [_by_layer(kind, gain) for kind, gain in found if kind.batch_size == size]
        title = f"from the second layer on, batch of {size}"
        shown.append(plots.Panel(title, "layer", "gain", each))
    title = "Gain of the squared gradient per layer, batch norm, at initialization"
    return plots.panels(title, shown)


def _by_layer(kind: Normed, gain: np.ndarray) -> plots.Series:
    layers = np.arange(1, kind.depth)
    theory = np.full(kind.depth - 1, kind.expected)
    return plots.Series(kind.activation, layers, gain.mean(0)[1:], expected=theory)


def table(columns: lab.Columns) -> Table:
    """Return the gain at every batch size beside theory's."""
    rows = [row for rows in gains(columns).values() for row in rows]
    kind, seeds = rows[0].kind, len(rows[0].values)
    return lab.formatted_table(
        f"Gain of a layer, batch norm, width {kind.width}, {seeds} networks each",
        rows,
        ("activation", "kind.activation"),
        ("batch size", "kind.batch_size"),
        ("gain", "mean:.4f"),
        ("s.e.", "error:.4f"),
        ("theory", "expected:.4f"),
        ("off by", "off:+.2%"),
    )
