"""The gradient at the input over that at the output, for many networks: judged, drawn, tabled."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import plots
from convjax.lab._columns import Columns
from convjax.lab._criteria import Criterion, digits, within
from convjax.lab._ensemble import by_kind, name_of
from convjax.lab._means import Mean, grouped, worst
from convjax.lab._series import series
from convjax.lab._tables import formatted_table

STANDARD_ERRORS = 3.0
EXACTLY = 1e-6
POINTS = 16  # of a series, about


def ratios(columns: Columns, kind: type) -> list[Mean]:
    """Return |g|^2 / |g_L|^2 by units travelled back from none, in the order of the columns.

    Args:
      columns: with ``log_ratio``, as ``lab.measure`` returns them.
      kind: dataclass whose fields tell the kinds apart.

    Example:
      >>> import dataclasses, numpy as np
      >>> from convjax import lab
      >>> Plain = dataclasses.make_dataclass("Plain", ["depth"], namespace={"expected": 1.0})
      >>> columns = lab.as_rows(Plain(1), log_ratio=np.log([[4.0, 1.0], [2.0, 1.0]]))
      >>> lab.ratios(columns, Plain)[0].mean.tolist()
      [1.0, 3.0]
    """
    return [
        Mean(one, np.exp(logs[:, ::-1]), _expected(one, logs.shape[1]))
        for one, (logs,) in by_kind(columns, kind, "log_ratio")
    ]


def _expected(kind: Any, places: int) -> np.ndarray:
    """Return theory's mean by units travelled back; one number is that of units all alike."""
    known = np.asarray(kind.expected, float)
    if known.shape not in ((), (places,)):
        raise ValueError(
            f"expected of {name_of(kind)} has the shape {known.shape}; it must be one number, or "
            f"{places}: one behind every unit, and the first for none"
        )
    return known if known.ndim else known ** (np.arange(places) / (places - 1))


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
    labels: dict[str, list[Mean]] = {}
    for row in ratios(columns, kind):
        labels.setdefault(f"{_panel(row.kind)}{row.kind.label}", []).append(row.at(-1))
    return [one for label, rows in labels.items() for one in _judge(label, rows)]


def _judge(label: str, rows: list[Mean]) -> list[Criterion]:
    if getattr(rows[0].kind, "exact", False):
        off = np.max([np.abs(row.values - 1).max() for row in rows])
        claim = f"{label}: ratio - 1, every network"
        return [within(claim, off, 0.0, absolute=EXACTLY, why="rounding")]

    def claim_of(kind: Any) -> str:
        # "He, 3 units" beside the label "He" is "He: mean ratio, 3 units".
        which = name_of(kind).removeprefix(label).lstrip(", ")
        return f"{label}: mean ratio{f', {which}' if which else ''}"

    (found,) = worst(claim_of, rows, errors=STANDARD_ERRORS)
    widest = max(rows, key=lambda row: row.error / row.expected)
    share = STANDARD_ERRORS * float(widest.error / widest.expected)
    if found.holds and share >= 1:
        # Nothing could fail: 0 itself is within these errors.
        needed = math.ceil(len(widest.values) * (2 * share) ** 2)
        why = f"± {share:.0%}: not decided, needs about {needed} seeds"
        why = f"{digits(float(widest.expected))} {why}"
        claim = f"{claim_of(widest.kind)} (widest of {len(rows)})"
        return [Criterion(claim, digits(float(widest.mean)), why, False)]
    return [found]


def _panel(kind: Any) -> str:
    panel = getattr(kind, "panel", "")
    return f"{panel}, " if panel else ""


def draw(kind: type, columns: Columns) -> Figure:
    """Draw the mean against the units travelled back, and the input's over theory's."""
    rows = ratios(columns, kind)
    deepest = max(row.values.shape[1] for row in rows)
    some = np.arange(0, deepest, max(1, deepest // POINTS))
    shown, bars = [], {"errors": STANDARD_ERRORS, "positive": True}
    for panel in dict.fromkeys(_panel(row.kind) for row in rows):
        ours = [row for row in rows if _panel(row.kind) == panel]
        along = [
            series(row.kind.label, some, row.at(some), **bars)
            for row in ours
            if row.values.shape[1] == deepest
        ]
        title, ratio = f"{panel}{deepest - 1} units", "mean |g_l|² / |g_L|²"
        shown.append(plots.Panel(title, "units travelled back", ratio, along, yscale="log"))
        title, axis = f"{panel}at the input, ± {STANDARD_ERRORS:g} s.e.", "units (side by side)"
        shown.append(plots.Panel(title, axis, "mean / theory", _ends(ours, deepest), level=1.0))
    return plots.panels("Gradient at initialization, mean over networks", shown, columns=2)


def _ends(rows: list[Mean], deepest: int) -> list[plots.Series]:
    labels = grouped(rows, "kind.label")
    return [
        series(
            label,
            # Side by side: on one another they would be hidden.
            [
                row.values.shape[1] - 1 + 0.02 * deepest * (i - (len(labels) - 1) / 2)
                for row in ours
            ],
            np.stack([row.values[:, -1] / row.at(-1).expected for row in ours], 1),
            errors=STANDARD_ERRORS,
        )
        for i, (label, ours) in enumerate(labels.items())
    ]


def table(kind: type, columns: Columns) -> Table:
    """Return the mean of every kind of network beside theory's."""
    rows = [row.at(-1) for row in ratios(columns, kind)]
    return formatted_table(
        f"|g_0|^2 / |g_L|^2 of {len(rows[0].values)} networks of each kind",
        rows,
        ("network", "name"),
        ("theory", "expected:.4g"),
        ("mean", "mean:.4g"),
        ("s.e.", "error:.2g"),
        ("z", lambda row: f"{row.away:+.1f}" if row.error or not row.away else ""),
        ("typical", "typical:.4g"),
    )
