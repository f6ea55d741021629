"""The gradient at the input over that at the output, for many networks: judged, drawn, tabled."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import plots
from convjax.lab._columns import Columns
from convjax.lab._criteria import Criterion, digits, within, within_errors
from convjax.lab._ensemble import by_kind, name_of
from convjax.lab._tables import plain_table

STANDARD_ERRORS = 3.0
EXACTLY = 1e-6
POINTS = 16  # of a series, about


@dataclasses.dataclass(frozen=True)
class Ratios:
    """What the networks of one kind did.

    Attributes:
      kind: of network.
      logs: ln(|g_l|^2 / |g_L|^2), a row for each network, input first.
    """

    kind: Any
    logs: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """|g|^2 / |g_L|^2 of every network, by units travelled back, starting at none."""
        return np.exp(self.logs[:, ::-1])

    @property
    def mean(self) -> np.ndarray:
        """Its mean over networks."""
        return self.values.mean(0)

    @property
    def error(self) -> np.ndarray:
        """The standard error of the mean."""
        return self.values.std(0, ddof=1) / math.sqrt(len(self.logs))

    @property
    def expected(self) -> np.ndarray:
        """What the mean should be, by units travelled back."""
        known = np.asarray(self.kind.expected, float)
        back = np.arange(self.logs.shape[1])
        # One number is that at the input, of units that are all alike.
        return known if known.ndim else known ** (back / back[-1])

    @property
    def typical(self) -> float:
        """Geometric mean at the input."""
        return float(np.exp(self.logs[:, 0].mean()))

    @property
    def worst(self) -> float:
        """At the input, the largest distance of any network from 1."""
        return float(np.abs(self.values[:, -1] - 1).max())

    @property
    def away(self) -> float:
        """How many standard errors the mean at the input is away from theory's."""
        distance = float(self.mean[-1] - self.expected[-1])
        return distance / max(float(self.error[-1]), 1e-300)


def ratios(columns: Columns, kind: type) -> list[Ratios]:
    """Return what the networks of every kind did, in the order of the columns.

    Args:
      columns: with ``log_ratio``, as ``lab.measure`` returns them.
      kind: dataclass whose fields tell the kinds apart.

    Example:
      >>> import dataclasses, numpy as np
      >>> from convjax import lab
      >>> Plain = dataclasses.make_dataclass("Plain", ["depth"])
      >>> columns = lab.as_rows(Plain(1), log_ratio=np.log([[4.0, 1.0], [2.0, 1.0]]))
      >>> lab.ratios(columns, Plain)[0].mean.tolist()
      [1.0, 3.0]
    """
    return [Ratios(one, logs) for one, (logs,) in by_kind(columns, kind, "log_ratio")]


def against_theory(
    kind: type,
) -> tuple[
    Callable[[Columns], list[Criterion]], Callable[[Columns], Figure], Callable[[Columns], Table]
]:
    """Return ``judge``, ``draw`` and ``table`` of a question about |g_0|^2 / |g_L|^2.

    For a question that lists its options and cells itself, and measures by ``lab.measure``;
    ``lab.ensembles`` brings the same three.

    Args:
      kind: of network, as ``lab.ensembles`` asks for it.

    Example:
      >>> import dataclasses, numpy as np
      >>> from convjax import lab
      >>> @dataclasses.dataclass(frozen=True)
      ... class Plain:
      ...     depth: int = 1
      ...     label, expected = "plain", 1.0
      >>> judge, draw, table = lab.against_theory(Plain)
      >>> columns = lab.as_rows(Plain(), log_ratio=np.log([[0.9, 1.0], [1.2, 1.0]]))
      >>> judge(columns)[0].expected
      '1 ± 0.45 (3 s.e.)'
    """
    return partial(judge, kind), partial(draw, kind), partial(table, kind)


def judge(kind: type, columns: Columns) -> list[Criterion]:
    """Hold the mean of the kinds of each label, at the worst, against theory."""
    labels: dict[str, list[Ratios]] = {}
    for row in ratios(columns, kind):
        labels.setdefault(f"{_panel(row.kind)}{row.kind.label}", []).append(row)
    return [_judge(label, rows) for label, rows in labels.items()]


def _judge(label: str, rows: list[Ratios]) -> Criterion:
    if getattr(rows[0].kind, "exact", False):
        worst = max(row.worst for row in rows)
        claim = f"{label}: ratio - 1, every network"
        return within(claim, worst, 0.0, absolute=EXACTLY, why="rounding")
    row = max(rows, key=lambda row: abs(row.away))
    # "He, 3 units" beside the label "He" is "He: mean ratio, 3 units".
    which = name_of(row.kind).removeprefix(label).lstrip(", ")
    worst = f" (worst of {len(rows)})" if len(rows) > 1 else ""
    claim = f"{label}: mean ratio{f', {which}' if which else ''}{worst}"
    mean, expected, error = (float(v[-1]) for v in (row.mean, row.expected, row.error))
    return within_errors(claim, mean, expected, error, errors=STANDARD_ERRORS)


def _panel(kind: Any) -> str:
    panel = getattr(kind, "panel", "")
    return f"{panel}, " if panel else ""


def draw(kind: type, columns: Columns) -> Figure:
    """Draw the mean against the units travelled back, and the input's over theory's."""
    rows = ratios(columns, kind)
    deepest = max(row.logs.shape[1] for row in rows)
    shown = []
    for panel in dict.fromkeys(_panel(row.kind) for row in rows):
        ours = [row for row in rows if _panel(row.kind) == panel]
        along = [_along(row) for row in ours if row.logs.shape[1] == deepest]
        title = f"{panel}{deepest - 1} units"
        shown.append(
            plots.Panel(title, "units travelled back", "mean |g_l|² / |g_L|²", along, yscale="log")
        )
        title, ends = f"{panel}at the input, ± {STANDARD_ERRORS:g} s.e.", _ends(ours, deepest)
        axis = "units (side by side)"
        shown.append(plots.Panel(title, axis, "mean / theory", ends, level=1.0))
    return plots.panels("Gradient at initialization, mean over networks", shown, columns=2)


def _along(row: Ratios) -> plots.Series:
    back = np.arange(row.logs.shape[1])
    some = back[:: max(1, len(back) // POINTS)]
    mean, error = row.mean[some], STANDARD_ERRORS * row.error[some]
    # A whisker that reaches below zero has no end on a logarithmic axis.
    low = np.maximum(mean - error, 0.1 * mean)
    return plots.Series(row.kind.label, some, mean, low, mean + error, row.expected[some])


def _ends(rows: list[Ratios], deepest: int) -> list[plots.Series]:
    series, labels = [], list(dict.fromkeys(row.kind.label for row in rows))
    for i, label in enumerate(labels):
        ours = [row for row in rows if row.kind.label == label]
        aside = 0.02 * deepest * (i - (len(labels) - 1) / 2)
        beside = [row.logs.shape[1] - 1 + aside for row in ours]
        theory = np.array([row.expected[-1] for row in ours])
        mean = np.array([row.mean[-1] for row in ours]) / theory
        error = STANDARD_ERRORS * np.array([row.error[-1] for row in ours]) / theory
        series.append(plots.Series(label, beside, mean, mean - error, mean + error))
    return series


def table(kind: type, columns: Columns) -> Table:
    """Return the mean of every kind of network beside theory's."""
    heads = ("network", "theory", "mean", "s.e.", "z", "typical")
    rows = [
        (
            name_of(row.kind),
            *(digits(v[-1]) for v in (row.expected, row.mean)),
            digits(row.error[-1], 2),
            f"{row.away:+.1f}",
            digits(row.typical),
        )
        for row in ratios(columns, kind)
    ]
    seeds = len(set(columns["seed"].tolist()))
    return plain_table(f"|g_0|^2 / |g_L|^2 of {seeds} networks of each kind", heads, rows)
