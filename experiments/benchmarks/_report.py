"""What the benchmarks show: tables of declared columns, and a figure of ratios."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich.table import Table

from experiments.benchmarks.timing import geometric_mean

COLOURS = {"PyTorch": "#d1495b", "lax": "#30638e", "Keras": "#edae49"}

Column = tuple[str, Callable[[Any], str | float | None]]
"""The head, and what stands in a row; numbers get three digits, None is a dash."""
Panels = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
"""Ratios by panel, then by kind, then by the name of whom convjax is compared with."""


def table(title: str, rows: Iterable[Any], *columns: Column) -> Table:
    """Return a table whose first column is text and whose others are numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, (head, _) in enumerate(columns):
        made.add_column(head, justify="right" if i else "left", vertical="bottom")
    for row in rows:
        cells = [value(row) for _, value in columns]
        made.add_row(*(cell if isinstance(cell, str) else number(cell) for cell in cells))
    return made


def number(value: float | None) -> str:
    """Write a number with three significant digits, without an exponent; None is a dash."""
    if value is None:
        return "-"
    decimals = 2 - int(np.floor(np.log10(abs(value)))) if value else 0
    return f"{value:.{max(decimals, 0)}f}"


def milliseconds(seconds: float | None) -> float | None:
    """Return a time in milliseconds, where there is one."""
    return None if seconds is None else seconds * 1e3


def verdict(value: float, target: float | None) -> str:
    """Say whether a target is met, where there is one."""
    return "" if target is None else f"{target:g} {'met' if value <= target else 'missed'}"


def comparisons(title: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    """Return the table of what ``timing.comparison`` returned."""
    return table(
        title,
        rows,
        ("first / second", lambda row: row["what"]),
        ("first (ms)", lambda row: milliseconds(row["first_s"])),
        ("second (ms)", lambda row: milliseconds(row["second_s"])),
        ("ratio", lambda row: f"{row['ratio']:.3f}"),
        ("range", lambda row: f"{row['least']:.3f} to {row['most']:.3f}"),
        ("target", lambda row: verdict(row["ratio"], row["target"])),
    )


def ratios(title: str, panels: Panels) -> Figure | None:
    """Draw the time of convjax over that of others, on a logarithmic axis.

    A panel side by side for each entry, a band for each kind, and in it a row of dots for each
    framework: one dot for each ratio, and a bar at their geometric mean, which is written beside
    it. Left of 1, convjax is the faster one.

    Args:
      title: of the figure.
      panels: ratios by panel, kind and framework; kinds and frameworks may be missing in a panel.

    Returns:
      The figure; None where there is no ratio.
    """
    bands = [(kind, found) for panel in panels.values() for kind, found in panel.items()]
    kinds = list(dict.fromkeys(kind for kind, _ in bands))
    others = [name for name in COLOURS if any(found.get(name) for _, found in bands)]
    if not others:
        return None
    size = (1.6 + 3.3 * len(panels), 1.4 + (0.16 + 0.22 * len(others)) * len(kinds))
    figure = Figure(figsize=size, layout="constrained")
    grid: Any = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    for axes, (name, panel) in zip(grid[0], panels.items(), strict=True):
        axes.set_title(name, fontsize=9)
        axes.axvline(1, color="0.6", linewidth=0.7, zorder=1)
        for i, kind in enumerate(kinds):
            if i % 2:
                axes.axhspan(i - 0.5, i + 0.5, color="0.96", linewidth=0, zorder=0)
            for j, other in enumerate(others):
                if found := sorted(panel.get(kind, {}).get(other, ())):
                    height = i + 0.7 * ((j + 0.5) / len(others) - 0.5)
                    _draw(axes, found, height, 0.22 / len(others), COLOURS[other])
        _name(axes, kinds)
    figure.supxlabel("time of convjax / time of the other", fontsize=9)
    handles = [_mark(name, "o", COLOURS[name]) for name in others]
    handles.append(_mark("geometric mean", "|", "0.2"))
    look: Any = {"fontsize": 9, "title_fontsize": 10, "frameon": False, "ncols": len(handles)}
    figure.legend(handles=handles, loc="outside upper center", title=title, **look)
    return figure


def _draw(axes: Axes, found: list[float], height: float, spread: float, colour: str) -> None:
    # Multiples of the golden ratio, modulo 1, fall nowhere close to one another.
    places = height + spread * (2 * (np.arange(len(found)) * 0.6180339887 % 1) - 1)
    axes.plot(found, places, "o", color=colour, markersize=3.2, alpha=0.6, markeredgewidth=0)
    mean = geometric_mean(found)
    assert mean is not None
    axes.plot([mean], [height], "|", color="0.2", markersize=11, markeredgewidth=1.6)
    beside: Any = {"textcoords": "offset points", "va": "center", "fontsize": 6.5}
    axes.annotate(number(mean), (mean, height), (5, 0), **beside)


def _name(axes: Axes, rows: Sequence[str]) -> None:
    """Name the rows, the first at the top, and the ratios."""
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=7))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.tick_params(labelsize=8, length=2.5)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _mark(label: str, marker: str, colour: str) -> Line2D:
    return Line2D([], [], label=label, marker=marker, color=colour, linestyle="", markersize=5)
