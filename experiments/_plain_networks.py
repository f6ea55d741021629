"""Many plain ReLU networks: their gradients by initialisation and width, drawn and tabled."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table
from scipy import stats

from convjax import gradflow, lab, plots
from convjax.lab import Columns


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the networks of one initialisation and width did.

    Attributes:
      init: name of the initialiser.
      scale: variance of a weight times its fan-in.
      width: features of every layer.
      logs: ln|g|^2, a row for each number of layers travelled back, a column for each network.
    """

    init: str
    scale: float
    width: int
    logs: np.ndarray

    @property
    def depth(self) -> int:
        """Layers."""
        return len(self.logs) - 1

    @property
    def slope(self) -> float:
        """Change of ln|g|^2 per layer travelled back, mean over networks."""
        return float(self.logs[-1].mean()) / self.depth

    @property
    def error(self) -> float:
        """Standard error of the slope."""
        return float(self.logs[-1].std(ddof=1)) / self.depth / math.sqrt(self.logs.shape[1])

    @property
    def variance(self) -> float:
        """Variance over networks of ln|g|^2 before all layers."""
        return float(self.logs[-1].var(ddof=1))

    def expected(self, layers: int) -> tuple[float, float]:
        """Return mean and variance of ln|g|^2 so many layers back, by theory."""
        mean, variance = gradflow.oracles.log_spread(layers, self.width)
        return layers * self.log_gain + mean, variance

    @property
    def log_gain(self) -> float:
        """Logarithm of the gain that theory gives a layer in the mean."""
        return math.log(gradflow.oracles.relu_gain(self.scale))

    @property
    def away(self) -> float:
        """How many standard errors the slope is away from theory's."""
        return (self.slope - self.expected(self.depth)[0] / self.depth) / self.error

    @property
    def ratio(self) -> float:
        """Measured over expected variance."""
        return self.variance / self.expected(self.depth)[1]


def summaries(columns: Columns) -> list[Summary]:
    """Return a summary for every initialisation and width, in the order of the columns."""
    kinds = dict.fromkeys(zip(columns["init"].tolist(), columns["width"].tolist(), strict=True))
    return [_summary(columns, init, width) for init, width in kinds]


def _summary(columns: Columns, init: str, width: int) -> Summary:
    here = (columns["init"] == init) & (columns["width"] == width)
    layers = columns["layers"][here]
    order = np.lexsort((columns["seed"][here], layers))
    logs = columns["log_square"][here][order].astype(np.float64)
    return Summary(
        init, float(columns["scale"][here][0]), width, logs.reshape(layers.max() + 1, -1)
    )


def draw(columns: Columns) -> Figure:
    """Draw mean, mean beside the gain, variance, and the normal quantiles of ln|g|^2."""
    rows = summaries(columns)
    widths = sorted({row.width for row in rows})
    narrow = [row for row in rows if row.width == widths[0]]
    at, back = f"width {widths[0]}", "layers l travelled back"
    shown = [
        plots.Panel(
            f"mean ± s.d., {at}",
            back,
            "ln |g|²",
            [_against_layers(row, 0.0) for row in narrow],
        ),
        plots.Panel(
            f"the same beside (scale/2)^l, {at}",
            back,
            "ln (|g|² / (scale/2)^l)",
            [_against_layers(row, row.log_gain) for row in narrow],
            level=0.0,
        ),
        plots.Panel(
            f"variance, widths {', '.join(map(str, widths))}",
            "l / width",
            "variance of ln |g|²",
            [_variances([c for c in rows if c.init == row.init]) for row in narrow],
        ),
        plots.Panel(
            f"is it normal? all layers, {at}",
            "quantile of the unit normal",
            "quantile of ln |g|², in s.d. of theory",
            [_quantiles(row) for row in narrow],
        ),
    ]
    return plots.panels("Gradient of plain ReLU networks at birth", shown, columns=2)


def _some(count: int, most: int) -> np.ndarray:
    """Return so many of 0, 1, …, both ends among them."""
    return np.unique(np.linspace(0, count - 1, most).astype(int))


def _against_layers(row: Summary, per_layer: float) -> plots.Series:
    layers = _some(len(row.logs), 12)
    mean = row.logs.mean(1)[layers] - layers * per_layer
    deviation = row.logs.std(1, ddof=1)[layers]
    theory, variance = np.transpose([row.expected(int(count)) for count in layers])
    theory, spread = theory - layers * per_layer, np.sqrt(variance)
    whiskers, band = (mean - deviation, mean + deviation), (theory - spread, theory + spread)
    return plots.Series(row.init, layers, mean, *whiskers, theory, *band)


def _variances(rows: Sequence[Summary]) -> plots.Series:
    layers = [_some(len(row.logs), 9) for row in rows]
    x = np.concatenate([some / row.width for some, row in zip(layers, rows, strict=True)])
    found = [row.logs.var(1, ddof=1)[some] for some, row in zip(layers, rows, strict=True)]
    order = np.argsort(x)
    per_layer = gradflow.oracles.log_spread(1, 1)[1]
    return plots.Series(
        rows[0].init, x[order], np.concatenate(found)[order], expected=per_layer * x[order]
    )


def _quantiles(row: Summary) -> plots.Series:
    mean, variance = row.expected(row.depth)
    levels = np.linspace(0.0, 1.0, 22)[1:-1]
    normal = stats.norm.ppf(levels)
    found = (np.quantile(row.logs[-1], levels) - mean) / math.sqrt(variance)
    return plots.Series(row.init, normal, found, expected=normal)


def table(columns: Columns) -> Table:
    """Return slope and variance of every initialisation and width beside theory's."""
    rows = []
    for row in summaries(columns):
        mean, variance = row.expected(row.depth)
        rows.append(
            (
                *(row.init, row.scale, row.width),
                *(f"{v:.5f}" for v in (row.slope, row.error, mean / row.depth)),
                f"{row.away:+.2f}",
                *(f"{v:.3f}" for v in (row.variance, variance, row.ratio)),
            )
        )
    depth, seeds = int(columns["layers"].max()), len(set(columns["seed"].tolist()))
    title = f"ln|g|^2 per layer, and its variance after {depth} layers, over {seeds} networks each"
    heads = ("init", "scale", "width", "slope", "s.e.", "theory", "away (s.e.)", "variance")
    return lab.plain_table(title, (*heads, "theory", "ratio"), rows)
