"""How does the gradient of a plain ReLU network shrink with depth, and how far does it scatter?

    python -m experiments plain-gain

Fully connected ReLU networks without norm or bias, of several initialisations and widths, hundreds
of each. One example goes through each network, a unit Gaussian cotangent comes back, and the
squared norm |g|^2 of the gradient is measured before every layer, relative to the cotangent's.

Theory (``gradflow.oracles.relu_gain`` and ``log_spread``): one layer multiplies |g|^2 by
scale/2 in the mean, scale being a weight's variance times its fan-in: 2 for He, 1 for LeCun
(Flax's default, here untruncated), 1/3 for PyTorch's default. At width n that factor has relative
variance 5/n, so ln|g|^2 is about normal, with variance 5L/n after L layers, and falls by 5/(2n) a
layer more than ln(scale/2): the mean of the logarithm is compared, not the logarithm of the mean.

Pass: for each initialisation and width, the slope of ln|g|^2 over all layers is
ln(scale/2) - 5/(2n) within 3 standard errors (of the mean over networks), and the variance of
ln|g|^2 before all layers is 5L/n within 20 %. Both tolerances are set by hand: with a thousand
networks the second is four standard errors wide, and the 5/(2n) that the first must see are ten and
more. Theory is to first order in 1/n, which the default widths are large enough for.

Takes about a minute and a half of processor time. For a look at it in a few seconds:
``--inits he --widths 32 --seeds 200``.

Reference: He et al., Delving Deep into Rectifiers, 2015; Hanin, Which Neural Net Architectures Give
Rise to Exploding and Vanishing Gradients?, 2018.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from rich.table import Table
from scipy import stats

from convjax import lab, models, nn, plots
from convjax.gradflow import oracles

NETWORKS_AT_ONCE = 50
STANDARD_ERRORS = 3.0
VARIANCE_TOLERANCE = 0.2
# How many networks with a closed layer may be expected: each layer is one in 2^width times.
DEAD = 0.01

APART = ("depth",)


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options; every initialisation is measured at every width."""

    inits: tuple[str, ...] = ("he", "lecun", "torch")
    """Initialisers with independent entries: he, lecun, torch, glorot, he_uniform, …"""
    widths: tuple[int, ...] = (64, 96, 128)
    """Features of every layer."""
    depths: tuple[int, ...] = (32,)
    """Layers; each depth is judged and shown by itself."""
    seeds: int = 1000
    """Networks of each kind."""


@dataclasses.dataclass(frozen=True)
class Plain:
    """Networks of one initialisation, width and depth."""

    init: str
    width: int
    depth: int

    def __str__(self) -> str:
        return f"{self.init}, width {self.width}, {self.depth} layers"

    @property
    def scale(self) -> float:
        """Variance of a weight times its fan-in."""
        shape = (self.width, self.width)
        return nn.initializers.get(self.init).variance(shape) * self.width  # pyright: ignore

    def network(self, rngs: nnx.Rngs) -> nn.Repeat:
        """Return one; a convolution over one place is a fully connected layer."""
        return models.deep_stack(
            self.depth,
            self.width,
            shortcut="none",
            convs_per_unit=1,
            kernel_size=(1, 1),
            init=self.init,
            rngs=rngs,
        )

    def keys(self, seeds: int) -> jax.Array:
        """Return a key for each network: others for other initialisers and widths."""
        init = jax.random.key(nn.initializers.NAMES.index(self.init))
        return jax.random.split(jax.random.fold_in(init, self.width), seeds)

    def log_squares(self, key: jax.Array) -> jax.Array:
        """Return ln|g|^2 of one network against layers travelled back, 0 for none."""
        weights, signals = jax.random.split(key)
        x, cotangent = jax.random.normal(signals, (2, 1, 1, 1, self.width))
        return lab.log_ratios(self.network(nnx.Rngs(weights)), x, cotangent)[::-1]

    # Logarithm of the gain that theory gives a layer in the mean.
    log_gain = property(lambda self: math.log(oracles.relu_gain(self.scale)))

    def expected(self, layers: int) -> tuple[float, float]:
        """Return mean and variance of ln|g|^2 so many layers back, by theory."""
        mean, variance = oracles.log_spread(layers, self.width)
        return layers * self.log_gain + mean, variance


def cells(config: Config) -> list[lab.Ensemble]:
    """Return what is measured."""
    lab.check_least(config, depths=1, seeds=3)
    lab.check_several(config, "inits", "widths")
    for name in config.inits:
        if not isinstance(nn.initializers.get(name), nn.initializers.VarianceScaling):
            raise ValueError(
                f"inits={list(config.inits)}: the entries of {name!r} are not independent, which "
                "the theory asks for; choose he, lecun, torch, glorot or one of their uniform forms"
            )
    deepest = max(config.depths)
    narrow = math.ceil(math.log2(deepest * config.seeds / DEAD))
    if min(config.widths) < narrow:
        raise ValueError(
            f"widths={list(config.widths)} must each be at least {narrow}: of {config.seeds} "
            f"narrower networks of {deepest} layers one may have a layer with every gate "
            "closed, and the logarithm of a gradient of 0 has no mean"
        )
    return [
        lab.Ensemble(Plain(init, width, depth), config.seeds)
        for depth in config.depths
        for init in config.inits
        for width in config.widths
    ]


def measure(networks: lab.Ensemble) -> lab.Columns:
    """Return ``log_square``, ln|g|^2 for every network and number of layers travelled back."""
    kind, seeds = networks.kind, networks.seeds
    keys = kind.keys(seeds)
    logs = lab.map_seeds(kind.log_squares, seeds, keys=keys, at_once=NETWORKS_AT_ONCE)
    return lab.as_rows(kind, place="layers", log_square=logs, scale=kind.scale)


class Scatter(NamedTuple):
    """What the networks of one kind did."""

    kind: Plain
    logs: np.ndarray  # ln|g|^2, a row for each network, a column for each number of layers back
    slope: lab.Mean  # of ln|g|^2 per layer
    variance: lab.Mean  # of ln|g|^2 before all layers


def scatters(columns: lab.Columns) -> list[Scatter]:
    """Return what every kind of network did, in the order of the columns."""
    made = []
    for kind, (logs,) in lab.by_kind(columns, Plain, "log_square", place="layers"):
        mean, variance = kind.expected(kind.depth)
        slope = lab.Mean(kind, logs[:, -1] / kind.depth, mean / kind.depth)
        # All networks have one variance.
        spread = lab.Mean(kind, logs[:, -1:].var(0, ddof=1), variance)
        made.append(Scatter(kind, logs, slope, spread))
    return made


def judge(columns: lab.Columns) -> list[lab.Criterion]:
    """Hold slope and variance of each initialisation, at its worst width, against theory."""
    criteria = []
    for rows in lab.grouped(scatters(columns), "kind.init").values():
        criteria += lab.worst(
            lambda kind: f"{kind.init}: slope of ln|g|^2 per layer, width {kind.width}",
            [row.slope for row in rows],
            errors=STANDARD_ERRORS,
        )
        criteria += lab.worst(
            lambda kind: f"{kind.init}: variance of ln|g|^2, width {kind.width}",
            [row.variance for row in rows],
            relative=VARIANCE_TOLERANCE,
        )
    return criteria


def draw(columns: lab.Columns) -> plots.Sheet:
    """Draw mean, mean beside the gain, variance, and the normal quantiles of ln|g|^2."""
    rows = scatters(columns)
    widths = sorted({row.kind.width for row in rows})
    narrow = [row for row in rows if row.kind.width == widths[0]]
    variances = [_variances(ours) for ours in lab.grouped(rows, "kind.init").values()]
    at, back = f"width {widths[0]}", "layers l travelled back"
    beside = f"the same beside (scale/2)^l, {at}", back, "ln (|g|² / (scale/2)^l)"
    by_width = f"variance, widths {', '.join(map(str, widths))}", "l / width", "variance of ln |g|²"
    normal = "quantile of the unit normal", "quantile of ln |g|², in s.d. of theory"
    shown = [
        plots.Panel(f"mean ± s.d., {at}", back, "ln |g|²", [_by_layer(row, 0.0) for row in narrow]),
        plots.Panel(*beside, [_by_layer(row, row.kind.log_gain) for row in narrow], level=0.0),
        plots.Panel(*by_width, variances),
        plots.Panel(f"is it normal? all layers, {at}", *normal, [*map(_quantiles, narrow)]),
    ]
    return plots.panels("Gradient of plain ReLU networks at initialization", shown, columns=2)


def _some(row: Scatter, most: int) -> np.ndarray:
    """Return so many of the numbers of layers, both ends among them."""
    return np.unique(np.linspace(0, row.kind.depth, most).astype(int))


def _by_layer(row: Scatter, per_layer: float) -> plots.Series:
    layers = _some(row, 12)
    theory, variance = np.transpose([row.kind.expected(int(count)) for count in layers])
    logs = lab.Mean(row.kind, row.logs[:, layers] - layers * per_layer, theory - layers * per_layer)
    low, high = (logs.mean + sign * logs.deviation for sign in (-1, 1))
    band = (logs.expected + sign * np.sqrt(variance) for sign in (-1, 1))
    return plots.Series(row.kind.init, layers, logs.mean, low, high, logs.expected, *band)


def _variances(rows: list[Scatter]) -> plots.Series:
    x = np.concatenate([_some(row, 9) / row.kind.width for row in rows])
    found = np.concatenate([row.logs.var(0, ddof=1)[_some(row, 9)] for row in rows])
    order = np.argsort(x)
    theory = oracles.log_spread(1, 1)[1] * x[order]
    return plots.Series(rows[0].kind.init, x[order], found[order], expected=theory)


def _quantiles(row: Scatter) -> plots.Series:
    mean, variance = row.kind.expected(row.kind.depth)
    levels = np.linspace(0.0, 1.0, 22)[1:-1]
    normal = stats.norm.ppf(levels)
    found = (np.quantile(row.logs[:, -1], levels) - mean) / math.sqrt(variance)
    return plots.Series(row.kind.init, normal, found, expected=normal)


def table(columns: lab.Columns) -> Table:
    """Return slope and variance of every initialisation and width beside theory's."""
    rows = scatters(columns)
    seeds, depth = len(rows[0].logs), rows[0].kind.depth
    return lab.formatted_table(
        f"ln|g|^2 per layer, and its variance after {depth} layers, over {seeds} networks each",
        rows,
        ("init", "kind.init"),
        ("scale", "kind.scale:.4g"),
        ("width", "kind.width"),
        ("slope", "slope.mean:.5f"),
        ("s.e.", "slope.error:.5f"),
        ("theory", "slope.expected:.5f"),
        ("z", "slope.away:+.2f"),
        ("variance", "variance.mean:.3f"),
        ("theory", "variance.expected:.3f"),
        ("off by", "variance.off:+.1%"),
    )
