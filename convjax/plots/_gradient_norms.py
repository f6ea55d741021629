"""gradient_norms: the gradient along the trunk, one panel for each kind of network and step."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from convjax import study
from convjax.plots import _ticks
from convjax.plots._columns import table_of
from convjax.plots._panels import Panel, Series, Sheet

FACETS = ("norm", "shortcut")
HELD = ("width", "activation", "init", "conv")
NUMBERS = ("width", "depth", "step", "seed", "position", "gradient_log_norm")
TEXTS = (*FACETS, "activation", "init", "conv")
NORMS = {"none": "no norm"}
SHORTCUTS = {"none": "plain", "identity": "residual"}
XLABEL = "position in the stack (0: its input, 1: its output)"
YLABEL = "gradient norm relative to the last unit"


def gradient_norms(columns: Mapping[str, np.ndarray]) -> Sheet:
    """Draw gradient norms on the trunk, relative to the last unit's, against relative position.

    A column of panels for each pair of norm and shortcut, a row for each step, a line for each
    depth: the geometric mean over seeds, in a band from the least to the largest. All panels have
    the same axes. Where width, activation, initialiser or convolution vary, the first value of
    each is drawn and named in the title. Rows whose gradient is not finite are left out.

    Args:
      columns: rows with ``norm``, ``shortcut``, ``width``, ``activation``, ``init``, ``conv``,
        ``depth``, ``step``, ``seed``, ``position`` (0 at the stack's input, 1, 2, … at its units,
        negative elsewhere) and ``gradient_log_norm``.

    Returns:
      The figure; ``plots.save`` writes it.

    Raises:
      ValueError: a column that is missing or of the wrong kind, or no row on the stack.

    Example:
      >>> import numpy as np
      >>> from convjax import plots
      >>> same = {"norm": "none", "shortcut": "none", "width": 8, "activation": "relu",
      ...         "init": "he", "conv": "dense", "depth": 8, "step": 0, "seed": 0}
      >>> columns = {name: np.full(4, value) for name, value in same.items()}
      >>> columns |= {"position": np.arange(4), "gradient_log_norm": -np.arange(4.0)}
      >>> len(plots.gradient_norms(columns).axes)
      1
    """
    columns = table_of("columns", columns, NUMBERS, TEXTS)
    rows = {name: column[columns["position"] >= 0] for name, column in columns.items()}
    if not len(rows["position"]):
        raise ValueError("columns have no row on the stack (position of at least 0)")
    held, more = _hold(rows)
    kinds = [key for key, _ in study.groups(held, FACETS)]
    steps = sorted(set(held["step"].tolist()))
    colours = _colours(sorted(set(held["depth"].tolist())))
    figure = Sheet(
        f"Gradient along the network{more}",
        [_panel(held, kind, step, colours) for step in steps for kind in kinds],
        columns=len(kinds),
        shared=True,
        figsize=(max(4.5, 0.9 + 2.05 * len(kinds)), 1.5 + 1.75 * len(steps)),
        layout="constrained",
    )
    grid: Any = figure.subplots(len(steps), len(kinds), sharex=True, sharey=True, squeeze=False)
    for axes, panel in zip(grid.flat, figure.panels, strict=True):
        _draw(axes, panel)
    for axes, kind in zip(grid[0], kinds, strict=True):
        axes.set_title(_title(kind), fontsize=9)
    for axes, step in zip(grid[:, -1], steps, strict=True):
        axes.annotate(
            _when(step),
            (1.03, 0.5),
            xycoords="axes fraction",
            rotation=-90,
            va="center",
            fontsize=9,
        )
    figure.supxlabel(XLABEL, fontsize=9)
    figure.supylabel(YLABEL, fontsize=9)
    _legend(figure, colours)
    return figure


def _hold(rows: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Keep the first value of what has no place in the figure, and name it."""
    named = []
    for name in HELD:
        values = list(dict.fromkeys(rows[name].tolist()))
        if len(values) > 1:
            rows = _where(rows, **{name: values[0]})
            named.append(f"{name} {values[0]}")
    return rows, f" ({', '.join(named)} only)" if named else ""


def _where(rows: Mapping[str, np.ndarray], **wanted: Any) -> dict[str, np.ndarray]:
    keep = np.logical_and.reduce([rows[name] == value for name, value in wanted.items()])
    return {name: column[keep] for name, column in rows.items()}


def _panel(
    rows: Mapping[str, np.ndarray], kind: Mapping[str, str], step: int, colours: dict[int, str]
) -> Panel:
    """Return one kind of network at one step: exponents of ten, since floats end at 308."""
    series = []
    for key, of_depth in study.groups(_where(rows, **kind, step=step), ["depth"]):
        lines = np.array(
            [
                (log - log[-1]) / np.log(10)
                for _, one in study.groups(of_depth, ["seed"])
                for log in [one["gradient_log_norm"]]
                if np.isfinite(log).all()
            ]
        )
        if not len(lines):
            continue
        last = lines.shape[1] - 1
        series.append(
            Series(
                f"depth {key['depth']}",
                np.linspace(0, 1, last + 1),
                lines.mean(0),
                lines.min(0),
                lines.max(0),
                joined=True,
                shaded=True,
                names=["the stack's input", *(f"unit {i} of {last}" for i in range(1, last + 1))],
                colour=colours[key["depth"]],
            )
        )
    return Panel(
        f"{_title(kind)}, {_when(step)}", XLABEL, YLABEL, series, yscale="powers", level=0.0
    )


def _draw(axes: Axes, panel: Panel) -> None:
    axes.axhline(0, color="0.6", linewidth=0.7, zorder=1)
    for one in panel.series:
        x, y, low, high = (np.asarray(a) for a in (one.x, one.y, one.low, one.high))
        axes.fill_between(x, low, high, color=one.colour, alpha=0.2, linewidth=0)
        axes.plot(x, y, color=one.colour, linewidth=1.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    _ticks.put(axes.yaxis, powers=True)
    axes.tick_params(labelsize=8, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)


def _colours(depths: list[int]) -> dict[int, str]:
    """Return one colour for each depth, darker for deeper; the lightest end is left out."""
    scale = matplotlib.colormaps["viridis"]
    places = np.linspace(0.85, 0.0, len(depths)) if len(depths) > 1 else [0.3]
    return {depth: to_hex(scale(place)) for depth, place in zip(depths, places, strict=True)}


def _title(kind: Mapping[str, str]) -> str:
    shortcut = SHORTCUTS.get(kind["shortcut"], f"{kind['shortcut']} shortcut")
    return f"{shortcut}, {NORMS.get(kind['norm'], kind['norm'] + ' norm')}"


def _when(step: int) -> str:
    return "at initialization" if step == 0 else f"after {step} step{'s' if step > 1 else ''}"


def _legend(figure: Sheet, colours: dict[int, str]) -> None:
    # As the legend's title, the figure's cannot collide with the legend.
    handles = [Line2D([], [], color=c, linewidth=2, label=f"depth {d}") for d, c in colours.items()]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        fontsize=9,
        title=figure.title,
        title_fontsize=10,
        frameon=False,
    )
