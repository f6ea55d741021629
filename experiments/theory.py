"""How well does mean-field theory predict the gradient at every unit, and its scatter?

    python -m experiments theory

Handwritten digits go through plain and residual stacks with and without batch norm, initialised
anew for every seed; a unit Gaussian cotangent is injected at the output, and the norm of the
gradient is measured at every unit by ``gradflow.profile``. Beside it stands what
``gradflow.predict`` expects of the same expression: the typical norm, and how far random
initializations of this width scatter.

Passes where ``gradflow.compare`` finds no unit that departs, and where at least 85 % of the points
lie in the band of two standard deviations (and of the slack that theory claims for batch norm);
of a normal variable 95 % do.

Takes about 40 s of processor time, nearly all of it compilation.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.table import Table

from convjax import data, gradflow, lab, models, nn, plots

NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {"shortcut": "none", "norm": "none"},
    "residual": {"shortcut": "identity", "norm": "none"},
    "plain, batch norm": {"shortcut": "none", "norm": "batch"},
    "residual, batch norm": {"shortcut": "identity", "norm": "batch"},
}
WITHIN = 0.85

APART = ("depth",)


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options; every network is measured at every depth."""

    networks: tuple[str, ...] = tuple(NETWORKS)
    depths: tuple[int, ...] = (54,)
    """Convolutions in the stack, two to a unit; each depth is judged and drawn by itself."""
    width: int = 32
    """Channels."""
    seeds: int = 16
    """Random initializations of each network."""
    batch_size: int = 16
    """Images in the batch."""
    padding: Literal["CIRCULAR", "SAME"] = "CIRCULAR"
    """Of the stack's convolutions; zero padding (SAME) alone drains 8 % of the energy a layer."""
    data: Literal["digits", "gaussian"] = "digits"
    """Handwritten digits of 8x8 pixels, or noise of that shape."""


@dataclasses.dataclass(frozen=True)
class Stack:
    """One of NETWORKS at one depth."""

    network: str
    depth: int

    def __str__(self) -> str:
        return f"{self.network}, {self.depth} layers"


@dataclasses.dataclass(frozen=True)
class Networks(lab.Ensemble):
    """A network, how often it is initialised, and what goes through it: a cell of the study."""

    width: int = 0
    padding: str = ""
    data: str = ""

    def make(self, rngs: nnx.Rngs) -> nn.Chain:
        """Return one: stem and stack."""
        stem = nn.Conv(1, self.width, (3, 3), use_bias=False, kernel_init="he", rngs=rngs)
        which = {**NETWORKS[self.kind.network], "padding": self.padding}
        body = models.deep_stack(self.kind.depth, self.width, rngs=rngs, **which)
        return nn.Chain(stem=stem, body=body)


def cells(config: Config) -> list[Networks]:
    """Return what is measured: every network at every depth."""
    lab.check_known(config, networks=NETWORKS)
    lab.check_least(config, depths=4, width=2, seeds=2, batch_size=4)
    if any(depth % 2 for depth in config.depths):
        raise ValueError(f"depths={list(config.depths)} must be even: a unit has two convolutions")
    same = (config.seeds, config.batch_size, config.width, config.padding, config.data)
    kinds = [Stack(name, depth) for depth in config.depths for name in config.networks]
    return [Networks(kind, *same) for kind in kinds]


def measure(networks: Networks) -> lab.Columns:
    """Return one row for every seed and unit, with what is expected beside it."""
    kind, seeds = networks.kind, networks.seeds
    x = jnp.asarray(getattr(data, networks.data)()[0][: networks.batch_size])

    def profile(key: jax.Array) -> gradflow.Profile:
        weights, cotangent = jax.random.split(key)
        net = networks.make(nnx.Rngs(weights))
        return gradflow.profile(net, x, cotangent=cotangent, train=True)

    measured = lab.map_seeds(profile, seeds, keys=jax.random.split(jax.random.key(0), seeds))
    abstract = nnx.eval_shape(lambda: networks.make(nnx.Rngs(0)))
    prediction = gradflow.predict(abstract, np.asarray(x), train=True)
    comparison = gradflow.compare(measured, prediction)
    found = measured.table()
    logs = found["gradient_log_norm"].reshape(seeds, -1)
    at = found["path"][: logs.shape[1]].tolist().index
    units = ["stem", *(f"body/{i}" for i in range(kind.depth // 2))]
    expected = [prediction[unit] for unit in units]
    return lab.as_rows(
        kind,
        gradient_log_norm=logs[:, [*map(at, units)]] - logs[:, [at("")]],
        expected_log_norm=[one.gradient_log_norm for one in expected],
        scatter=[one.gradient_scatter for one in expected],
        slack=[one.gradient_slack for one in expected],
        units=len(comparison.units),
        largest_z=np.nanmax(np.abs([(u.activation_z, u.gradient_z) for u in comparison.units])),
        threshold=comparison.threshold,
        first_departing=comparison.first or "",
    )


class Found(NamedTuple):
    """What was measured of one network, and what is expected: columns of the table."""

    kind: Stack
    gradient_log_norm: np.ndarray  # relative to the output's: seeds by units, the stem first
    expected_log_norm: np.ndarray
    scatter: np.ndarray
    slack: np.ndarray
    largest_z: np.ndarray  # the same everywhere, as what follows
    threshold: np.ndarray
    units: np.ndarray
    first_departing: np.ndarray

    # Half the width of the band: two standard deviations and the slack.
    band = property(lambda self: 2 * self.scatter + self.slack)

    @property
    def inside(self) -> np.ndarray:
        """Which points lie in it."""
        return np.abs(self.gradient_log_norm - self.expected_log_norm) <= self.band + 1e-6


def found(columns: lab.Columns) -> list[Found]:
    """Return every network, in the order of the columns."""
    every = lab.by_kind(columns, Stack, *Found._fields[1:])
    return [Found(kind, *values) for kind, values in every]


def judge(columns: lab.Columns) -> list[lab.Criterion]:
    """Ask that no unit departs, and that points lie in the band as often as they should."""
    criteria = []
    for one in found(columns):
        name, share = one.kind.network, float(one.inside[:, :-1].mean())
        largest, threshold, units, departing = (values[0, 0] for values in one[-4:])
        criteria += [
            lab.that(
                f"{name}: no unit departs from theory",
                largest <= threshold,
                f"largest |z| {largest:.1f}{f' at {departing}' if departing else ''}",
                f"at most {threshold:.1f} of {units} units",
            ),
            lab.that(
                f"{name}: points lie in the band of two standard deviations",
                share >= WITHIN,
                f"{share:.0%}",
                f"at least {WITHIN:.0%} (a normal variable: 95%)",
            ),
        ]
    return criteria


def draw(columns: lab.Columns) -> plots.Sheet:
    """Draw measured points over expected bands, one panel for each network."""
    x, y = "unit (0: the stem's output)", "gradient norm / that at the output"
    panels = []
    for one in found(columns):
        logs, at = one.gradient_log_norm, np.arange(one.scatter.shape[1])
        band = (np.exp(one.expected_log_norm + sign * one.band)[0] for sign in (0, -1, 1))
        theory = "mean-field theory, two standard deviations"
        shown = [plots.Series("one random initialization", at, np.exp(log)) for log in logs]
        shown.append(plots.Series(theory, at, None, None, None, *band))
        panels.append(plots.Panel(one.kind.network, x, y, shown, yscale="log", level=1.0))
    title = "Gradient at initialization: measured, and as expected"
    return plots.panels(title, panels, columns=4)


def table(columns: lab.Columns) -> Table:
    """Return the gradient at the stem, measured and expected, one row for each network."""
    return lab.formatted_table(
        "Gradient norm at the stem over that at the output",
        found(columns),
        ("network", "kind.network"),
        ("log ratio", lambda one: f"{one.gradient_log_norm[:, 0].mean():.4g}"),
        ("expected", lambda one: f"{one.expected_log_norm[0, 0]:.4g}"),
        ("its scatter", lambda one: f"{one.gradient_log_norm[:, 0].std(ddof=1):.4g}"),
        ("expected", lambda one: f"{one.scatter[0, 0]:.4g}"),
        ("in the band", lambda one: f"{one.inside.mean():.0%}"),
    )
