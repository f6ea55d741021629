"""Does the gradient of a residual network with batch norm grow as a power of depth, and which?

    python -m experiments residual-power-law

Pre-activation units, ``x + branch(x)`` with norm, ReLU, He convolution once or twice in the branch,
on Gaussian noise (wide, fully connected) and on handwritten digits (3x3 convolutions with circular
padding, behind a stem), and the plain twin of the first. Behind unit l are measured
ln(|g_l|^2 / |g_L|^2), of a unit Gaussian cotangent g_L, and v_l, the variance over the batch (and
places) of the trunk, mean over channels.

Theory (``gradflow.oracles.batch_norm_residual_variance``, ``…_gain``, ``…_exponent``), with
b = 1 - 1/pi = 0.682 and m convolutions in a branch: every branch adds b to v_l, and its first norm
divides by v_l, so that a unit's gain is 1 + b^-(m-1) / v_l and |g_0|^2 / |g_L|^2 grows as L to the
power b^-m: 1.467 for m = 1 and 2.152 for m = 2. Without shortcuts it grows exponentially. The
exponent is the slope of ln|g_l|^2 against ln v_l, v_l being theory's from the variance measured at
the input on; without the first eighth of the units, whose gain is not yet one of small steps.

Pass: on Gaussian input the exponents are 1.467 and 2.152 within 5 %, means over networks, if the
networks are deep enough for theory's own gains to have them within 2.5 % (20 and 56 units); v_l
grows by 0.682 a unit within 3 %; in every residual network, on digits too, a straight line through
ln|g_l| explains more against ln(l + 1) than against l (``gradflow.growth``), and in every plain one
less. The tolerances are set by hand. Theory is for wide layers and Gaussian input: the exponents of
digits through narrow ones are shown and not judged, nor is the plain twin's rate.

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
from rich.table import Table

from convjax import data, gradflow, lab, models, nn, plots
from convjax.gradflow import oracles

GAUSSIAN, DIGITS = "gaussian", "digits"
# The share of the first units that does not enter the exponent, and the fewest that hold one.
LEFT_OUT = LEAST_UNITS = 8
POINTS = 20  # of a series, about
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
    """One kind of network, shown beside those of one depth."""

    data: str  # GAUSSIAN or DIGITS
    convs: int  # in a branch
    shortcut: str  # "identity" or "none"
    units: int
    width: int
    batch_size: int
    depth: int  # units of those on GAUSSIAN

    residual = property(lambda self: self.shortcut == "identity")

    # What it is called beside others on the same data.
    label = property(lambda self: f"{'residual' if self.residual else 'plain'}, m = {self.convs}")

    def __str__(self) -> str:
        return f"{self.data}, {self.label}, {self.units} units"

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
    """Return what is measured: every kind of network of every depth."""
    lab.check_least(config, depths=LEAST_UNITS, width=1, digits_width=1)
    lab.check_least(config, batch_size=4, digits_batch_size=4, seeds=2)
    size, count = config.digits_batch_size, len(data.digits("train")[0])
    if size > count:
        raise ValueError(f"digits_batch_size={size}: there are {count} digits to train")
    every = [kind for depth in config.depths for kind in kinds(config, depth)]
    return [lab.Ensemble(kind, config.seeds) for kind in every]


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
    """What the networks of one kind did, and what theory says."""

    kind: Stack
    logs: lab.Mean  # ln(|g_l|^2 / |g_L|^2), input first; theory from the mean v_0 on
    variance: lab.Mean  # v_l
    # Of those with shortcuts:
    exponent: lab.Mean | None  # fall of ln|g_l|^2 per unit of ln v_l, without the first eighth
    slope: lab.Mean | None  # growth of v_l per unit
    early: float  # the exponent that theory's own gains have, so early


def trunks(columns: lab.Columns) -> list[Trunk]:
    """Return what the networks of every kind did, in the order of the columns."""
    found = lab.by_kind(columns, Stack, "log_ratio", "variance")
    return [_trunk(kind, logs, variances) for kind, (logs, variances) in found]


def _trunk(kind: Stack, logs: np.ndarray, variances: np.ndarray) -> Trunk:
    start = float(variances[:, 0].mean())
    gains = np.full(kind.units, oracles.batch_norm_gain(kind.batch_size) ** kind.convs)
    if kind.residual:
        gains = oracles.batch_norm_residual_gain(kind.units, kind.convs, start)
    theory = np.append(np.cumsum(np.log(gains)[::-1])[::-1], 0.0)
    variance = oracles.batch_norm_residual_variance(kind.units, start)
    kept = slice(kind.units // LEFT_OUT, None)
    *exponents, early = (
        -float(np.polyfit(np.log(variance)[kept], row[kept], 1)[0]) for row in [*logs, theory]
    )
    slopes = [np.polyfit(np.arange(kind.units + 1), row, 1)[0] for row in variances]
    trunk = (lab.Mean(kind, logs, theory), lab.Mean(kind, variances, variance))
    if not kind.residual:
        return Trunk(kind, *trunk, None, None, early)
    limit = oracles.batch_norm_residual_exponent(kind.convs)
    exponent = lab.Mean(kind, np.array(exponents), limit)
    return Trunk(kind, *trunk, exponent, lab.Mean(kind, np.array(slopes), oracles.CENTRED), early)


def judge(columns: lab.Columns) -> list[lab.Criterion]:
    """Hold exponents and variances on Gaussian input against theory, and the law everywhere."""
    criteria = []
    for row in trunks(columns):
        kind, name = row.kind, f"{row.kind.data}, {row.kind.label}"
        if row.exponent and row.slope and kind.data == GAUSSIAN:
            # Theory itself must have come near to its limit by then.
            if abs(row.early / row.exponent.expected - 1) < EXPONENT_TOLERANCE / 2:
                claim = f"{name}: exponent of |g|^2 in depth"
                criteria += lab.worst(claim, [row.exponent], relative=EXPONENT_TOLERANCE)
            claim = f"{name}: growth of the variance per unit"
            criteria += lab.worst(claim, [row.slope], relative=SLOPE_TOLERANCE)
        criteria.append(_law(name, row))
    return criteria


def _law(name: str, row: Trunk) -> lab.Criterion:
    law = "power law" if row.kind.residual else "exponential"
    fits = [gradflow.growth(logs / 2) for logs in row.logs.values]
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


def draw(columns: lab.Columns) -> plots.Sheet:
    """Draw the gradient against both axes on which it might be straight, and the variance."""
    noise, digits = lab.grouped(trunks(columns), "kind.data").values()
    trunk = [row for row in noise if row.kind.residual]
    ratio, variance = "|g_l|² / |g_L|²", "variance v_l that theory expects"
    power: dict[str, Any] = {"xscale": "log", "yscale": "log"}
    straight, of_digits = ([_power_law(row) for row in group] for group in (trunk, digits))
    bent = [_along(row, row.logs, logs=True) for row in noise]
    grown = [_along(row, row.variance) for row in trunk]
    shown = [
        plots.Panel("Gaussian noise, a power of depth", variance, ratio, straight, **power),
        plots.Panel("and an exponential, without shortcuts", "unit l", ratio, bent, yscale="log"),
        plots.Panel("Gaussian noise: the trunk", "unit l", "variance v_l", grown),
        plots.Panel("digits", variance, ratio, of_digits, **power),
    ]
    return plots.panels("Gradient with batch norm at initialization", shown, columns=2)


def _power_law(row: Trunk) -> plots.Series:
    some = np.unique(np.geomspace(1, row.kind.units + 1, POINTS).round().astype(int)) - 1
    x = row.variance.expected[some]
    return lab.series(row.kind.label, x, row.logs.at(some), logs=True)


def _along(row: Trunk, found: lab.Mean, *, logs: bool = False) -> plots.Series:
    some = np.unique(np.linspace(0, row.kind.units, POINTS).round().astype(int))
    return lab.series(row.kind.label, some, found.at(some), logs=logs)


def table(columns: lab.Columns) -> Table:
    """Return exponent and variance of every kind of network beside theory's."""
    rows = trunks(columns)
    seeds = len(rows[0].logs.values)
    return lab.formatted_table(
        f"|g_0|^2 / |g_L|^2 (geometric mean), exponent and growth of v_l over {seeds} networks",
        rows,
        ("data", "kind.data"),
        ("network", "kind.label"),
        ("units", "kind.units"),
        ("ratio", lambda row: f"{np.exp(row.logs.mean[0]):.3g}"),
        ("theory", lambda row: f"{np.exp(row.logs.expected[0]):.3g}"),
        ("exponent", lambda row: _with_deviation(row.exponent)),
        ("theory", "exponent.expected:.3f"),
        ("v per unit", lambda row: _with_deviation(row.slope)),
        ("theory", "slope.expected:.3f"),
    )


def _with_deviation(found: lab.Mean | None) -> str:
    return f"{found.mean:.3f} ± {found.deviation:.3f}" if found else ""
