"""panels: measured points over what theory expects, side by side."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

COLOURS = ("#30638e", "#d1495b", "#edae49", "#3c896d", "#7a5195", "#8d6a4f", "#5f6b7a", "#6cc0e5")

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
    """

    title: str
    xlabel: str
    ylabel: str
    series: Sequence[Series]
    xscale: Axis = "linear"
    yscale: Axis | Powers = "linear"
    level: float | None = None


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
      ValueError: a series whose arrays are not all as long as its ``x``.

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
        self.title = title
        self.panels = tuple(panels)
        self.columns = columns
        self.shared = shared
        every = [series for panel in panels for series in panel.series]
        for series in every:
            _check(series)
        given = {series.label: series.colour for series in reversed(every) if series.colour}
        self.colours = {
            label: given.get(label) or COLOURS[i % len(COLOURS)]
            for i, label in enumerate(dict.fromkeys(series.label for series in every))
        }


def panels(title: str, drawn: Sequence[Panel], *, columns: int = 3) -> Sheet:
    """Draw panels side by side: points for what was measured, lines and bands for theory.

    Args:
      title: of the figure; it stands over the legend.
      drawn: the panels, in reading order.
      columns: most panels in one row.

    Returns:
      The figure; ``plots.save`` writes it.

    Raises:
      ValueError: no panel, or a series whose arrays are not all as long as its ``x``.

    Example:
      >>> import numpy as np
      >>> from convjax import plots
      >>> x = np.arange(1, 5)
      >>> line = plots.Series("He", x, y=1.02**x, expected=np.ones(4))
      >>> len(plots.panels("Gain", [plots.Panel("plain", "depth", "gain", [line])]).axes)
      1
    """
    if not drawn:
        raise ValueError("drawn is empty; give at least one Panel")
    wide = min(columns, len(drawn))
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


def power_of_ten(exponent: float, _: int | None = None) -> str:
    """Return the name of a tick where the numbers are exponents."""
    return "1" if exponent == 0 else f"$10^{{{exponent:g}}}$"


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
    if panel.yscale == "powers":
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(power_of_ten))
    else:
        axes.set_yscale(panel.yscale)
    axes.set_title(panel.title, fontsize=9)
    axes.set_xlabel(panel.xlabel, fontsize=8.5)
    axes.set_ylabel(panel.ylabel, fontsize=8.5)
    axes.tick_params(which="both", labelsize=8, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)


# Of a series as a whole; all else is of its places.
_WHOLE = ("label", "joined", "shaded", "colour")


def _check(series: Series) -> None:
    count = np.shape(series.x)
    for field in dataclasses.fields(series):
        value = getattr(series, field.name)
        if field.name in _WHOLE or value is None or np.shape(value) == count:
            continue
        raise ValueError(
            f"series {series.label!r}: {field.name} has shape {np.shape(value)}, x has {count}"
        )


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
