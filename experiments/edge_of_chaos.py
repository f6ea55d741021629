"""Where do gradients of plain tanh networks pass from fading to exploding?

    python -m experiments edge-of-chaos

Fully connected tanh networks with Gaussian weights of variance v/width and Gaussian biases. A small
batch goes through each of many networks, unit Gaussian cotangents come back, and the squared norm
of the batch's gradient before every layer is divided by that after it: the layer's gain.

Theory (``gradflow.oracles.fixed_point`` and ``chi``): the variance of the pre-activations comes to
rest at q*, and then each layer multiplies the squared norm by chi = v E[tanh'(sqrt(q*) z)^2]: below
1 in the ordered phase, above 1 in the chaotic one. With bias variance 0.05 the edge is at v = 1.76.

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
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import optimize

from convjax import gradflow, lab, nn
from convjax.lab import Columns, Criterion, check_least
from experiments._tanh_networks import chi, summaries
from experiments._tanh_networks import draw as draw
from experiments._tanh_networks import table as table

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
    out: Path = Path("results/edge-of-chaos")
    """Folder for the table and the figure; it is made if it is not there."""


@dataclasses.dataclass(frozen=True)
class Networks:
    """Many networks of one weight variance and depth: a cell of the study.

    Attributes:
      stream: which networks; other ones at other weight variances.
      weight_variance: variance of a weight times the width.
      bias_variance: variance of a bias.
      depth: layers.
      discard: first layers that do not count.
      width: features of every layer.
      batch_size: examples that go through each.
      seeds: how many.
    """

    stream: int
    weight_variance: float
    bias_variance: float
    depth: int
    discard: int
    width: int
    batch_size: int
    seeds: int

    def __str__(self) -> str:
        return f"weight variance {self.weight_variance:g}, {self.depth} layers"


def cells(config: Config) -> list[Networks]:
    """Return what is measured.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    return [
        Networks(
            stream,
            weight_variance,
            config.bias_variance,
            depth,
            min(DISCARD, depth // 4) if config.discard is None else config.discard,
            config.width,
            config.batch_size,
            config.seeds,
        )
        for depth in config.depths
        for stream, weight_variance in enumerate(config.weight_variances)
    ]


def check(config: Config) -> None:
    """Refuse options that cannot be done."""
    check_least(config, depths=1, width=1, batch_size=1)
    if config.seeds < 2:
        raise ValueError(f"seeds={config.seeds} must be at least 2, for a standard error")
    if config.discard is not None and config.discard < 0:
        raise ValueError(f"discard={config.discard} must be at least 0")
    if config.discard is not None and config.discard >= min(config.depths):
        raise ValueError(
            f"discard={config.discard} leaves no layer of {min(config.depths)} in "
            f"depths={list(config.depths)}; make it smaller"
        )
    if not 0 <= config.bias_variance < math.inf:
        raise ValueError(f"bias_variance={config.bias_variance} must be finite and not negative")
    given = config.weight_variances
    if len(set(given)) < len(given) or any(not 0 < v < math.inf for v in given):
        raise ValueError(f"weight_variances={list(given)} must be positive, finite, none twice")
    signs = {chi(v, config.bias_variance) > 1 for v in given}
    if len(signs) < 2:
        raise ValueError(
            f"weight_variances={list(given)} must lie on both sides of the edge of chaos: at some "
            f"chi must be below 1, at some above, for bias_variance={config.bias_variance}"
        )


def group(networks: Networks) -> Hashable:
    """Return what decides the program: the variances are its arguments."""
    return networks.depth, networks.width, networks.batch_size, networks.seeds


def measure(networks: Networks) -> Columns:
    """Return the gain of every layer of every network, and the variance of what enters it."""
    program = _program(networks.depth, networks.width, networks.batch_size)
    keys = jax.random.split(jax.random.key(networks.stream), networks.seeds)
    variances = jnp.array([networks.weight_variance, networks.bias_variance], jnp.float32)
    gain, variance = map(np.ravel, jax.device_get(program(keys, variances)))
    layers = np.tile(np.arange(networks.depth), networks.seeds)
    rows = {
        "weight_variance": networks.weight_variance,
        "bias_variance": networks.bias_variance,
        "width": networks.width,
        "depth": networks.depth,
        "seed": np.repeat(np.arange(networks.seeds), networks.depth),
        "layer": layers,
        "kept": layers >= networks.discard,
        "gain": gain,
        "variance": variance,
    }
    return {name: np.broadcast_to(rows[name], gain.shape) for name in rows}


@functools.cache
def _program(depth: int, width: int, batch_size: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Return what measures at any variances, compiled once for so many keys."""
    return jax.jit(functools.partial(_profiles, depth, width, batch_size))


def _profiles(
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
        first, rest = profile["input"], profile["*"]
        logs = jnp.append(first.gradient.log_norm, rest.gradient.log_norm)
        entering = jnp.append(first.activation.log_rms, rest.activation.log_rms[:-1])
        return jnp.exp(2 * (logs[:-1] - logs[1:])), jnp.exp(2 * entering)

    return jax.lax.map(one, keys, batch_size=NETWORKS_AT_ONCE)


def judge(columns: Columns) -> list[Criterion]:
    """Hold ln chi, its sign, and the place where that flips against theory."""
    rows = summaries(columns)
    criteria = [
        lab.within(
            f"ln chi at weight variance {row.weight_variance:g}",
            row.log_gain,
            row.log_chi,
            relative=GAIN_TOLERANCE,
        )
        for row in rows
        if abs(row.log_chi) > RESOLVED
    ]
    signed = [row for row in rows if abs(row.log_chi) > SIGNED]
    grows = {row.weight_variance: row.log_gain > 0 for row in signed}
    should = {row.weight_variance: row.log_chi > 0 for row in signed}
    return [
        *criteria,
        lab.that("where gradients fade and grow", grows == should, *map(_phases, (grows, should))),
        lab.within(
            "weight variance at which ln chi flips its sign",
            crossing([row.weight_variance for row in rows], [row.log_gain for row in rows]),
            edge(rows[0].weight_variance, rows[-1].weight_variance, columns["bias_variance"][0]),
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


def edge(low: float, high: float, bias_variance: float) -> float:
    """Return the weight variance between two at which theory's gain is 1."""
    found = optimize.root_scalar(lambda v: chi(v, bias_variance) - 1, bracket=(low, high))
    return float(found.root)
