"""Many plain ReLU networks: their gradients by initialisation and width, drawn and tabled."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table
from scipy import stats

from convjax import gradflow, plots
from experiments import _outcome
from experiments._outcome import Columns


@dataclasses.dataclass(frozen=True)
class Cell:
    """The networks of one initialisation and width.

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


def cells_of(columns: Columns) -> list[Cell]:
    """Return every initialisation and width, in the order of the columns."""
    kinds = dict.fromkeys(zip(columns["init"].tolist(), columns["width"].tolist(), strict=True))
    return [_cell(columns, init, width) for init, width in kinds]


def _cell(columns: Columns, init: str, width: int) -> Cell:
    here = (columns["init"] == init) & (columns["width"] == width)
    layers = columns["layers"][here]
    order = np.lexsort((columns["seed"][here], layers))
    logs = columns["log_square"][here][order].astype(np.float64)
    return Cell(init, float(columns["scale"][here][0]), width, logs.reshape(layers.max() + 1, -1))


def draw(columns: Columns) -> Figure:
    """Draw mean, mean beside the gain, variance, and the normal quantiles of ln|g|^2."""
    cells = cells_of(columns)
    widths = sorted({cell.width for cell in cells})
    narrow = [cell for cell in cells if cell.width == widths[0]]
    at, back = f"width {widths[0]}", "layers l travelled back"
    shown = [
        plots.Panel(
            f"mean ± s.d., {at}",
            back,
            "ln |g|²",
            [_against_layers(cell, 0.0) for cell in narrow],
        ),
        plots.Panel(
            f"the same beside (scale/2)^l, {at}",
            back,
            "ln (|g|² / (scale/2)^l)",
            [_against_layers(cell, cell.log_gain) for cell in narrow],
            level=0.0,
        ),
        plots.Panel(
            f"variance, widths {', '.join(map(str, widths))}",
            "l / width",
            "variance of ln |g|²",
            [_variances([c for c in cells if c.init == cell.init]) for cell in narrow],
        ),
        plots.Panel(
            f"is it normal? all layers, {at}",
            "quantile of the unit normal",
            "quantile of ln |g|², in s.d. of theory",
            [_quantiles(cell) for cell in narrow],
        ),
    ]
    return plots.panels("Gradient of plain ReLU networks at birth", shown, columns=2)


def _some(count: int, most: int) -> np.ndarray:
    """Return so many of 0, 1, …, both ends among them."""
    return np.unique(np.linspace(0, count - 1, most).astype(int))


def _against_layers(cell: Cell, per_layer: float) -> plots.Series:
    layers = _some(len(cell.logs), 12)
    mean = cell.logs.mean(1)[layers] - layers * per_layer
    deviation = cell.logs.std(1, ddof=1)[layers]
    theory, variance = np.transpose([cell.expected(int(count)) for count in layers])
    theory, spread = theory - layers * per_layer, np.sqrt(variance)
    whiskers, band = (mean - deviation, mean + deviation), (theory - spread, theory + spread)
    return plots.Series(cell.init, layers, mean, *whiskers, theory, *band)


def _variances(cells: Sequence[Cell]) -> plots.Series:
    layers = [_some(len(cell.logs), 9) for cell in cells]
    x = np.concatenate([some / cell.width for some, cell in zip(layers, cells, strict=True)])
    found = [cell.logs.var(1, ddof=1)[some] for some, cell in zip(layers, cells, strict=True)]
    order = np.argsort(x)
    per_layer = gradflow.oracles.log_spread(1, 1)[1]
    return plots.Series(
        cells[0].init, x[order], np.concatenate(found)[order], expected=per_layer * x[order]
    )


def _quantiles(cell: Cell) -> plots.Series:
    mean, variance = cell.expected(cell.depth)
    levels = np.linspace(0.0, 1.0, 22)[1:-1]
    normal = stats.norm.ppf(levels)
    found = (np.quantile(cell.logs[-1], levels) - mean) / math.sqrt(variance)
    return plots.Series(cell.init, normal, found, expected=normal)


def table(columns: Columns) -> Table:
    """Return slope and variance of every initialisation and width beside theory's."""
    rows = []
    for cell in cells_of(columns):
        mean, variance = cell.expected(cell.depth)
        rows.append(
            (
                *(cell.init, cell.scale, cell.width),
                *(f"{v:.5f}" for v in (cell.slope, cell.error, mean / cell.depth)),
                f"{cell.away:+.2f}",
                *(f"{v:.3f}" for v in (cell.variance, variance, cell.ratio)),
            )
        )
    depth, seeds = int(columns["layers"].max()), len(set(columns["seed"].tolist()))
    title = f"ln|g|^2 per layer, and its variance after {depth} layers, over {seeds} networks each"
    heads = ("init", "scale", "width", "slope", "s.e.", "theory", "away (s.e.)", "variance")
    return _outcome.plain_table(title, (*heads, "theory", "ratio"), rows)
