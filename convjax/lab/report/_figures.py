"""A figure as data for the page: what is drawn as JSON and CSV, and its picture."""

import base64
import csv
import io
import json
import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from convjax import plots

# More points of one series than this are thinned: no screen shows more.
MOST = 2000
DOTS_PER_INCH = 110
PANEL = ("title", "xlabel", "ylabel", "xscale", "yscale", "level")
NUMBERS = ("y", "low", "high", "expected", "expected_low", "expected_high")


def data(sheet: plots.Sheet) -> str:
    """Return what a figure shows as JSON; null is no number, or one that is not finite."""
    entries = {name: getattr(sheet, name) for name in ("title", "columns", "shared", "colours")}
    entries["panels"] = [
        {name: getattr(panel, name) for name in PANEL} | {"series": [*map(_series, panel.series)]}
        for panel in sheet.panels
    ]
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":"))
    # In a page, a script ends at the first end tag, wherever that stands.
    return text.replace("<", "\\u003c")


def _series(series: plots.Series) -> dict[str, Any]:
    some = _some(series)
    made: dict[str, Any] = {"label": series.label}
    for name in ("x", *NUMBERS):
        if (values := getattr(series, name)) is not None:
            made[name] = [*map(_short, np.asarray(values, float)[some].tolist())]
    if series.names is not None:
        made["names"] = [*map(str, np.asarray(series.names)[some])]
    return made | {"joined": series.joined, "shaded": series.shaded}


def _short(value: float) -> float | int | None:
    """Return a number with seven digits, which is more than a screen can show."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.7g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def thinned(sheet: plots.Sheet) -> int:
    """Return the length of the longest series of which not all points are on the page, or 0."""
    longest = max((np.size(one.x) for panel in sheet.panels for one in panel.series), default=0)
    return longest if longest > MOST else 0


def _some(series: plots.Series) -> np.ndarray:
    count = np.size(series.x)
    return np.unique(np.linspace(0, count - 1, min(count, MOST)).astype(int))


def table(sheet: plots.Sheet) -> str:
    """Return what a figure shows as CSV, one row for each place of each series."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["panel", "x_is", "y_is", "series", "place", "x", "measured", *NUMBERS[1:]])
    for panel in sheet.panels:
        y_is = f"log10 of {panel.ylabel}" if panel.yscale == "powers" else panel.ylabel
        for series in panel.series:
            some = _some(series)
            given = [series.names, series.x, *(getattr(series, name) for name in NUMBERS)]
            columns = [[""] * len(some) if one is None else _texts(one, some) for one in given]
            for row in zip(*columns, strict=True):
                writer.writerow([panel.title, panel.xlabel, y_is, series.label, *row])
    return lines.getvalue()


def _texts(values: Any, some: np.ndarray) -> list[str]:
    found = np.asarray(values)[some].tolist()
    return [f"{v:.7g}" if isinstance(v, float) else str(v) for v in found]


def picture(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    return file.getvalue()


def address(content: bytes, kind: str) -> str:
    """Return content as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
