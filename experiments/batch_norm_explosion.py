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
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import gradflow, lab, nn
from convjax.lab import Columns, Criterion, check_least, check_several, digits
from experiments._normed_networks import HELD, summaries
from experiments._normed_networks import draw as draw
from experiments._normed_networks import table as table

LEAST = 4
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
    out: Path = Path("results/batch-norm-explosion")
    """Folder for the table and the figure; it is made if it is not there."""


@dataclasses.dataclass(frozen=True)
class Networks:
    """Many networks of one activation, batch size and depth: a cell of the study.

    Attributes:
      activation: between norm and matrix.
      batch_size: examples whose statistics are shared.
      depth: layers.
      discard: layers that do not count at either end.
      width: features of every layer.
      seeds: how many.
    """

    activation: str
    batch_size: int
    depth: int
    discard: int
    width: int
    seeds: int

    def __str__(self) -> str:
        return f"{self.activation}, batch size {self.batch_size}, {self.depth} layers"


def cells(config: Config) -> list[Networks]:
    """Return what is measured.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    return [
        Networks(
            activation,
            batch_size,
            depth,
            min(DISCARD, depth // 3) if config.discard is None else config.discard,
            config.width,
            config.seeds,
        )
        for depth in config.depths
        for activation in config.activations
        for batch_size in config.batch_sizes
    ]


def check(config: Config) -> None:
    """Refuse options that cannot be done."""
    check_several(config, "batch_sizes", "activations")
    if min(config.batch_sizes) < LEAST:
        raise ValueError(
            f"batch_sizes={list(config.batch_sizes)} must each be at least {LEAST}: the mean gain "
            "of smaller batches is infinite"
        )
    check_least(config, depths=1, width=1, seeds=2)
    if config.discard is not None and config.discard < 0:
        raise ValueError(f"discard={config.discard} must be at least 0")
    if config.discard is not None and min(config.depths) <= 2 * config.discard:
        raise ValueError(
            f"depths={list(config.depths)}: {min(config.depths)} leaves no layer where "
            f"discard={config.discard} are left out at either end; make each at least "
            f"{2 * config.discard + 1}"
        )


def measure(networks: Networks) -> Columns:
    """Return the gain of every layer of every network."""
    keys = jax.random.split(jax.random.key(0), networks.seeds)
    gains = np.asarray(jax.jit(partial(_gains, networks))(keys))
    layers, left_out = np.arange(networks.depth), networks.discard
    kept = (layers >= left_out) & (layers < networks.depth - left_out)
    rows = {
        "activation": networks.activation,
        "batch_size": networks.batch_size,
        "width": networks.width,
        "depth": networks.depth,
        "seed": np.repeat(np.arange(networks.seeds), networks.depth),
        "layer": np.tile(layers, networks.seeds),
        "kept": np.tile(kept, networks.seeds),
        "gain": gains.ravel(),
    }
    return {name: np.broadcast_to(values, (gains.size,)) for name, values in rows.items()}


def _gains(networks: Networks, keys: jax.Array) -> jax.Array:
    """Return each layer's gain, the input side first, a row for each network."""
    width = networks.width

    def unit(rngs):
        return nn.Chain(
            norm=nn.BatchNorm(width, epsilon=0.0, use_scale=False, use_bias=False, rngs=rngs),
            activation=nn.Activation(networks.activation),
            # The scale is of no matter: the next norm divides it out.
            dense=nn.Dense(width, width, kernel_init="he", use_bias=False, rngs=rngs),
        )

    def one(key):
        net_key, signal_key = jax.random.split(key)
        net = nn.Repeat(unit, networks.depth, rngs=nnx.Rngs(net_key))
        x, cotangent = jax.random.normal(signal_key, (2, networks.batch_size, width))
        cotangent -= jnp.mean(cotangent, 0, keepdims=True)
        profile = gradflow.profile(net, x, cotangent=cotangent, train=True)
        logs = jnp.append(profile["input"].gradient.log_norm, profile["*"].gradient.log_norm)
        return jnp.exp(2 * (logs[:-1] - logs[1:]))

    return jax.lax.map(one, keys)


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
                lab.within(
                    f"{activation}: gain of a layer, {which}",
                    worst.gain,
                    worst.expected,
                    relative=TOLERANCE,
                )
            )
        if len(of_activation) > 1:
            gains = [row.gain for row in of_activation]
            criteria.append(
                lab.that(
                    f"{activation}: the gain falls as the batch grows",
                    bool(np.all(np.diff(gains) < 0)),
                    ", ".join(digits(gain) for gain in gains),
                    "each below the one before",
                )
            )
    return criteria
