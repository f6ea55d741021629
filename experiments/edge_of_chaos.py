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

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from rich.table import Table
from scipy import optimize

from convjax import gradflow, lab, nn, plots
from convjax.lab import Columns, Criterion

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

    @property
    def label(self) -> str:
        """What they are called beside others."""
        return f"v = {self.weight_variance:g}"

    @property
    def log_chi(self) -> float:
        """Logarithm of the gain that theory gives a layer."""
        return math.log(chi(self.weight_variance, self.bias_variance))

    @property
    def fixed_point(self) -> float:
        """Variance at which theory lets the pre-activations come to rest."""
        return gradflow.oracles.fixed_point("tanh", self.weight_variance, self.bias_variance)


@dataclasses.dataclass(frozen=True)
class Networks:
    """Many networks of one kind: a cell of the study.

    Attributes:
      kind: of network.
      stream: which networks; other ones at other weight variances.
      discard: first layers that do not count.
      batch_size: examples that go through each.
      seeds: how many.
    """

    kind: Tanh
    stream: int
    discard: int
    batch_size: int
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
            Tanh(weight_variance, config.bias_variance, config.width, depth),
            stream,
            min(DISCARD, depth // 4) if config.discard is None else config.discard,
            config.batch_size,
            config.seeds,
        )
        for depth in config.depths
        for stream, weight_variance in enumerate(config.weight_variances)
    ]


def check(config: Config) -> None:
    """Refuse options that cannot be done."""
    lab.check_least(config, depths=1, width=1, batch_size=1, seeds=2)
    if config.discard is not None:
        lab.check_least(config, discard=0)
        if config.discard >= min(config.depths):
            raise ValueError(
                f"discard={config.discard} leaves no layer of {min(config.depths)} in "
                f"depths={list(config.depths)}; make it smaller"
            )
    if not 0 <= config.bias_variance < math.inf:
        raise ValueError(f"bias_variance={config.bias_variance} must be finite and not negative")
    given = config.weight_variances
    if len(set(given)) < len(given) or any(not 0 < v < math.inf for v in given):
        raise ValueError(f"weight_variances={list(given)} must be positive, finite, none twice")
    if len({chi(v, config.bias_variance) > 1 for v in given}) < 2:
        raise ValueError(
            f"weight_variances={list(given)} must lie on both sides of the edge of chaos: at some "
            f"chi must be below 1, at some above, for bias_variance={config.bias_variance}"
        )


def group(networks: Networks) -> Hashable:
    """Return what decides the program: the variances are its arguments."""
    return networks.kind.depth, networks.kind.width, networks.batch_size, networks.seeds


def measure(networks: Networks) -> Columns:
    """Return the gain of every layer of every network, and the variance of what enters it."""
    kind = networks.kind
    program = _program(kind.depth, kind.width, networks.batch_size)
    keys = jax.random.split(jax.random.key(networks.stream), networks.seeds)
    variances = jnp.array([kind.weight_variance, kind.bias_variance], jnp.float32)
    gain, variance = jax.device_get(program(keys, variances))
    rows = lab.as_rows(kind, place="layer", gain=gain, variance=variance)
    return rows | {"kept": rows["layer"] >= networks.discard}


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


@dataclasses.dataclass(frozen=True)
class Gains:
    """What the networks of one kind did.

    Attributes:
      kind: of network.
      gains: of every layer, a row for each network.
      kept: which layers count.
      variance: of the pre-activations, mean over the layers that count and over networks.
    """

    kind: Tanh
    gains: np.ndarray
    kept: np.ndarray
    variance: float

    @property
    def log_gain(self) -> float:
        """Logarithm of the mean gain of a layer."""
        return math.log(self.gains[:, self.kept].mean())

    @property
    def error(self) -> float:
        """Its standard error, over networks."""
        means = self.gains[:, self.kept].mean(1)
        return float(means.std(ddof=1) / means.mean()) / math.sqrt(len(means))


def gains(columns: Columns) -> list[Gains]:
    """Return what every kind of network did, from low weight variance to high."""
    found = lab.by_kind(columns, Tanh, "gain", "kept", "variance", place="layer")
    made = [
        Gains(kind, gain, kept[0], float(variance[kept].mean()))
        for kind, (gain, kept, variance) in found
    ]
    return sorted(made, key=lambda one: one.kind.weight_variance)


def judge(columns: Columns) -> list[Criterion]:
    """Hold ln chi, its sign, and the place where that flips against theory."""
    rows = [(one.kind.weight_variance, one.log_gain, one.kind.log_chi) for one in gains(columns)]
    criteria = [
        lab.within(f"ln chi at weight variance {v:g}", found, theory, relative=GAIN_TOLERANCE)
        for v, found, theory in rows
        if abs(theory) > RESOLVED
    ]
    grows = {v: found > 0 for v, found, theory in rows if abs(theory) > SIGNED}
    should = {v: theory > 0 for v, _, theory in rows if abs(theory) > SIGNED}
    variances, logs, _ = zip(*rows, strict=True)
    return [
        *criteria,
        lab.that("where gradients fade and grow", grows == should, *map(_phases, (grows, should))),
        lab.within(
            "weight variance at which ln chi flips its sign",
            crossing(variances, logs),
            edge(variances[0], variances[-1], columns["bias_variance"][0]),
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


def chi(weight_variance: float, bias_variance: float) -> float:
    """Return the gain that theory gives a layer of tanh."""
    return gradflow.oracles.chi("tanh", weight_variance, bias_variance)


def edge(low: float, high: float, bias_variance: float) -> float:
    """Return the weight variance between two at which theory's gain is 1."""
    found = optimize.root_scalar(lambda v: chi(v, bias_variance) - 1, bracket=(low, high))
    return float(found.root)


def draw(columns: Columns) -> Figure:
    """Draw the gain and the variance at rest by weight variance, and the gradient by layer."""
    rows = gains(columns)
    least, most = rows[0].kind, rows[-1].kind
    fine = np.linspace(least.weight_variance, most.weight_variance, 60)
    kinds = [dataclasses.replace(least, weight_variance=float(v)) for v in fine]
    log_chi = plots.Series("mean field", fine, expected=[kind.log_chi for kind in kinds])
    at_rest = plots.Series("mean field", fine, expected=[kind.fixed_point for kind in kinds])
    by_v, by_layer = "v, weight variance times width", "ln |g|², relative to the last layer"
    points, variances = map(_gain_point, rows), map(_variance_point, rows)
    shown = [
        plots.Panel(
            "gain of a layer, ±3 s.e.", by_v, "ln of the gain", [log_chi, *points], level=0.0
        ),
        plots.Panel("variance at rest", by_v, "variance of pre-activations", [at_rest, *variances]),
        plots.Panel("gradient along the network", "layer", by_layer, [*map(_along, rows)]),
    ]
    title = f"tanh networks at initialization, bias variance {least.bias_variance:g}"
    return plots.panels(title, shown)


def _gain_point(row: Gains) -> plots.Series:
    found, whisker = row.log_gain, 3 * row.error
    ends = [found - whisker], [found + whisker]
    return plots.Series(row.kind.label, [row.kind.weight_variance], [found], *ends)


def _variance_point(row: Gains) -> plots.Series:
    return plots.Series(row.kind.label, [row.kind.weight_variance], [row.variance])


def _along(row: Gains) -> plots.Series:
    depth = row.kind.depth
    squares = np.exp(np.cumsum(np.log(row.gains[:, ::-1]), axis=1)).mean(0)[::-1]
    layers = np.unique(np.linspace(0, depth - 1, 11).astype(int))
    theory = row.kind.log_chi * (depth - layers)
    return plots.Series(row.kind.label, layers, np.log(squares[layers]), expected=theory)


def table(columns: Columns) -> Table:
    """Return gain and variance at every weight variance beside theory's."""
    rows = [
        (
            f"{row.kind.weight_variance:g}",
            *(f"{v:.5f}" for v in (row.log_gain, row.error, row.kind.log_chi)),
            f"{row.log_gain / row.kind.log_chi - 1:+.1%}",
            lab.digits(gradflow.oracles.correlation_length(math.exp(row.kind.log_chi)), 3),
            *(f"{v:.4f}" for v in (row.variance, row.kind.fixed_point)),
        )
        for row in gains(columns)
    ]
    heads = ("weight variance", "ln gain", "s.e.", "ln chi", "off by", "length")
    width, seeds = int(columns["width"][0]), len(set(columns["seed"].tolist()))
    title = f"Gain of a layer and variance at rest, tanh, width {width}, {seeds} networks each"
    return lab.plain_table(title, (*heads, "variance", "q*"), rows)
