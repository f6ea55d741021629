"""Where do gradients of plain tanh networks pass from fading to exploding?

    python -m experiments edge-of-chaos

Fully connected tanh networks with Gaussian weights of variance v/width and Gaussian biases. A small
batch goes through each of many networks, unit Gaussian cotangents come back, and the gain of a
layer is the squared norm of the batch's gradient before it over that after it.

Theory (``gradflow.oracles.fixed_point`` and ``chi``): the variance of the pre-activations comes to
rest at q*, and then each layer multiplies the squared norm by chi = v E[tanh'(sqrt(q*) z)^2]: below
1 in the ordered phase, above 1 in the chaotic one. With bias variance 0.05 the edge is at v = 1.76
(``edge_of_chaos``).

The mean of the gain over layers and networks is compared, and its logarithm taken last: the mean of
the logarithm lies lower, by the order of 1/width. The first layers, where the variance has not
come to rest yet, are left out; eight layers are too few for it to come to rest at all, and fail.

Pass: ln chi within 3 % wherever it is above 0.05 in size, which by default it is at four values of
v, 1, 1.5, 2.5 and 4; the right sign wherever it is above 0.01, which adds 1.7 and 2; and the place
where the sign flips, by straight lines between these, within 1 % of theory's. Nearer to the edge
3 % of ln chi asks for a gain exact to 0.001, and at width 128 the gain itself is off by up to
0.3/width = 0.002. Both bounds and both tolerances are set by hand.

Takes about a minute of processor time. For a look at it in a few seconds, too coarse to pass:
``--width 64 --seeds 50``.

Reference: Schoenholz et al., Deep Information Propagation, 2016; Poole et al. 2016.
"""

import dataclasses
import functools
import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.table import Table

from convjax import gradflow, lab, nn, plots
from convjax.gradflow import oracles

NETWORKS_AT_ONCE = 10
DISCARD = 10
RESOLVED, SIGNED = 0.05, 0.01
GAIN_TOLERANCE, EDGE_TOLERANCE = 0.03, 0.01

APART = ("depth",)


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options."""

    weight_variances: tuple[float, ...] = (1.0, 1.5, 1.7, 2.0, 2.5, 4.0)
    """Variances of a weight times the width, on both sides of the edge."""
    bias_variance: float = 0.05
    """Variance of a bias."""
    depths: tuple[int, ...] = (40,)
    """Layers; each depth is judged and shown by itself."""
    discard: int | None = None
    """First layers that are left out, while the variance comes to rest; without it 10, or a quarter
    of fewer than 40."""
    width: int = 128
    """Features of every layer."""
    batch_size: int = 32
    """Examples, each with a cotangent of its own: more of them scatter less."""
    seeds: int = 700
    """Networks at each weight variance."""


@dataclasses.dataclass(frozen=True)
class Tanh:
    """Networks of one weight variance (times the width) and one depth."""

    weight_variance: float
    bias_variance: float
    width: int
    depth: int

    def __str__(self) -> str:
        return f"weight variance {self.weight_variance:g}, {self.depth} layers"

    label = property(lambda self: f"v = {self.weight_variance:g}")
    # By theory: a layer's gain, the variance at rest, layers in which gradients change by e.
    chi = property(lambda self: oracles.chi("tanh", self.weight_variance, self.bias_variance))
    fixed_point = property(
        lambda self: oracles.fixed_point("tanh", self.weight_variance, self.bias_variance)
    )
    length = property(lambda self: oracles.correlation_length(self.chi))


@dataclasses.dataclass(frozen=True)
class Networks(lab.Ensemble):
    """A cell of the study: many networks, of which the first layers do not count."""

    stream: int = 0  # which networks; other ones at other weight variances
    discard: int = 0


def cells(config: Config) -> list[Networks]:
    """Return what is measured."""
    lab.check_least(config, depths=1, width=1, batch_size=1, seeds=2, bias_variance=0, discard=0)
    lab.check_positive(config, "weight_variances")
    if (config.discard or 0) >= min(config.depths):
        raise ValueError(
            f"discard={config.discard} leaves no layer of {min(config.depths)} in "
            f"depths={list(config.depths)}; make it smaller"
        )
    made = [
        Networks(
            Tanh(weight_variance, config.bias_variance, config.width, depth),
            config.seeds,
            config.batch_size,
            stream,
            min(DISCARD, depth // 4) if config.discard is None else config.discard,
        )
        for depth in config.depths
        for stream, weight_variance in enumerate(config.weight_variances)
    ]
    if len({one.kind.chi > 1 for one in made}) < 2:
        raise ValueError(
            f"weight_variances={list(config.weight_variances)} must lie on both sides of the edge "
            f"of chaos: at some chi must be below 1, at some above, for "
            f"bias_variance={config.bias_variance}"
        )
    return made


def group(networks: Networks) -> Hashable:
    """Return what decides the program: the variances are its arguments."""
    return networks.kind.depth, networks.kind.width, networks.batch_size, networks.seeds


def measure(networks: Networks) -> lab.Columns:
    """Return the gain of every layer of every network, and the variance of what enters it."""
    kind = networks.kind
    keys = jax.random.split(jax.random.key(networks.stream), networks.seeds)
    variances = jnp.array([kind.weight_variance, kind.bias_variance], jnp.float32)
    gain, variance = profiles(kind.depth, kind.width, networks.batch_size, keys, variances)
    kept = np.arange(kind.depth) >= networks.discard
    return lab.as_rows(kind, place="layer", gain=gain, variance=variance, kept=kept)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def profiles(
    depth: int, width: int, batch_size: int, keys: jax.Array, variances: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return each layer's gain and the variance of what enters it, a row for each network."""

    def normal(variance):
        return lambda key, shape, dtype: jnp.sqrt(variance) * jax.random.normal(key, shape, dtype)

    def unit(rngs):
        weights, biases = normal(variances[0] / width), normal(variances[1])
        dense = nn.Dense(width, width, kernel_init=weights, bias_init=biases, rngs=rngs)
        return nn.Chain(activation=nn.Activation("tanh"), dense=dense)

    def one(key):
        net_key, signal_key = jax.random.split(key)
        net = nn.Repeat(unit, depth, rngs=nnx.Rngs(net_key))
        x, cotangent = jax.random.normal(signal_key, (2, batch_size, width))
        profile = gradflow.profile(net, x, cotangent=cotangent, train=True)
        first, rest = profile["input"].activation, profile["*"].activation
        entering = jnp.append(first.log_rms, rest.log_rms[:-1])
        return lab.unit_gains(profile), jnp.exp(2 * entering)

    return jax.lax.map(one, keys, batch_size=NETWORKS_AT_ONCE)


class Gains(NamedTuple):
    """What the networks of one kind did."""

    kind: Tanh
    gains: np.ndarray  # of every layer, a row for each network
    log_gain: lab.Mean  # logarithm of the mean gain of the layers that count
    variance: float  # of their pre-activations


def gains(columns: lab.Columns) -> list[Gains]:
    """Return what every kind of network did, from low weight variance to high."""
    found = lab.by_kind(columns, Tanh, "gain", "kept", "variance", place="layer")
    made = []
    for kind, (gain, kept, variance) in found:
        mean = gain[:, kept[0]].mean(1)
        # The logarithm of the mean; its standard error is to first order in the scatter.
        logs = math.log(mean.mean()) + mean / mean.mean() - 1
        log_gain = lab.Mean(kind, logs, math.log(kind.chi))
        made.append(Gains(kind, gain, log_gain, float(variance[kept].mean())))
    return sorted(made, key=lambda one: one.kind.weight_variance)


def judge(columns: lab.Columns) -> list[lab.Criterion]:
    """Hold ln chi, its sign, and the place where that flips against theory."""
    rows = gains(columns)
    logs = {row.kind.weight_variance: (row.log_gain.mean, row.log_gain.expected) for row in rows}
    criteria = [
        lab.within(f"ln chi at weight variance {v:g}", found, theory, relative=GAIN_TOLERANCE)
        for v, (found, theory) in logs.items()
        if abs(theory) > RESOLVED
    ]
    grows, should = (
        {v: pair[i] > 0 for v, pair in logs.items() if abs(pair[1]) > SIGNED} for i in (0, 1)
    )
    bias, ends = rows[0].kind.bias_variance, (min(logs), max(logs))
    return [
        *criteria,
        lab.that("where gradients fade and grow", grows == should, *map(_phases, (grows, should))),
        lab.within(
            "weight variance at which ln chi flips its sign",
            crossing([*logs], [found for found, _ in logs.values()]),
            oracles.edge_of_chaos("tanh", bias, *ends),
            relative=EDGE_TOLERANCE,
        ),
    ]


def _phases(grows: dict[float, bool]) -> str:
    fade, grow = (", ".join(f"{v:g}" for v in grows if grows[v] == up) for up in (False, True))
    return f"fade at {fade or 'none'}; grow at {grow or 'none'}"


def crossing(x: Sequence[float], y: Sequence[float]) -> float:
    """Return where y, joined by straight lines, first passes from below 0 to above, or NaN."""
    for i in range(len(y) - 1):
        if y[i] < 0 <= y[i + 1]:
            return x[i] - y[i] * (x[i + 1] - x[i]) / (y[i + 1] - y[i])
    return math.nan


def draw(columns: lab.Columns) -> plots.Sheet:
    """Draw the gain and the variance at rest by weight variance, and the gradient by layer."""
    rows = gains(columns)
    least, most = rows[0].kind, rows[-1].kind
    fine = np.linspace(least.weight_variance, most.weight_variance, 60)
    kinds = [dataclasses.replace(least, weight_variance=float(v)) for v in fine]
    theory = "mean field"
    log_chi = [plots.Series(theory, fine, expected=[math.log(kind.chi) for kind in kinds])]
    at_rest = [plots.Series(theory, fine, expected=[kind.fixed_point for kind in kinds])]
    for row in rows:
        at = [row.kind.weight_variance]
        log_chi.append(lab.series(row.kind.label, at, row.log_gain.values[:, None], errors=3))
        at_rest.append(plots.Series(row.kind.label, at, [row.variance]))
    by_v, by_layer = "v, weight variance times width", "ln |g|², relative to the last layer"
    shown = [
        plots.Panel("gain of a layer, ±3 s.e.", by_v, "ln of the gain", log_chi, level=0.0),
        plots.Panel("variance at rest", by_v, "variance of pre-activations", at_rest),
        plots.Panel("gradient along the network", "layer", by_layer, [*map(_along, rows)]),
    ]
    title = f"tanh networks at initialization, bias variance {least.bias_variance:g}"
    return plots.panels(title, shown)


def _along(row: Gains) -> plots.Series:
    depth = row.kind.depth
    squares = np.exp(np.cumsum(np.log(row.gains[:, ::-1]), axis=1)).mean(0)[::-1]
    layers = np.unique(np.linspace(0, depth - 1, 11).astype(int))
    theory = row.log_gain.expected * (depth - layers)
    return plots.Series(row.kind.label, layers, np.log(squares[layers]), expected=theory)


def table(columns: lab.Columns) -> Table:
    """Return gain and variance at every weight variance beside theory's."""
    rows = gains(columns)
    width, seeds = rows[0].kind.width, len(rows[0].gains)
    return lab.formatted_table(
        f"Gain of a layer and variance at rest, tanh, width {width}, {seeds} networks each",
        rows,
        ("weight variance", "kind.weight_variance:g"),
        ("ln gain", "log_gain.mean:.5f"),
        ("s.e.", "log_gain.error:.5f"),
        ("ln chi", "log_gain.expected:.5f"),
        ("off by", "log_gain.off:+.1%"),
        ("length", "kind.length:.3g"),
        ("variance", "variance:.4f"),
        ("q*", "kind.fixed_point:.4f"),
    )
