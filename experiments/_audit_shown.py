"""What convolution-audit shows: what is left of the gradient by layers, and the table of it all."""

import math

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import gradflow, lab, plots
from convjax.lab import Columns, by_kind
from experiments._audit import (
    DEPTHWISE,
    FAN_OUT,
    GENERIC,
    JACOBIAN,
    PADDING,
    Cell,
    Summary,
    deepest,
    shares,
    summaries,
)
from experiments._audit_judged import STANDARD_ERRORS


def draw(columns: Columns) -> Figure:
    """Draw what is left by layers, the gain of depthwise kernels, and the Jacobian's spread."""
    # Shallower networks would lie on these.
    padding, depthwise = (deepest(summaries(columns, part)) for part in (PADDING, DEPTHWISE))
    back, left = "layers travelled back", "mean |g_l|² / |g_L|²"
    shown = []
    for size in dict.fromkeys(row.cell.size for row in padding):
        title = f"{size}x{size}, zero padding"
        rows = [row for row in [*padding, *depthwise] if row.cell.size == size]
        right = [row for row in rows if row.cell.kind != GENERIC]
        series = [_left(row, start) for start, row in enumerate(right)]
        low = min(shares(row.cell)[-1] for row in rows)
        scale = "log" if low < 0.1 else "linear"
        shown.append(plots.Panel(title, back, left, series, yscale=scale))
    title = "depthwise kernels, circular padding"
    shown.append(plots.Panel(title, back, left, [_fans(row) for row in depthwise], yscale="log"))
    title, label = "singular values s of the Jacobian, ReLU", "relative variance of s²"
    shown.append(plots.Panel(title, "layers", label, _spreads(columns)))
    return plots.panels("What convolutions do to the gradient, at birth", shown, columns=2)


def _left(row: Summary, start: int) -> plots.Series:
    # Every third layer, and other ones for other networks: on one another they would be hidden.
    some = np.arange(start, row.cell.layers + 1, 3)
    share, error = row.share[some], STANDARD_ERRORS * row.error[some]
    low = np.maximum(share - error, 0.1 * share)
    return plots.Series(_label(row.cell), some, share, low, share + error, shares(row.cell)[some])


def _fans(row: Summary) -> plots.Series:
    gain = 1 / row.cell.width if row.cell.kind == GENERIC else 1.0
    layers = np.arange(row.cell.layers + 1)
    return plots.Series(_label(row.cell), layers, row.circular, expected=gain**layers)


def _label(cell: Cell) -> str:
    return "separable" if cell.kind == FAN_OUT else cell.kind


def _spreads(columns: Columns) -> list[plots.Series]:
    found: dict[str, list[tuple[float, ...]]] = {}
    for cell, (spread,) in by_kind(columns, Cell, "relative_variance"):
        if cell.part == JACOBIAN:
            theory = gradflow.oracles.jacobian_spread(cell.layers, cell.kind)
            row = (cell.layers, spread.mean(), spread.min(), spread.max(), theory)
            found.setdefault(cell.kind, []).append(row)
    return [plots.Series(kind, *np.transpose(rows)) for kind, rows in found.items()]


def table(columns: Columns) -> Table:
    """Return everything measured beside theory."""
    rows = []
    for row in [s for part in (PADDING, DEPTHWISE) for s in summaries(columns, part)]:
        cell, left = row.cell, shares(row.cell)
        name = (cell.part, cell.kind, f"{cell.size}x{cell.size}")
        for layers in (1, cell.layers) if cell.kind != GENERIC else ():
            what = f"left by {layers} layer{'s' if layers > 1 else ''}"
            rows.append(
                (*name, what, *_numbers(left[layers], row.share[layers], row.error[layers]))
            )
        what = f"the same, circular, {cell.layers} layers"
        gain = 1 / cell.width if cell.kind == GENERIC else 1.0
        ends = row.circular[-1], row.circular_error[-1]
        rows.append((*name, what, *_numbers(gain**cell.layers, *ends)))
    for cell, found in by_kind(columns, Cell, "mean_square", "relative_variance"):
        if cell.part == JACOBIAN:
            name = (cell.part, cell.kind, f"{cell.size}x{cell.size}")
            spread = gradflow.oracles.jacobian_spread(cell.layers, cell.kind)
            for what, theory, values in zip(("mean", "spread"), (1.0, spread), found, strict=True):
                error = values.std(ddof=1) / math.sqrt(values.size)
                text = f"{what} of s^2, {cell.layers} layers"
                rows.append((*name, text, *_numbers(theory, values.mean(), error)))
    heads = ("part", "kind", "places", "what", "theory", "mean", "s.e.")
    return lab.plain_table("Means over networks", heads, rows)


def _numbers(theory: float, mean: float, error: float) -> tuple[str, ...]:
    return lab.digits(theory), lab.digits(mean), lab.digits(error, 2)
