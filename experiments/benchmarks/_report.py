"""What the benchmarks show and keep: tables, a figure of ratios, and numbers with their origin."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich.console import Console
from rich.table import Table

from convjax import lab, plots, study
from experiments.benchmarks.timing import geometric_mean

COLOURS = {"PyTorch": "#d1495b", "lax": "#30638e", "Keras": "#edae49"}
MISSING = "-"

Panels = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
"""Ratios by panel, then by kind, then by the name of whom convjax is compared with."""


def console() -> Console:
    """Return a console, wide enough for the tables where it is no terminal."""
    return lab.console(130)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table whose first column is text and whose others are numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        made.add_column(column, justify="right" if i else "left", vertical="bottom")
    for row in rows:
        made.add_row(*row)
    return made


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with so many significant digits, without an exponent; None is a dash."""
    if value is None:
        return MISSING
    decimals = digits - 1 - int(np.floor(np.log10(abs(value)))) if value else 0
    return f"{value:.{max(decimals, 0)}f}"


def milliseconds(seconds: float | None) -> str:
    """Write a time in milliseconds with three significant digits."""
    return number(None if seconds is None else seconds * 1e3)


def save_json(
    path: Path,
    *,
    rows: Sequence[Mapping[str, Any]],
    config: Any,
    torch: Mapping[str, Any] | None = None,
    **more: Any,
) -> None:
    """Write what was measured, with the options, the versions and the hardware.

    Args:
      path: the file.
      rows: what JSON can hold.
      config: the options, a dataclass.
      torch: what PyTorch's process told of itself; None where there was none.
      **more: further entries.
    """
    written = {
        "config": dataclasses.asdict(config),
        "environment": study.environment() | {"torch": torch},
        **more,
        "rows": rows,
    }
    path.write_text(json.dumps(written, indent=1, default=str) + "\n", encoding="utf-8")


def save_ratios(stem: Path, title: str, panels: Panels) -> tuple[Path, Path]:
    """Draw ratios and write them to ``stem.png`` and ``stem.svg``."""
    return plots.save(ratios(title, panels), stem)


def ratios(title: str, panels: Panels) -> Figure:
    """Draw the time of convjax over that of others, on a logarithmic axis.

    A panel side by side for each entry, a band for each kind, and in it a row of dots for each
    framework: one dot per measured row, and a bar at their geometric mean. Left of 1, convjax is
    the faster one.

    Args:
      title: of the figure.
      panels: ratios by panel, kind and framework; kinds and frameworks may be missing in a panel.

    Returns:
      The figure.
    """
    kinds = list(dict.fromkeys(kind for panel in panels.values() for kind in panel))
    others = [
        name
        for name in COLOURS
        if any(name in kind for panel in panels.values() for kind in panel.values())
    ]
    figure = Figure(
        figsize=(1.3 + 3.3 * len(panels), 1.4 + (0.16 + 0.22 * len(others)) * len(kinds)),
        layout="constrained",
    )
    grid: Any = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    for axes, (name, panel) in zip(grid[0], panels.items(), strict=True):
        _draw(axes, panel, kinds, others)
        axes.set_title(name, fontsize=9)
    figure.supxlabel("time of convjax / time of the other", fontsize=9)
    handles: list[Any] = [
        Line2D([], [], color=COLOURS[name], marker="o", linestyle="", markersize=4, label=name)
        for name in others
    ]
    handles.append(
        Line2D([], [], color="0.2", marker="|", linestyle="", markersize=9, label="geometric mean")
    )
    legend_above(figure, title, len(handles), handles=handles)
    return figure


def _draw(
    axes: Axes,
    panel: Mapping[str, Mapping[str, Sequence[float]]],
    kinds: Sequence[str],
    others: Sequence[str],
) -> None:
    axes.set_xscale("log")
    axes.axvline(1, color="0.6", linewidth=0.7, zorder=1)
    for i, kind in enumerate(kinds):
        if i % 2:
            axes.axhspan(i - 0.5, i + 0.5, color="0.96", linewidth=0, zorder=0)
        for j, name in enumerate(others):
            found = sorted(panel.get(kind, {}).get(name, ()))
            if not found:
                continue
            height = i + 0.7 * ((j + 0.5) / len(others) - 0.5)
            spread = 0.22 / len(others)
            axes.plot(
                found,
                height + spread * _scatter(len(found)),
                "o",
                color=COLOURS[name],
                markersize=3.2,
                alpha=0.6,
                markeredgewidth=0,
            )
            mean = geometric_mean(found)
            assert mean is not None
            axes.plot([mean], [height], "|", color="0.2", markersize=11, markeredgewidth=1.6)
    rows_of_ratios(axes, kinds, numticks=7)


def rows_of_ratios(axes: Axes, rows: Sequence[str], numticks: int) -> None:
    """Name the rows of a panel, the first at the top, and the ratios on its logarithmic axis."""
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=numticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.tick_params(labelsize=8, length=2.5)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def legend_above(figure: Figure, title: str, columns: int, **given: Any) -> None:
    """Put a figure's title and legend above its panels."""
    look: Any = {"fontsize": 9, "title_fontsize": 10, "frameon": False}
    figure.legend(loc="outside upper center", ncols=columns, title=title, **look, **given)


def _scatter(count: int) -> np.ndarray:
    """Return heights between -1 and 1 that keep neighbours apart, the same in every run."""
    # Multiples of the golden ratio, modulo 1, fall nowhere close to one another.
    return 2 * (np.arange(count) * 0.6180339887 % 1) - 1
