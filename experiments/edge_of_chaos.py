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
come to rest yet, are left out.

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
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from rich.table import Table
from scipy import optimize

from convjax import gradflow, nn, plots
from experiments import _cli, _outcome
from experiments._outcome import Columns, Criterion, Experiment, digits
from experiments._progress import Ticker

NETWORKS_AT_ONCE = 10
RESOLVED, SIGNED = 0.05, 0.01
GAIN_TOLERANCE, EDGE_TOLERANCE = 0.03, 0.01


@dataclasses.dataclass(frozen=True)
class Config(_cli.Options):
    """Options."""

    weight_variances: tuple[float, ...] = (1.0, 1.5, 1.7, 2.0, 2.5, 4.0)
    """Variances of a weight times the width, on both sides of the edge."""
    bias_variance: float = 0.05
    """Variance of a bias."""
    depth: int = 40
    """Layers."""
    discard: int = 10
    """First layers that are left out, while the variance comes to rest."""
    width: int = 128
    """Features of every layer."""
    batch_size: int = 32
    """Examples, each with a cotangent of its own: more of them scatter less."""
    seeds: int = 700
    """Networks at each weight variance."""
    out: Path = Path("results/edge-of-chaos")
    """Folder for the table and the figure; it is made if it is not there."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """One weight variance: what was measured and what theory says.

    Attributes:
      weight_variance: variance of a weight times the width.
      log_gain: logarithm of the mean gain of a layer.
      error: its standard error, over networks.
      log_chi: what it should be.
      variance: of the pre-activations, mean over layers and networks.
      fixed_point: what that should be.
    """

    weight_variance: float
    log_gain: float
    error: float
    log_chi: float
    variance: float
    fixed_point: float


def measure(config: Config) -> Columns:
    """Return the gain of every layer of every network, and the variance of what enters it.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    layers = np.tile(np.arange(config.depth), config.seeds)
    program = jax.jit(partial(_profiles, config.depth, config.width, config.batch_size))
    blocks = []
    with Ticker(len(config.weight_variances)) as ticker:
        for i, weight_variance in enumerate(config.weight_variances):
            ticker.begin(f"weight variance {weight_variance:g}")
            keys = jax.random.split(jax.random.key(i), config.seeds)
            variances = jnp.array([weight_variance, config.bias_variance], jnp.float32)
            gain, variance = map(np.ravel, jax.device_get(program(keys, variances)))
            rows = {
                "weight_variance": weight_variance,
                "bias_variance": config.bias_variance,
                "width": config.width,
                "seed": np.repeat(np.arange(config.seeds), config.depth),
                "layer": layers,
                "kept": layers >= config.discard,
                "gain": gain,
                "variance": variance,
            }
            blocks.append({name: np.broadcast_to(rows[name], gain.shape) for name in rows})
            ticker.finish(f"weight variance {weight_variance:g}")
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def check(config: Config) -> None:
    """Refuse options that cannot be done."""
    for option, least in (("depth", 1), ("discard", 0), ("width", 1), ("batch_size", 1)):
        if getattr(config, option) < least:
            raise ValueError(f"{option}={getattr(config, option)} must be at least {least}")
    if config.seeds < 2:
        raise ValueError(f"seeds={config.seeds} must be at least 2, for a standard error")
    if config.discard >= config.depth:
        raise ValueError(
            f"discard={config.discard} leaves no layer of depth={config.depth}; make it smaller"
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


def chi(weight_variance: float, bias_variance: float) -> float:
    """Return the gain that theory gives a layer of tanh."""
    return gradflow.oracles.chi("tanh", weight_variance, bias_variance)


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


def summaries(columns: Columns) -> list[Summary]:
    """Return one summary for each weight variance, from low to high."""
    return [_summary(columns, v) for v in sorted(set(columns["weight_variance"].tolist()))]


def _summary(columns: Columns, weight_variance: float) -> Summary:
    here = (columns["weight_variance"] == weight_variance) & columns["kept"]
    bias_variance = float(columns["bias_variance"][0])
    seeds = columns["seed"][here]
    by_network = [float(columns["gain"][here][seeds == s].mean()) for s in set(seeds.tolist())]
    gain = float(np.mean(by_network))
    return Summary(
        weight_variance=weight_variance,
        log_gain=math.log(gain),
        error=float(np.std(by_network, ddof=1)) / gain / math.sqrt(len(by_network)),
        log_chi=math.log(chi(weight_variance, bias_variance)),
        variance=float(columns["variance"][here].mean()),
        fixed_point=gradflow.oracles.fixed_point("tanh", weight_variance, bias_variance),
    )


def judge(columns: Columns) -> list[Criterion]:
    """Hold ln chi, its sign, and the place where that flips against theory."""
    rows = summaries(columns)
    criteria = [
        _outcome.within(
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
        _outcome.that(
            "where gradients fade and grow", grows == should, *map(_phases, (grows, should))
        ),
        _outcome.within(
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


def draw(columns: Columns) -> Figure:
    """Draw the gain and the variance at rest by weight variance, and the gradient by layer."""
    rows = summaries(columns)
    bias_variance = float(columns["bias_variance"][0])
    fine = np.linspace(rows[0].weight_variance, rows[-1].weight_variance, 60)
    at_rest = [gradflow.oracles.fixed_point("tanh", float(v), bias_variance) for v in fine]
    log_chi = [math.log(chi(float(v), bias_variance)) for v in fine]
    axis = "v, weight variance times width"
    return plots.panels(
        f"tanh networks at birth, bias variance {bias_variance:g}",
        [
            plots.Panel(
                "gain of a layer, ±3 s.e.",
                axis,
                "ln of the gain",
                [plots.Series("mean field", fine, expected=log_chi), *map(_gain_point, rows)],
                level=0.0,
            ),
            plots.Panel(
                "variance at rest",
                axis,
                "variance of pre-activations",
                [plots.Series("mean field", fine, expected=at_rest), *map(_variance_point, rows)],
            ),
            plots.Panel(
                "gradient along the network",
                "layer",
                "ln |g|², relative to the last layer",
                [_along(columns, row) for row in rows],
            ),
        ],
    )


def _name(row: Summary) -> str:
    return f"v = {row.weight_variance:g}"


def _gain_point(row: Summary) -> plots.Series:
    low, high = row.log_gain - 3 * row.error, row.log_gain + 3 * row.error
    return plots.Series(_name(row), [row.weight_variance], [row.log_gain], [low], [high])


def _variance_point(row: Summary) -> plots.Series:
    return plots.Series(_name(row), [row.weight_variance], [row.variance])


def _along(columns: Columns, row: Summary) -> plots.Series:
    here = columns["weight_variance"] == row.weight_variance
    depth = int(columns["layer"].max()) + 1
    order = np.lexsort((columns["layer"][here], columns["seed"][here]))
    gains = columns["gain"][here][order].reshape(-1, depth).astype(np.float64)
    squares = np.exp(np.cumsum(np.log(gains[:, ::-1]), axis=1)).mean(0)[::-1]
    layers = np.unique(np.linspace(0, depth - 1, 11).astype(int))
    theory = row.log_chi * (depth - layers)
    return plots.Series(_name(row), layers, np.log(squares[layers]), expected=theory)


def table(columns: Columns) -> Table:
    """Return gain and variance at every weight variance beside theory's."""
    rows = [
        (
            f"{row.weight_variance:g}",
            *(f"{v:.5f}" for v in (row.log_gain, row.error, row.log_chi)),
            f"{row.log_gain / row.log_chi - 1:+.1%}",
            digits(gradflow.oracles.correlation_length(math.exp(row.log_chi)), 3),
            *(f"{v:.4f}" for v in (row.variance, row.fixed_point)),
        )
        for row in summaries(columns)
    ]
    heads = ("weight variance", "ln gain", "s.e.", "ln chi", "off by", "length")
    width, seeds = int(columns["width"][0]), len(set(columns["seed"].tolist()))
    title = f"Gain of a layer and variance at rest, tanh, width {width}, {seeds} networks each"
    return _outcome.plain_table(title, (*heads, "variance", "q*"), rows)


EXPERIMENT = Experiment(
    name="edge-of-chaos",
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
