"""How well does mean-field theory predict the gradient at every unit, and its scatter?

    python -m experiments theory

Handwritten digits go through plain and residual stacks with and without batch norm, drawn anew for
every seed; a unit Gaussian cotangent is injected at the output, and the gradient's norm measured at
every unit by ``gradflow.profile``. Beside it stands what ``gradflow.predict`` expects of the same
expression: the typical norm, and the scatter over draws of the weights that this width leaves.

Passes where ``gradflow.compare`` finds no unit that departs, and where at least 85 % of the points
lie in the band of two standard deviations (and of the slack that theory claims for batch norm);
of a normal variable 95 % do.

Known to fall short: over many residual units the scatter adds up to more than is expected (0.42
against 0.27 at 54 layers), because a shortcut keeps the same gates closed from unit to unit, and
theory takes the units for independent.

Takes about 40 s of processor time, nearly all of it compilation.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from rich.table import Table

from convjax import data, gradflow, lab, models, nn, plots, study
from convjax.lab import Columns, Criterion

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
    """Which of the networks."""
    depths: tuple[int, ...] = (54,)
    """Convolutions in the stack, two to a unit; each depth is judged and drawn by itself."""
    width: int = 32
    """Channels."""
    seeds: int = 16
    """Draws of the weights."""
    batch_size: int = 16
    """Images in the batch."""
    padding: Literal["CIRCULAR", "SAME"] = "CIRCULAR"
    """Of the stack's convolutions; zero padding (SAME) alone drains 8 % of the energy a layer."""
    data: Literal["digits", "gaussian"] = "digits"
    """Handwritten digits of 8x8 pixels, or noise of that shape."""
    out: Path = Path("results/theory")
    """Folder for the table and the figure; it is made if it is not there."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A network, how often it is drawn, and what goes through it: a cell of the study.

    Attributes:
      network: one of NETWORKS.
      depth: convolutions in the stack.
      width: channels.
      seeds: draws of the weights.
      batch_size: images.
      padding: of the stack's convolutions.
      data: "digits" or "gaussian".
    """

    network: str
    depth: int
    width: int
    seeds: int
    batch_size: int
    padding: Literal["CIRCULAR", "SAME"]
    data: str

    def __str__(self) -> str:
        return f"{self.network}, {self.depth} layers"

    def make(self, rngs: nnx.Rngs) -> nn.Chain:
        """Draw one: stem and stack."""
        return nn.Chain(
            stem=nn.Conv(1, self.width, (3, 3), use_bias=False, kernel_init="he", rngs=rngs),
            body=models.deep_stack(
                self.depth,
                self.width,
                padding=self.padding,
                rngs=rngs,
                **NETWORKS[self.network],
            ),
        )


def cells(config: Config) -> list[Drawn]:
    """Return what is measured: every network at every depth.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    same = (config.width, config.seeds, config.batch_size, config.padding, config.data)
    return [Drawn(name, depth, *same) for depth in config.depths for name in config.networks]


def check(config: Config) -> None:
    """Refuse what cannot be done."""
    for name in config.networks:
        if name not in NETWORKS:
            raise ValueError(lab.unknown("network", name, NETWORKS))
    if not config.networks:
        raise ValueError(f"networks is empty; choose from {', '.join(NETWORKS)}.")
    if not config.depths:
        raise ValueError("depths is empty; give at least one, an even number from 4.")
    for depth in config.depths:
        if depth < 4 or depth % 2:
            raise ValueError(f"depth = {depth} must be an even number, at least 4.")
    for option in ("networks", "depths"):
        value = getattr(config, option)
        if len(set(value)) < len(value):
            raise ValueError(f"{option} = {list(value)} names one value twice.")
    for option, least in (("width", 2), ("seeds", 2), ("batch_size", 4)):
        if getattr(config, option) < least:
            raise ValueError(
                f"{option} = {getattr(config, option)} is too small; it must be at least {least}."
            )


def measure(drawn: Drawn) -> Columns:
    """Return one row for every seed and unit, with what is expected beside it."""
    source = {"digits": data.digits, "gaussian": data.gaussian}[drawn.data]
    x = jnp.asarray(source()[0][: drawn.batch_size])

    def profile(key: jax.Array) -> gradflow.Profile:
        weights, cotangent = jax.random.split(key)
        net = drawn.make(nnx.Rngs(weights))
        return gradflow.profile(net, x, cotangent=cotangent, train=True)

    keys = jax.random.split(jax.random.key(0), drawn.seeds)
    measured = jax.jit(lambda keys: jax.lax.map(profile, keys))(keys)
    abstract = nnx.eval_shape(lambda: drawn.make(nnx.Rngs(0)))
    prediction = gradflow.predict(abstract, np.asarray(x), train=True)
    comparison = gradflow.compare(measured, prediction)
    paths = ["stem", *(f"body/{i}" for i in range(drawn.depth // 2))]
    table = measured.table()
    rows = len(table["path"]) // drawn.seeds
    at = {path: i for i, path in enumerate(table["path"][:rows].tolist())}
    chosen = [at[path] for path in paths]
    logs = table["gradient_log_norm"].reshape(drawn.seeds, rows)
    relative = logs[:, chosen] - logs[:, [at[""]]]
    expected = [prediction[path] for path in paths]
    worst = max(
        abs(z)
        for unit in comparison.units
        for z in (unit.activation_z, unit.gradient_z)
        if not np.isnan(z)
    )

    def each(values: Sequence[float]) -> np.ndarray:
        return np.tile(np.asarray(values, float), drawn.seeds)

    count = relative.size
    return {
        "network": np.full(count, drawn.network),
        "depth": np.full(count, drawn.depth),
        "seed": np.repeat(np.arange(drawn.seeds), len(paths)),
        "position": np.tile(np.arange(len(paths)), drawn.seeds),
        "gradient_log_norm": relative.ravel(),
        "expected_log_norm": each([unit.gradient_log_norm for unit in expected]),
        "scatter": each([unit.gradient_scatter for unit in expected]),
        "slack": each([unit.gradient_slack for unit in expected]),
        "units": np.full(count, len(comparison.units)),
        "largest_z": np.full(count, worst),
        "threshold": np.full(count, comparison.threshold),
        "first_departing": np.full(count, comparison.first or ""),
    }


def inside(columns: Columns) -> np.ndarray:
    """Return which points lie in the band of two standard deviations and the slack."""
    off = np.abs(columns["gradient_log_norm"] - columns["expected_log_norm"])
    return off <= 2 * columns["scatter"] + columns["slack"] + 1e-6


def judge(columns: Columns) -> list[Criterion]:
    """Ask that no unit departs, and that points lie in the band as often as they should."""
    criteria = []
    for key, rows in study.groups(columns, ["network"]):
        name, largest, threshold = key["network"], rows["largest_z"][0], rows["threshold"][0]
        departing = rows["first_departing"][0]
        criteria.append(
            lab.that(
                f"{name}: no unit departs from theory",
                largest <= threshold,
                f"largest |z| {largest:.1f}{f' at {departing}' if departing else ''}",
                f"at most {threshold:.1f} of {rows['units'][0]} units",
            )
        )
        before_last = {n: c[rows["position"] < rows["position"].max()] for n, c in rows.items()}
        share = float(inside(before_last).mean())
        criteria.append(
            lab.that(
                f"{name}: points lie in the band of two standard deviations",
                share >= WITHIN,
                f"{share:.0%}",
                f"at least {WITHIN:.0%} (a normal variable: 95%)",
            )
        )
    return criteria


def draw(columns: Columns) -> Figure:
    """Draw measured points over expected bands, one panel for each network."""
    panels = []
    for key, rows in study.groups(columns, ["network"]):
        position = np.unique(rows["position"])
        of = {
            name: rows[name].reshape(-1, len(position))
            for name in ("gradient_log_norm", "expected_log_norm", "scatter", "slack")
        }
        middle, wide = of["expected_log_norm"][0], 2 * of["scatter"][0] + of["slack"][0]
        seeds = [
            plots.Series("one draw of the weights", position, y=np.exp(log))
            for log in of["gradient_log_norm"]
        ]
        theory = plots.Series(
            "mean-field theory, two standard deviations",
            position,
            expected=np.exp(middle),
            expected_low=np.exp(middle - wide),
            expected_high=np.exp(middle + wide),
        )
        panels.append(
            plots.Panel(
                key["network"],
                "unit (0: the stem's output)",
                "gradient norm / that at the output",
                [*seeds, theory],
                yscale="log",
                level=1.0,
            )
        )
    return plots.panels("Gradient at birth: measured, and as expected", panels, columns=4)


def table(columns: Columns) -> Table:
    """Return the gradient at the stem, measured and expected, one row for each network."""
    rows = []
    for key, found in study.groups(columns, ["network"]):
        first = {name: column[found["position"] == 0] for name, column in found.items()}
        log = first["gradient_log_norm"]
        rows.append(
            (
                key["network"],
                float(log.mean()),
                float(first["expected_log_norm"][0]),
                float(log.std(ddof=1)),
                float(first["scatter"][0]),
                f"{inside(found).mean():.0%}",
            )
        )
    heads = ("network", "log ratio", "expected", "its scatter", "expected", "in the band")
    return lab.plain_table("Gradient norm at the stem over that at the output", heads, rows)
