"""panels: measured points over what theory expects, side by side."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from convjax import _check
from convjax.plots import _ticks

COLOURS = ("#30638e", "#d1495b", "#edae49", "#3c896d", "#7a5195", "#8d6a4f", "#5f6b7a", "#6cc0e5")

# Attributes of a series that are arrays of numbers.
NUMBERS = ("x", "y", "low", "high", "expected", "expected_low", "expected_high")

Axis = Literal["linear", "log"]
# The numbers are exponents of ten, which have a place where no float holds the numbers themselves.
Powers = Literal["powers"]


@dataclasses.dataclass(frozen=True)
class Series:
    """One run of points and what was expected of them; all arrays are as long as ``x``.

    Attributes:
      label: name in the legend; series of one label have one colour, in every panel.
      x: places.
      y: what was measured there, drawn as points; None draws the expectation alone.
      low: lower end of the whiskers, or None.
      high: upper end of the whiskers, or None.
      expected: what theory says, drawn as a line; None where it says nothing.
      expected_low: lower edge of the expected band, or None.
      expected_high: upper edge of the expected band, or None.
      joined: whether the points are joined by a thin line.
      shaded: whether ``low`` and ``high`` bound a band, in the place of whiskers.
      names: what each place is called, such as a layer's path, for who points at it; or None.
      colour: as ``"#rrggbb"``, for all series of its label; None takes the next of the colours.

    Raises:
      ValueError: an array that is not as long as ``x``, or not of numbers; no colour.
    """

    label: str
    x: ArrayLike
    y: ArrayLike | None = None
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    expected: ArrayLike | None = None
    expected_low: ArrayLike | None = None
    expected_high: ArrayLike | None = None
    joined: bool = False
    shaded: bool = False
    names: ArrayLike | None = None
    colour: str | None = None

    def __post_init__(self):
        _check.instance("label", self.label, str, "text")
        if self.colour is not None and not is_color_like(self.colour):
            raise ValueError(f"colour={_check.shown(self.colour)} must be a colour, as '#30638e'")
        kept: dict[str, Any] = {n: _check.flag(n, getattr(self, n)) for n in ("joined", "shaded")}
        for name in NUMBERS:
            kept[name] = _numbers(name, getattr(self, name), self)
        if self.names is not None:
            kept["names"] = _texts(self.label, self.names, len(kept["x"]))
        for name, value in kept.items():
            object.__setattr__(self, name, value)


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
      title: above it.
      xlabel: below it.
      ylabel: beside it.
      series: what is drawn, the first first.
      xscale: ``"linear"`` or ``"log"``.
      yscale: ``"linear"``, ``"log"``, or ``"powers"``: logarithmic, and all heights are given as
        exponents of ten.
      level: height of a thin horizontal line, such as 1 for "no growth"; or None.

    Raises:
      ValueError: an unknown scale, or what is no series.
    """

    title: str
    xlabel: str
    ylabel: str
    series: Sequence[Series]
    xscale: Axis = "linear"
    yscale: Axis | Powers = "linear"
    level: float | None = None

    def __post_init__(self):
        for name in ("title", "xlabel", "ylabel"):
            _check.instance(name, getattr(self, name), str, "text")
        object.__setattr__(self, "series", _every("series", self.series, Series))
        _check.choice("xscale", self.xscale, ("linear", "log"))
        _check.choice("yscale", self.yscale, ("linear", "log", "powers"))
        if self.level is not None:
            object.__setattr__(self, "level", _check.number("level", self.level))


class Sheet(Figure):
    """A figure that knows what it shows, so that it can also be shown by other means.

    Args:
      title: of the figure.
      panels: what is drawn, in reading order.
      columns: most panels in one row.
      shared: whether all panels have the same axes.
      kwargs: as for ``matplotlib.figure.Figure``.

    Attributes:
      title: as given.
      panels: as given.
      columns: as given.
      shared: as given.
      colours: one for each label, in the order of the legend.

    Raises:
      ValueError: what is no panel, fewer than one column.

    Example:
      >>> from convjax import plots
      >>> line = plots.Series("He", [1, 2], y=[1.0, 1.1])
      >>> plots.Sheet("Gain", [plots.Panel("plain", "depth", "gain", [line])]).colours
      {'He': '#30638e'}
    """

    def __init__(
        self,
        title: str,
        panels: Sequence[Panel],
        *,
        columns: int = 3,
        shared: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.title = _check.instance("title", title, str, "text")
        self.panels = _every("panels", panels, Panel)
        self.columns = _check.integer("columns", columns, 1)
        self.shared = _check.flag("shared", shared)
        every = [series for panel in self.panels for series in panel.series]
        given = {series.label: series.colour for series in reversed(every) if series.colour}
        self.colours = {
            label: given.get(label) or COLOURS[i % len(COLOURS)]
            for i, label in enumerate(dict.fromkeys(series.label for series in every))
        }

    def _repr_png_(self) -> bytes:
        """Return the picture that a notebook shows."""
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=110)
        return picture.getvalue()


def panels(title: str, drawn: Sequence[Panel], *, columns: int = 3) -> Sheet:
    """Draw panels side by side: points for what was measured, lines and bands for theory.

    Args:
      title: of the figure; it stands over the legend.
      drawn: the panels, in reading order.
      columns: most panels in one row.

    Returns:
      The figure; ``plots.save`` writes it.

    Raises:
      ValueError: no panel, what is no panel, fewer than one column.

    Example:
      >>> import numpy as np
      >>> from convjax import plots
      >>> x = np.arange(1, 5)
      >>> line = plots.Series("He", x, y=1.02**x, expected=np.ones(4))
      >>> len(plots.panels("Gain", [plots.Panel("plain", "depth", "gain", [line])]).axes)
      1
    """
    drawn = _every("drawn", drawn, Panel)
    if not drawn:
        raise ValueError(f"drawn={drawn!r} is empty; give at least one Panel")
    wide = min(_check.integer("columns", columns, 1), len(drawn))
    rows = -(-len(drawn) // wide)
    size = (max(4.5, 0.5 + 3.1 * wide), 0.9 + 2.6 * rows)
    figure = Sheet(title, drawn, columns=wide, figsize=size, layout="constrained")
    grid: Any = figure.subplots(rows, wide, squeeze=False)
    for axes, panel in zip(grid.flat, drawn, strict=False):
        _draw(axes, panel, figure.colours)
    for axes in grid.flat[len(drawn) :]:
        axes.set_visible(False)
    _legend(figure)
    return figure


def _draw(axes: Axes, panel: Panel, colours: dict[str, str]) -> None:
    if panel.level is not None:
        axes.axhline(panel.level, color="0.6", linewidth=0.7, zorder=1)
    for series in panel.series:
        colour = colours[series.label]
        x = np.asarray(series.x, float)
        if series.expected_low is not None and series.expected_high is not None:
            low, high = np.asarray(series.expected_low), np.asarray(series.expected_high)
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        if series.expected is not None:
            axes.plot(x, np.asarray(series.expected), color=colour, linewidth=1.3)
        if series.y is None:
            continue
        y = np.asarray(series.y, float)
        if series.low is not None and series.high is not None:
            low, high = np.asarray(series.low, float), np.asarray(series.high, float)
            if series.shaded:
                axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            else:
                axes.vlines(x, low, high, color=colour, linewidth=0.8, alpha=0.7)
        line = {"linestyle": "-" if series.joined else "none", "linewidth": 0.7}
        axes.plot(x, y, color=colour, marker="o", markersize=3.2, alpha=0.9, **line)
    axes.set_xscale(panel.xscale)
    axes.set_yscale("linear" if panel.yscale == "powers" else panel.yscale)
    for axis, scale in ((axes.xaxis, panel.xscale), (axes.yaxis, panel.yscale)):
        if scale != "linear":
            _ticks.put(axis, powers=scale == "powers")
    axes.set_title(panel.title, fontsize=9)
    axes.set_xlabel(panel.xlabel, fontsize=8.5)
    axes.set_ylabel(panel.ylabel, fontsize=8.5)
    axes.tick_params(which="both", labelsize=8, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)


def _every(name: str, values: Any, kind: type) -> tuple[Any, ...]:
    """Return a sequence of panels or series as a tuple."""
    what = f"a sequence of plots.{kind.__name__}"
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        _check.wrong_type(name, values, what)
    found = tuple(values)
    for i, value in enumerate(found):
        _check.instance(f"{name}[{i}]", value, kind, f"a plots.{kind.__name__}")
    return found


def _numbers(name: str, value: Any, series: Series) -> np.ndarray | None:
    """Return an array of a series, as long as its x."""
    where = f"series {series.label!r}: {name}"
    if value is None and name != "x":
        return None
    try:
        found = np.asarray(value)
        found = found.astype(float) if found.dtype.kind in "biuf" else None
    except (TypeError, ValueError):
        found = None
    if found is None or not found.ndim:
        _check.wrong_type(where, value, "an array of numbers")
    count = np.shape(series.x)
    if found.ndim != 1 or found.shape != count:
        raise ValueError(
            f"{where} has shape {found.shape}, x has {count}; all arrays of a series have one axis "
            f"and one length, and this is {_check.shown(value)}"
        )
    return found


def _texts(label: str, names: Any, count: int) -> np.ndarray:
    found = np.asarray(names) if isinstance(names, np.ndarray | Sequence) else np.zeros(())
    if found.dtype.kind != "U" or found.shape != (count,):
        raise ValueError(
            f"series {label!r}: names has shape {found.shape}, x has ({count},); names must be as "
            f"long as x, and of text, and this is {_check.shown(names)}"
        )
    return found


def _legend(figure: Sheet) -> None:
    every = [series for panel in figure.panels for series in panel.series]
    handles: list[Any] = [Patch(color=c, label=label) for label, c in figure.colours.items()]
    if any(series.y is not None for series in every):
        handles.append(_mark("measured", marker="o", markersize=3.2, linestyle=""))
    if any(series.expected is not None for series in every):
        handles.append(_mark("expected", linewidth=1.3))
    # As the legend's title, the figure's cannot collide with the legend.
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(len(handles), 5),
        fontsize=8.5,
        title=figure.title,
        title_fontsize=10,
        frameon=False,
    )


def _mark(label: str, **style: Any) -> Line2D:
    return Line2D([], [], color="0.3", label=label, **style)
