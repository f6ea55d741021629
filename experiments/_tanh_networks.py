"""Many tanh networks: gain and variance by weight variance, what theory says, drawn and tabled."""

import dataclasses
import math

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import gradflow, lab, plots
from convjax.lab import Columns, digits


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


def chi(weight_variance: float, bias_variance: float) -> float:
    """Return the gain that theory gives a layer of tanh."""
    return gradflow.oracles.chi("tanh", weight_variance, bias_variance)


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
    return lab.plain_table(title, (*heads, "variance", "q*"), rows)
