"""Does the gradient of a residual network with batch norm grow as a power of depth, and which?

    python -m experiments residual-power-law

Pre-activation units, ``x + branch(x)`` with norm, ReLU, He convolution once or twice in the branch,
on Gaussian noise (wide, fully connected: 1x1 convolutions at one place) and on handwritten digits
(3x3 convolutions with circular padding, behind a stem). Beside them the plain twin of the first:
the same parameters, without shortcuts. Norms use the batch; a unit Gaussian cotangent g_L comes
back. Behind unit l are measured ln(|g_l|^2 / |g_L|^2), and v_l, the variance over the batch (and
places) of the trunk, mean over channels.

Theory (``gradflow.oracles.batch_norm_residual_variance``, ``…_gain``, ``…_exponent``), with
b = 1 - 1/pi = 0.682 and m convolutions in a branch: every branch adds b to v_l, and its first norm
divides by v_l, so that a unit's gain is 1 + b^-(m-1) / v_l and |g_0|^2 / |g_L|^2 grows as L to the
power b^-m: 1.467 for m = 1 and 2.152 for m = 2. Without shortcuts it grows exponentially.

The exponent is the slope of ln|g_l|^2 against ln v_l, v_l being theory's from the variance
measured at the input on. The first eighth of the units is left out: there a unit's gain is not yet
one of small steps. Along the rest theory's own gains have 1.460 and 2.127.

Pass: on Gaussian input the exponents are 1.467 and 2.152 within 5 %, means over networks, if the
networks are deep enough for theory's own gains to have them within 2.5 % (20 and 56 units); v_l
grows by 0.682 a unit within 3 %; in every residual network, on digits too, a straight line through
ln|g_l| explains more against ln(l + 1) than against l (``gradflow.growth``), and in every plain one
less. The tolerances are set by hand. Theory is for wide layers and Gaussian input: the exponents of
digits through narrow ones are shown and not judged, nor is the plain twin's rate
(``batch-norm-explosion`` does that), which 128 layers of 256 features see fall behind theory's as
what comes out of them becomes less and less Gaussian.

Takes about half a minute of processor time. For a look at it in a few seconds:
``--depths 32 --width 64 --batch-size 64 --seeds 2``.

Reference: De and Smith, Batch Normalization Biases Residual Blocks Towards the Identity Function,
2020, for the variance that divides; the exponent is derived in this project.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from rich.table import Table

from convjax import data, gradflow, lab, models, nn, plots

GAUSSIAN, DIGITS = "gaussian", "digits"
# The share of the first units that does not enter the exponent, and the fewest that hold one.
LEFT_OUT = LEAST_UNITS = 8
EXPONENT_TOLERANCE = 0.05
SLOPE_TOLERANCE = 0.03

APART = ("depth",)


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options."""

    depths: tuple[int, ...] = (128,)
    """Residual units of the networks on Gaussian noise, at least 8; those on digits have half as
    many, but at least 8. Each depth is judged and shown by itself."""
    width: int = 256
    """Features of their layers."""
    batch_size: int = 256
    """Their examples; theory is for many."""
    digits_width: int = 32
    """Channels of the convolutions of networks on digits."""
    digits_batch_size: int = 64
    """Digits in a batch."""
    seeds: int = 6
    """Networks of each kind."""


@dataclasses.dataclass(frozen=True)
class Stack:
    """One kind of network.

    Attributes:
      data: GAUSSIAN or DIGITS.
      convs: convolutions in a branch.
      shortcut: "identity" or "none".
      units: how many.
      width: channels.
      batch_size: examples.
      depth: units of the networks on GAUSSIAN that it is shown beside.
    """

    data: str
    convs: int
    shortcut: str
    units: int
    width: int
    batch_size: int
    depth: int

    def __str__(self) -> str:
        return f"{self.data}, {self.label}, {self.units} units"

    @property
    def residual(self) -> bool:
        """Whether it has shortcuts."""
        return self.shortcut == "identity"

    @property
    def label(self) -> str:
        """What it is called beside others on the same data."""
        return f"{'residual' if self.residual else 'plain'}, m = {self.convs}"

    @property
    def limit(self) -> float:
        """The exponent of ever deeper ones."""
        return gradflow.oracles.batch_norm_residual_exponent(self.convs)

    def network(self, rngs: nnx.Rngs) -> nn.Repeat:
        """Initialize one."""
        window = 1 if self.data == GAUSSIAN else 3
        return models.deep_stack(
            self.units * self.convs,
            self.width,
            shortcut=self.shortcut,
            norm="batch",
            convs_per_unit=self.convs,
            kernel_size=(window, window),
            padding="CIRCULAR",
            rngs=rngs,
        )

    def signal(self, key: jax.Array) -> jax.Array:
        """Return what goes in."""
        if self.data == GAUSSIAN:
            return jax.random.normal(key, (self.batch_size, 1, 1, self.width))
        return through_stem(key, data.digits("train")[0], self.batch_size, self.width)

    def measure(self, key: jax.Array, _: int) -> dict[str, jax.Array]:
        """Return ``log_ratio`` and ``variance`` at the input and behind every unit of one."""
        weights, signal, cotangent = jax.random.split(key, 3)
        x = self.signal(signal)
        net = self.network(nnx.Rngs(weights))
        return {"log_ratio": lab.log_ratios(net, x, cotangent), "variance": variances(net, x)}


def through_stem(key: jax.Array, images: np.ndarray, batch_size: int, width: int) -> jax.Array:
    """Return random images behind a convolution that brings them to so many channels."""
    stem, order = jax.random.split(key)
    batch = jax.random.choice(order, jnp.asarray(images), (batch_size,), replace=False)
    options: Any = {"padding": "CIRCULAR", "use_bias": False, "rngs": nnx.Rngs(stem)}
    return nn.Conv(images.shape[-1], width, (3, 3), **options)(batch)


def variances(net: nn.Repeat, x: jax.Array) -> jax.Array:
    """Return the variance of the trunk before every unit and behind the last, as norms see it."""

    def of(x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.var(x, axis=tuple(range(x.ndim - 1))))

    def step(unit, x, rngs, _):
        return unit(x, train=True), of(x)

    last, before = net.scan(step, x)
    return jnp.append(before, of(last))


def cells(config: Config) -> list[lab.Ensemble]:
    """Return what is measured.

    Raises:
      ValueError: an option that cannot be done.
    """
    lab.check_least(config, depths=LEAST_UNITS, width=1, digits_width=1)
    lab.check_least(config, batch_size=4, digits_batch_size=4, seeds=2)
    count = len(data.digits("train")[0])
    if config.digits_batch_size > count:
        raise ValueError(
            f"digits_batch_size={config.digits_batch_size}: there are {count} digits to train"
        )
    return [
        lab.Ensemble(kind, config.seeds) for depth in config.depths for kind in kinds(config, depth)
    ]


def kinds(config: Config, depth: int) -> list[Stack]:
    """Return every kind of network of one depth."""
    wide = (depth, config.width, config.batch_size, depth)
    half = max(depth // 2, LEAST_UNITS)
    narrow = (half, config.digits_width, config.digits_batch_size, depth)
    return [
        Stack(GAUSSIAN, 1, "identity", *wide),
        Stack(GAUSSIAN, 2, "identity", *wide),
        Stack(GAUSSIAN, 1, "none", *wide),
        Stack(DIGITS, 1, "identity", *narrow),
        Stack(DIGITS, 2, "identity", *narrow),
    ]


measure = lab.measure


class Trunk(NamedTuple):
    """What the networks of one kind did, a row for each, input first; and what theory says."""

    kind: Stack
    logs: np.ndarray  # ln(|g_l|^2 / |g_L|^2)
    variances: np.ndarray  # v_l
    exponents: np.ndarray  # fall of ln|g_l|^2 per unit of ln v_l, without the first eighth
    slopes: np.ndarray  # growth of v_l per unit
    theory_logs: np.ndarray  # from the mean variance that was measured at the input on
    theory_variance: np.ndarray
    theory_exponent: float  # of theory_logs, so early


def trunks(columns: lab.Columns) -> list[Trunk]:
    """Return what the networks of every kind did, in the order of the columns."""
    found = lab.by_kind(columns, Stack, "log_ratio", "variance")
    return [_trunk(kind, logs, variances) for kind, (logs, variances) in found]


def _trunk(kind: Stack, logs: np.ndarray, variances: np.ndarray) -> Trunk:
    start, oracles = float(variances[:, 0].mean()), gradflow.oracles
    gains = np.full(kind.units, oracles.batch_norm_gain(kind.batch_size) ** kind.convs)
    if kind.residual:
        gains = oracles.batch_norm_residual_gain(kind.units, kind.convs, start)
    theory_logs = np.append(np.cumsum(np.log(gains)[::-1])[::-1], 0.0)
    theory_variance = oracles.batch_norm_residual_variance(kind.units, start)
    kept = slice(kind.units // LEFT_OUT, None)
    *exponents, theory_exponent = (
        -float(np.polyfit(np.log(theory_variance)[kept], row[kept], 1)[0])
        for row in [*logs, theory_logs]
    )
    slopes = [np.polyfit(np.arange(kind.units + 1), row, 1)[0] for row in variances]
    theory = theory_logs, theory_variance, theory_exponent
    return Trunk(kind, logs, variances, np.array(exponents), np.array(slopes), *theory)


def judge(columns: lab.Columns) -> list[lab.Criterion]:
    """Hold exponents and variances on Gaussian input against theory, and the law everywhere."""
    criteria = []
    for row in trunks(columns):
        kind, name = row.kind, f"{row.kind.data}, {row.kind.label}"
        if kind.residual and kind.data == GAUSSIAN:
            # Theory itself must have come near to its limit by then.
            if abs(row.theory_exponent / kind.limit - 1) < EXPONENT_TOLERANCE / 2:
                claim, mean = f"{name}: exponent of |g|^2 in depth", float(row.exponents.mean())
                criteria.append(lab.within(claim, mean, kind.limit, relative=EXPONENT_TOLERANCE))
            claim, mean = f"{name}: growth of the variance per unit", float(row.slopes.mean())
            slope = gradflow.oracles.CENTRED
            criteria.append(lab.within(claim, mean, slope, relative=SLOPE_TOLERANCE))
        criteria.append(_law(name, row.logs, "power law" if kind.residual else "exponential"))
    return criteria


def _law(name: str, logs: np.ndarray, law: str) -> lab.Criterion:
    fits = [gradflow.growth(row / 2) for row in logs]
    found = sum(fit.law == law for fit in fits)
    power, exponential = (
        np.mean([getattr(fit, f"{kind}_r2") for fit in fits]) for kind in ("power", "exponential")
    )
    return lab.that(
        f"{name}: ln|g_l| is straighter in {'ln(l + 1)' if law == 'power law' else 'l'}",
        found == len(fits),
        f"{found} of {len(fits)}; R² {power:.4f} in ln(l + 1), {exponential:.4f} in l",
        "every network",
    )


def draw(columns: lab.Columns) -> Figure:
    """Draw the gradient against both axes on which it might be straight, and the variance."""
    rows = trunks(columns)
    noise, digits = ([r for r in rows if r.kind.data == kind] for kind in (GAUSSIAN, DIGITS))
    trunk = [row for row in noise if row.kind.residual]
    ratio, variance = "|g_l|² / |g_L|²", "variance v_l that theory expects"
    power: dict[str, Any] = {"xscale": "log", "yscale": "log"}
    straight, of_digits = ([_gradient(row, True) for row in group] for group in (trunk, digits))
    bent, grown = [_gradient(row, False) for row in noise], [_variance(row) for row in trunk]
    shown = [
        plots.Panel("Gaussian noise, a power of depth", variance, ratio, straight, **power),
        plots.Panel("and an exponential, without shortcuts", "unit l", ratio, bent, yscale="log"),
        plots.Panel("Gaussian noise: the trunk", "unit l", "variance v_l", grown),
        plots.Panel("digits", variance, ratio, of_digits, **power),
    ]
    return plots.panels("Gradient with batch norm at initialization", shown, columns=2)


def _gradient(row: Trunk, logarithmic: bool) -> plots.Series:
    some = _some(row.kind.units, logarithmic)
    x = row.theory_variance[some] if logarithmic else some
    return lab.series(row.kind.label, x, row.logs[:, some], row.theory_logs[some], logs=True)


def _variance(row: Trunk) -> plots.Series:
    some = _some(row.kind.units, False)
    return lab.series(row.kind.label, some, row.variances[:, some], row.theory_variance[some])


def _some(units: int, logarithmic: bool) -> np.ndarray:
    """Return a score of positions, evenly spread on a linear or a logarithmic axis."""
    spread = np.geomspace(1, units + 1, 20) - 1 if logarithmic else np.linspace(0, units, 20)
    return np.unique(spread.round().astype(int))


def table(columns: lab.Columns) -> Table:
    """Return exponent and variance of every kind of network beside theory's."""
    heads = ("data", "network", "units", "ratio", "theory", "exponent", "theory")
    seeds = len(set(columns["seed"].tolist()))
    title = f"|g_0|^2 / |g_L|^2 (geometric mean), exponent and growth of v_l over {seeds} networks"
    rows = [_shown(row) for row in trunks(columns)]
    return lab.plain_table(title, (*heads, "v per unit", "theory"), rows)


def _shown(row: Trunk) -> tuple[str, ...]:
    kind, laws = row.kind, [""] * 4
    ratios = (f"{np.exp(log):.3g}" for log in (row.logs[:, 0].mean(), row.theory_logs[0]))
    if kind.residual:
        laws = [
            text
            for values, theory in (
                (row.exponents, kind.limit),
                (row.slopes, gradflow.oracles.CENTRED),
            )
            for text in (f"{values.mean():.3f} ± {values.std(ddof=1):.3f}", f"{theory:.3f}")
        ]
    return (kind.data, kind.label, str(kind.units), *ratios, *laws)
