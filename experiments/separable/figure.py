"""What separable shows: the texts' sentences with their verdicts, and the figure."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich.table import Table

from convjax import plots
from convjax.lab import Columns, array, pick, rules, series
from experiments.separable import results
from experiments.separable.layers import COMPARED, FULL
from experiments.separable.results import FORWARD, windows
from experiments.separable.sentences import of_trained_kernels, sentences


def table(columns: Columns) -> Table:
    """Return the sentences with their verdicts."""
    every = sorted([*sentences(columns), *of_trained_kernels(columns)], key=lambda one: one.number)
    return rules.table("What texts say of these convolutions, and what a run says of it", every)


def draw(columns: Columns) -> Figure:
    """Draw times against counts and against bounds, errors by rank, and accuracies."""
    panel = plots.Panel
    logs: dict[str, Any] = {"xscale": "log", "yscale": "log"}
    ages, wide = "trained (points), random (line)", windows(columns)
    share, rate = "products, share of what is replaced", f"G products per second {FORWARD}"
    times = [_against(columns, layer) for layer in COMPARED]
    speeds = [_speed(columns, layer) for layer in (*COMPARED, FULL)]
    figure = plots.panels(
        "What separable convolutions cost and lose",
        [
            panel("time against products", share, f"time {FORWARD}, the same", times, **logs),
            panel("speed against bytes", "products per byte", rate, speeds, **logs),
            panel("accuracy by size", "parameters, thousands", "accuracy", _sizes(columns)),
            *(panel(f"{k}x{k}: {ages}", "rank", "error", [_errors(columns, k)]) for k in wide),
            panel("trained kernels cut to a rank", "rank", "accuracy", _cut(columns)),
        ],
    )
    _finish(figure, columns)
    return figure


def _finish(figure: Figure, columns: Columns) -> None:
    """Draw what times would follow, and write plain numbers on the logarithmic axes."""
    products, bytes_moved = figure.axes[:2]
    quiet: dict[str, Any] = {"color": "0.6", "linewidth": 0.7, "zorder": 1}
    products.axline((0.1, 0.1), (1, 1), **quiet)
    rate = results.named(columns, topic="machine")
    x = np.geomspace(*bytes_moved.get_xlim(), 100)
    bound = np.minimum(x * rate["bytes per second"], rate["products per second"])
    bytes_moved.plot(x, bound / 1e9, **quiet)
    for axes in (products, bytes_moved):
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())


def _against(columns: Columns, layer: str) -> plots.Series:
    at = results.places(columns, layer, "time")
    ratios = [float(one) for one in results.count_ratios(columns, layer, "multiply_adds", at)]
    return _quartiles(layer, ratios, results.time_ratios(columns, layer, FORWARD))


def _speed(columns: Columns, layer: str) -> plots.Series:
    per_byte, per_second = results.speeds(columns, layer)
    return _quartiles(layer, per_byte, per_second / 1e9)


def _quartiles(label: str, x: Any, rounds: np.ndarray) -> plots.Series:
    low, middle, high = np.quantile(rounds, (0.25, 0.5, 0.75), axis=1)
    return plots.Series(label, x, middle, low=low, high=high)


def _errors(columns: Columns, k: int) -> plots.Series:
    ranks = range(1, k + 1)
    learned, random = (
        np.stack([results.kernel_errors(columns, age, k, rank) for rank in ranks], axis=1)
        for age in ("trained", "random")
    )
    return series(FULL, list(ranks), learned, random.mean(0), joined=True)


def _sizes(columns: Columns) -> list[plots.Series]:
    rows = pick(columns, topic="training", quantity="parameters")
    made = []
    for layer, k in dict.fromkeys(zip(rows["name"], rows["kernel_size"].tolist(), strict=True)):
        size = pick(rows, name=layer, kernel_size=k)["value"][:1] / 1000
        found = results.last(columns, layer, "test_accuracy", k)
        made.append(series(layer, size, found[:, None], middle=np.median))
    return made


def _cut(columns: Columns) -> list[plots.Series]:
    how: dict[str, Any] = {"middle": np.median, "joined": True}
    rows = {k: pick(columns, topic="accuracy", kernel_size=k) for k in windows(columns)}
    return [
        series(FULL, np.arange(1, k + 1), array(of, "value", "seed", "number"), **how)
        for k, of in rows.items()
    ]
