"""Many networks with batch norm: their gain by batch size, what theory says, drawn and tabled."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import gradflow, lab, plots
from convjax.lab import Columns

# Smaller batches are shown but not held to theory.
HELD = 8


@dataclasses.dataclass(frozen=True)
class Summary:
    """One activation and batch size: what was measured and what theory says.

    Attributes:
      activation: its name.
      batch_size: examples whose statistics are shared.
      gain: of a layer, mean over the layers that are kept and over networks.
      error: its standard error, over networks.
      expected: what it should be.
    """

    activation: str
    batch_size: int
    gain: float
    error: float
    expected: float

    @property
    def off(self) -> float:
        """How far the gain is away from theory's, as a share of it."""
        return self.gain / self.expected - 1


def summaries(columns: Columns) -> list[Summary]:
    """Return one summary for each activation and batch size, small batches first."""
    names, sizes = columns["activation"], columns["batch_size"]
    return [
        _summary(columns, activation, size)
        for activation in dict.fromkeys(names.tolist())
        for size in sorted(set(sizes[names == activation].tolist()))
    ]


def _here(columns: Columns, activation: str, batch_size: int) -> np.ndarray:
    return (columns["activation"] == activation) & (columns["batch_size"] == batch_size)


def _summary(columns: Columns, activation: str, batch_size: int) -> Summary:
    here = _here(columns, activation, batch_size) & columns["kept"]
    seeds, gains = columns["seed"][here], columns["gain"][here].astype(np.float64)
    by_network = [gains[seeds == seed].mean() for seed in set(seeds.tolist())]
    return Summary(
        activation=activation,
        batch_size=batch_size,
        gain=float(np.mean(by_network)),
        error=float(np.std(by_network, ddof=1)) / math.sqrt(len(by_network)),
        expected=gradflow.oracles.batch_norm_gain(batch_size, activation),
    )


def draw(columns: Columns) -> Figure:
    """Draw the gain by batch size, and by layer for the smallest and largest that are held."""
    rows = summaries(columns)
    by_size = [
        _by_batch_size([row for row in rows if row.activation == activation])
        for activation in dict.fromkeys(row.activation for row in rows)
    ]
    shown = [plots.Panel("by batch size, ±3 s.e.", "log2 of the batch size", "gain", by_size)]
    sizes = [row.batch_size for row in rows]
    held = [size for size in sizes if size >= HELD] or sizes
    for size in sorted({min(held), max(held)}):
        each = [_by_layer(columns, row) for row in rows if row.batch_size == size]
        shown.append(
            plots.Panel(f"from the second layer on, batch of {size}", "layer", "gain", each)
        )
    return plots.panels("Gain of the squared gradient per layer, batch norm, at birth", shown)


def _by_batch_size(rows: Sequence[Summary]) -> plots.Series:
    gains, errors = (np.array([getattr(row, name) for row in rows]) for name in ("gain", "error"))
    return plots.Series(
        rows[0].activation,
        np.log2([row.batch_size for row in rows]),
        gains,
        gains - 3 * errors,
        gains + 3 * errors,
        [row.expected for row in rows],
    )


def _by_layer(columns: Columns, row: Summary) -> plots.Series:
    here = _here(columns, row.activation, row.batch_size)
    layers = np.array(sorted(set(columns["layer"][here].tolist()) - {0}))
    gains = [columns["gain"][here & (columns["layer"] == layer)].mean() for layer in layers]
    return plots.Series(row.activation, layers, gains, expected=np.full(len(layers), row.expected))


def table(columns: Columns) -> Table:
    """Return the gain at every batch size beside theory's."""
    rows = [
        (
            row.activation,
            row.batch_size,
            *(f"{value:.4f}" for value in (row.gain, row.error, row.expected)),
            f"{row.off:+.2%}",
        )
        for row in summaries(columns)
    ]
    width, seeds = int(columns["width"][0]), len(set(columns["seed"].tolist()))
    title = f"Gain of a layer, batch norm, width {width}, {seeds} networks each"
    heads = ("activation", "batch size", "gain", "s.e.", "theory", "off by")
    return lab.plain_table(title, heads, rows)
