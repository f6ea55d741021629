"""What transfer shows: accuracies by examples, layers, and the sentences with their verdicts."""

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import lab, plots
from convjax.lab import Columns, rules
from experiments.transfer.sentences import (
    ERRORS,
    accuracies,
    budgets,
    layers,
    methods,
    sentences,
    shifts,
)
from experiments.transfer.trial import SCRATCH, TUNED


def draw(columns: Columns) -> Figure:
    """Draw accuracies by examples; by layer, signal, gradients and the way of the weights."""
    counts, every, found = budgets(columns), shifts(columns), accuracies(columns)

    def by_budget(place: int) -> plots.Panel:
        drawn = [
            lab.series(method, counts, values[place].T, errors=ERRORS, joined=True)
            for method, values in found.items()
        ]
        title = _placed(every[place])
        return plots.Panel(title, "examples a class", "test accuracy (± 2 s.e.)", drawn)

    def by_layer(title: str, label: str, name: str) -> plots.Panel:
        drawn = []
        for method in methods(columns):
            logs = layers(columns, method, name)[-1, -1]
            # What is given no gradient, or does not move, has no place on a logarithmic axis.
            place = np.flatnonzero(np.isfinite(logs).all(0))
            drawn.append(lab.series(method, place, logs[:, place], logs=True, joined=True))
        return plots.Panel(title, "layer", f"{label} (all seeds)", drawn, yscale="log")

    where = f", {_placed(every[-1])}" if len(every) > 1 else ""
    most = f"{counts[-1]} examples a class{where}"
    return plots.panels(
        f"Transfer to new classes in {len(found)} ways; below, by layer: {most}",
        [
            *map(by_budget, range(len(every))),
            by_layer("first step: output of a layer", "norm", "activation_log_norm"),
            by_layer("first step: gradient of it", "norm", "gradient_log_norm"),
            by_layer("first step: gradient of its weights", "norm", "parameter_gradient_log_norm"),
            by_layer("in the end: gradient of it", "norm", "end_gradient_log_norm"),
            by_layer(
                "in the end: gradient of its weights", "norm", "end_parameter_gradient_log_norm"
            ),
            by_layer("in the end: how far they went", "|dW| / |W|", "log_movement"),
        ],
    )


def _placed(shift: int) -> str:
    return f"images up to {shift} pixels off the centre" if shift else "images as they are"


def table(columns: Columns) -> Table:
    """Return the accuracies, and under them the sentences with their verdicts."""
    both = Table.grid(padding=(0, 0, 1, 0))
    both.add_row(scores(columns))
    title = "What course texts say, and what this run says of it, mean over seeds ± s.e."
    both.add_row(rules.table(title, sentences(columns)))
    return both


def scores(columns: Columns) -> Table:
    """Return test accuracies, one row for each shift and number of examples."""
    found, rows = accuracies(columns), []
    for i, shift in enumerate(shifts(columns)):
        for j, budget in enumerate(budgets(columns)):
            ways = [found[method][i, j] for method in methods(columns)]
            cells = [f"{one.mean():.3f} ± {one.std(ddof=1):.3f}" for one in ways]
            rows.append((f"{shift}", budget, *cells, worth(columns, i, j)))
    heads = ("shift", "examples a class", *methods(columns), "as good from scratch")
    seeds = len(np.unique(columns["seed"]))
    title = f"Test accuracy, mean ± standard deviation over {seeds} seeds"
    return lab.plain_table(title, heads, rows)


def worth(columns: Columns, shift: int, budget: int) -> str:
    """Say how many examples from scratch are as good as fine-tuning, at these places."""
    counts, found = budgets(columns), accuracies(columns)
    means, reached = found[SCRATCH][shift].mean(1), found[TUNED][shift, budget].mean()
    if reached < means[0]:
        return f"below {counts[0]}"
    if reached > max(means):
        return f"above {counts[-1]}"
    # The accuracy of the best budget up to here, so that the way back is one.
    best = np.maximum.accumulate(means)
    return lab.digits(np.exp(np.interp(reached, best, np.log(counts))), 2)
