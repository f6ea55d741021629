"""waterfall: gradient norms by layer and step, under the loss."""

import fnmatch
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from convjax import _check
from convjax.plots._bins import medians
from convjax.plots._columns import check_words, table_of
from convjax.plots._ticks import ticks

MOST_BINS = 400
SCALE = "viridis"
# Apart from every colour of the scale in lightness or hue, for the colour-blind as well.
UNWATCHED, ZERO, NOT_FINITE = "0.82", "white", "#ff2a00"
NAMES = {
    "gradient": "gradient norm",
    "update": "update norm",
    "weight": "weight norm",
    "signal": "activation gradient norm",
}
LONGEST_NAME = 34


class Grid(NamedTuple):
    """A number by step and layer: NaN where none was watched, ∞ where it was not finite."""

    steps: np.ndarray
    paths: list[str]
    values: np.ndarray


def waterfall(
    columns: Mapping[str, np.ndarray],
    losses: Mapping[str, np.ndarray] | None = None,
    *,
    quantity: str = "gradient",
    match: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a norm by layer and step as colour, on a logarithmic scale, under the loss.

    Layers run downwards in the order in which they first appear. Of more than 400 watched steps,
    neighbours are drawn as one: the median, or not finite where one of them is not. What is zero,
    what was not watched and what is NaN or infinite have colours of their own.

    Args:
      columns: a line for each step and layer, as ``train.layer_columns`` returns: ``step``,
        ``path`` and the quantity.
      losses: ``step`` and ``loss``, as ``train.step_columns`` returns; None draws no loss.
      quantity: which column: ``"gradient"``, ``"update"``, ``"weight"``, ….
      match: which paths, such as ``"stage2/*"``; None takes all that end in ``kernel`` if there are
        any, and otherwise all.
      title: above everything; None says what is drawn.

    Returns:
      The figure; ``plots.save`` writes it.

    Raises:
      ValueError: no such column, no row, two rows of one step and path, or no path that matches.

    Example:
      >>> import numpy as np
      >>> from convjax import plots
      >>> step, layer = np.indices((20, 3)).reshape(2, -1)
      >>> path = np.array(["stem", "unit", "head"])[layer]
      >>> columns = {"step": step, "path": path, "gradient": 10.0 ** (layer - step / 5)}
      >>> figure = plots.waterfall(columns, {"step": np.arange(20), "loss": 0.9 ** np.arange(20)})
      >>> [axes.get_ylabel() for axes in figure.axes]
      ['loss', 'layer, from input to output', 'gradient norm']
    """
    check_words(quantity, match, title)
    if losses is not None:
        losses = table_of("losses", losses, ("step", "loss"))
    columns = table_of("columns", columns, ("step",), ("path",))
    return figure_of(
        grid_of(columns, quantity), losses, quantity=quantity, match=match, title=title
    )


def grid_of(columns: Mapping[str, np.ndarray], quantity: str) -> Grid:
    """Return a column as a grid; a path whose every number is NaN has no such quantity."""
    if quantity not in columns:
        _check.refuse("quantity", quantity, set(columns) - {"step", "path"})
    steps, row = np.unique(columns["step"], return_inverse=True)
    every = columns["path"].tolist()
    place = {path: i for i, path in enumerate(dict.fromkeys(every))}
    values = np.full((len(steps), len(place)), np.nan)
    column = np.array([place[path] for path in every], int)
    if len(np.unique(row * len(place) + column)) < len(every):
        raise ValueError("columns have several rows of one step and path; give those of one run")
    value = table_of("columns", columns, (quantity,))[quantity].astype(float)
    values[row, column] = np.where(np.isfinite(value), value, np.inf)
    has = np.zeros(len(place), bool)
    np.logical_or.at(has, column, ~np.isnan(value))
    keep = has if has.any() else ~has
    return Grid(
        steps, [path for path, kept in zip(place, keep, strict=True) if kept], values[:, keep]
    )


def figure_of(
    grid: Grid,
    losses: Mapping[str, np.ndarray] | None,
    *,
    quantity: str,
    match: str | None,
    title: str | None,
) -> Figure:
    """Return the figure of a grid."""
    steps, paths, values = _matching(grid, match)
    tall = float(np.clip(0.13 * len(paths), 2.2, 6.5))
    above = 0.0 if losses is None else 1.1
    figure = Figure(figsize=(8.2, tall + above + 1.1), layout="constrained")
    axes: Any = figure.subplots(
        1 if losses is None else 2,
        sharex=True,
        squeeze=False,
        height_ratios=[tall] if losses is None else [above, tall],
    )[:, 0]
    if losses is not None:
        _draw_loss(axes[0], losses)
    name = NAMES.get(quantity, quantity)
    with np.errstate(divide="ignore"):
        edges, logs, *_ = medians(steps, np.log10(values), MOST_BINS)
    if losses is not None and len(losses["step"]):
        # Steps after the last watched one, but before another would have been.
        edges[-1] = np.clip(losses["step"].max(), edges[-1], 2 * edges[-1] - edges[-2])
    _draw_grid(figure, axes[-1], edges, logs, name, tall)
    _name_layers(axes[-1], paths, tall)
    axes[-1].set_xlim(edges[0], edges[-1])
    axes[-1].set_xlabel("training step", fontsize=8.5)
    axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    figure.suptitle(title or f"{name[0].upper()}{name[1:]} by layer and step", fontsize=10)
    _legend(figure, steps, paths, values)
    return figure


def _matching(grid: Grid, match: str | None) -> Grid:
    keep = [fnmatch.fnmatchcase(path, match or "*kernel") for path in grid.paths]
    if match is None and not any(keep):
        keep = [True] * len(keep)
    if not any(keep):
        some = ", ".join(grid.paths[:5]) or "none at all"
        raise ValueError(f"match={match!r} fits no layer that was watched; there are {some}, …")
    kept = [path for path, here in zip(grid.paths, keep, strict=True) if here]
    return Grid(grid.steps, kept, grid.values[:, keep])


def _draw_grid(
    figure: Figure, axes: Axes, edges: np.ndarray, logs: np.ndarray, name: str, tall: float
) -> None:
    low, high, extend = _range(logs[np.isfinite(logs)])
    cells = np.arange(logs.shape[1] + 1) - 0.5
    axes.set_facecolor(UNWATCHED)
    mesh = axes.pcolormesh(
        edges,
        cells,
        np.ma.masked_invalid(logs).T,
        cmap=SCALE,
        vmin=low,
        vmax=high,
        rasterized=True,
    )
    for mark, colour in ((-np.inf, ZERO), (np.inf, NOT_FINITE)):
        if (logs == mark).any():
            marked = np.ma.masked_where(logs != mark, np.zeros_like(logs)).T
            axes.pcolormesh(edges, cells, marked, cmap=ListedColormap([colour]), rasterized=True)
    bar = figure.colorbar(mesh, ax=axes, pad=0.015, aspect=8 * tall, extend=extend)
    bar.set_label(name, fontsize=8.5)
    places, labels = ticks(low, high, most=7)
    bar.set_ticks(places, labels=labels)
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=8, length=2.5)


def _range(logs: np.ndarray) -> tuple[float, float, Any]:
    """Return the ends of the scale, and on which sides something lies far beyond them."""
    if not len(logs):
        return -0.5, 0.5, "neither"
    least, most = float(logs.min()), float(logs.max())
    low, high = np.percentile(logs, [0.5, 99.5]).tolist()
    margin = 0.25 * (high - low) + 0.05
    low, high = max(least, low - margin), min(most, high + margin)
    if high - low < 0.1:
        low, high = (low + high) / 2 - 0.5, (low + high) / 2 + 0.5
    sides = {(True, True): "both", (True, False): "min", (False, True): "max"}
    return low, high, sides.get((least < low, most > high), "neither")


def _name_layers(axes: Axes, paths: list[str], tall: float) -> None:
    axes.set_ylim(len(paths) - 0.5, -0.5)
    ends = {path.rpartition("/")[2] for path in paths}
    cut = len(ends.pop()) + 1 if len(ends) == 1 and all("/" in path for path in paths) else 0
    apart = -(-len(paths) // max(2, int(tall / 0.13)))
    places = np.arange(0, len(paths), apart)
    if places[-1] != len(paths) - 1:
        places = np.append(places[places < len(paths) - apart], len(paths) - 1)
    names = [paths[i][: len(paths[i]) - cut] for i in places]
    axes.set_yticks(places, [_shortened(name) for name in names])
    axes.tick_params(axis="y", labelsize=6.5, length=2)
    axes.tick_params(axis="x", labelsize=8, length=2.5)
    axes.set_ylabel("layer, from input to output", fontsize=8.5)


def _shortened(name: str) -> str:
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def _draw_loss(axes: Axes, losses: Mapping[str, np.ndarray]) -> None:
    steps, loss = losses["step"], losses["loss"].astype(float)
    order = np.argsort(steps, kind="stable")
    loss = np.where(np.isfinite(loss), loss, np.nan)[order, None]
    edges, middle, low, high = medians(steps[order], loss, MOST_BINS)
    x = (edges[1:] + edges[:-1]) / 2
    colour = matplotlib.colormaps[SCALE](0.3)
    if len(steps) > len(x):
        axes.fill_between(x, low[:, 0], high[:, 0], color=colour, alpha=0.2, linewidth=0)
    axes.plot(x, middle[:, 0], color=colour, linewidth=1.0)
    positive = loss[loss > 0]
    if len(positive) == np.isfinite(loss).sum() > 0 and positive.max() > 20 * positive.min():
        axes.set_yscale("log")
        low, high = np.log10([positive.min(), positive.max()])
        places, labels = ticks(low, high, most=4)
        axes.set_yticks([10.0**place for place in places], labels)
        axes.minorticks_off()
    axes.set_ylabel("loss", fontsize=8.5)
    axes.tick_params(which="both", labelsize=8, length=2.5, labelbottom=False)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, steps: np.ndarray, paths: list[str], values: np.ndarray) -> None:
    marks = {ZERO: "zero"} if (values == 0).any() else {}
    if np.isnan(values).any():
        marks[UNWATCHED] = "not watched"
    if np.isinf(values).any():
        when, where = np.argwhere(np.isinf(values))[0]
        marks[NOT_FINITE] = f"NaN or infinite, first in step {steps[when]:,} at {paths[where]}"
    if marks:
        handles = [Patch(facecolor=c, edgecolor="0.4", label=label) for c, label in marks.items()]
        figure.legend(handles=handles, loc="outside lower left", ncols=3, fontsize=8, frameon=False)
