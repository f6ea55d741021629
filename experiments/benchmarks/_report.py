"""What the benchmarks show: tables of declared columns, and a figure of ratios."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from convjax import plots

COLOURS = {"PyTorch": "#d1495b", "lax": "#30638e", "Keras": "#edae49"}

Column = tuple[str, Callable[[Any], str | float | None]]
"""The head, and what a row has below it: numbers get three digits, None is a dash."""
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


def markdown(table: Table) -> str:
    """Return a table as Markdown has it, below its title."""

    def line(cells: Iterable[Any]) -> str:
        return f"| {' | '.join(' '.join(str(c).split()).replace('|', '/') for c in cells)} |"

    rows = zip(*(column.cells for column in table.columns), strict=True)
    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    lines = [line(c.header for c in table.columns), line(rule), *map(line, rows)]
    return "\n".join([f"## {table.title}", "", *lines, ""])


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


def ratios(title: str, panels: Panels) -> plots.Sheet | None:
    """Draw the time of convjax over that of others: geometric means, and from least to most.

    Kinds and frameworks may be missing in a panel; where there is no ratio at all, return None.
    """
    bands = [(kind, found) for panel in panels.values() for kind, found in panel.items()]
    kinds = list(dict.fromkeys(kind for kind, _ in bands))
    others = [name for name in COLOURS if any(found.get(name) for _, found in bands)]
    if not others:
        return None

    def series(panel: Mapping[str, Mapping[str, Sequence[float]]], name: str) -> plots.Series:
        every = enumerate(panel.get(kind, {}).get(name, ()) for kind in kinds)
        found = {i: ratios for i, ratios in every if ratios}
        aside = 0.2 * (others.index(name) - (len(others) - 1) / 2)
        return plots.Series(
            name,
            [i + aside for i in found],
            y=[*map(statistics.geometric_mean, found.values())],
            low=[*map(min, found.values())],
            high=[*map(max, found.values())],
            colour=COLOURS[name],
        )

    ylabel = "time of convjax / time of the other"
    drawn = [
        plots.Panel(name, "", ylabel, [series(panel, n) for n in others], yscale="log", level=1.0)
        for name, panel in panels.items()
    ]
    figure = plots.panels(title, drawn)
    for axes in figure.axes:
        axes.set_xticks(range(len(kinds)), kinds, rotation=40, ha="right")
    return figure
