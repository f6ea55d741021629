"""The figure and the table of shattering."""

import math

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import lab, plots
from convjax.lab import Columns
from experiments._shattering_networks import LINE, PAIR, Cell, of

SHOWN_LAGS = 32


def draw(columns: Columns) -> Figure:
    """Draw the pairs by depth, the autocorrelation by lag, and that of neighbours by depth."""
    pairs, lines = of(columns, PAIR), of(columns, LINE)
    kinds = dict.fromkeys(cell.kind for cell in pairs)
    by_depth = [_by_depth({c: v for c, v in pairs.items() if c.kind == kind}) for kind in kinds]
    by_depth += [_orthogonal(pairs)] if "residual" in kinds else []
    neighbours = [
        _at_neighbours(lines, kind) for kind in dict.fromkeys(cell.kind for cell in lines)
    ]
    depths = sorted({cell.depth for cell in lines})
    title, layers = "pairs of orthogonal inputs, ± 3 s.e.", "layers"
    shown = [
        plots.Panel(title, layers, "correlation", by_depth, yscale="log"),
        plots.Panel(
            "lines, batch norm: neighbours", layers, "autocorrelation", neighbours, level=0.0
        ),
    ]
    for depth in sorted({depths[len(depths) // 3], depths[-1]}):
        of_depth = [_by_lag(cell, values) for cell, values in lines.items() if cell.depth == depth]
        title, lag = f"lines, batch norm: {depth} layers", "lag in points"
        shown.append(plots.Panel(title, lag, "autocorrelation", of_depth, level=0.0))
    return plots.panels("How alike the gradients at two inputs are, at birth", shown, columns=2)


def _by_depth(pairs: dict[Cell, np.ndarray]) -> plots.Series:
    means, errors, theory = (
        np.array(values)
        for values in zip(
            *((found.mean(), _error(found), cell.expected) for cell, found in pairs.items()),
            strict=True,
        )
    )
    depths = [cell.depth for cell in pairs]
    # A logarithmic axis has no place for a whisker's end below 0.
    low = np.maximum(means - 3 * errors, theory / 100)
    return plots.Series(next(iter(pairs)).kind, depths, means, low, means + 3 * errors, theory)


def _orthogonal(pairs: dict[Cell, np.ndarray]) -> plots.Series:
    cells = [cell for cell in pairs if cell.kind == "residual"]
    depths, values = [c.depth for c in cells], [c.orthogonal for c in cells]
    return plots.Series("(3/4)^L", depths, expected=values)


def _at_neighbours(lines: dict[Cell, np.ndarray], kind: str) -> plots.Series:
    found = {cell: values[:, 1] for cell, values in lines.items() if cell.kind == kind}
    ends = [(values.mean(), values.min(), values.max()) for values in found.values()]
    return plots.Series(kind, [c.depth for c in found], *np.transpose(ends), joined=True)


def _by_lag(cell: Cell, values: np.ndarray) -> plots.Series:
    some = np.arange(min(values.shape[1], SHOWN_LAGS))
    ends = values.mean(0)[some], values.min(0)[some], values.max(0)[some]
    return plots.Series(cell.kind, some, *ends, joined=True)


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def table(columns: Columns) -> Table:
    """Return the correlation of pairs beside theory's, and of neighbours along lines."""
    rows = []
    for cell, values in of(columns, PAIR).items():
        mean = float(values.mean())
        theory = (f"{cell.expected:.4f}", f"{mean / cell.expected - 1:+.1%}")
        orthogonal = f"{cell.orthogonal:.4f}"
        shown = (f"{mean:.4f}", f"{_error(values):.4f}")
        rows.append((PAIR, cell.label, str(cell.depth), *shown, *theory, orthogonal, ""))
    for cell, values in of(columns, LINE).items():
        shown = (f"{values[:, 1].mean():.4f}", f"{_error(values[:, 1]):.4f}")
        half = f"{_half(values.mean(0)):.1f}"
        rows.append((LINE, cell.label, str(cell.depth), *shown, "", "", "", half))
    heads = ("inputs", "network", "layers", "correlation", "s.e.", "theory", "off by")
    heads = (*heads, "if orthogonal", "1/2 at lag")
    title = "Correlation of the gradients of pairs, and of neighbours on a line"
    return lab.plain_table(title, heads, rows)


def _half(autocorrelation: np.ndarray) -> float:
    """Return the lag, between points, at which it first falls below 1/2."""
    after = int(np.argmax(autocorrelation < 0.5))
    before, here = autocorrelation[after - 1], autocorrelation[after]
    return after - float((0.5 - here) / (before - here))
