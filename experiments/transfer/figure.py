"""The figure: accuracies by examples; by layer, signal, gradients and the way of the weights."""

import numpy as np
from matplotlib.figure import Figure

from convjax import plots
from convjax.lab import Columns
from experiments.transfer.sentences import ERRORS, budgets, error, of, per_layer, shifts
from experiments.transfer.trial import METHODS


def draw(columns: Columns) -> Figure:
    """Draw accuracies by examples; by layer, signal, gradients and the way of the weights."""
    hardest, most = shifts(columns)[-1], budgets(columns)[-1]
    many = len(shifts(columns)) > 1
    panel = plots.Panel

    def by_layer(title: str, label: str, name: str) -> plots.Panel:
        series = _by_layer(columns, hardest, most, name)
        return panel(title, "layer", f"{label} (all seeds)", series, yscale="log")

    return plots.panels(
        "Transfer to new classes in three ways; below, by layer: "
        f"{most} examples a class{f', {_placed(hardest)}' if many else ''}",
        [
            *(
                panel(
                    _placed(shift),
                    "examples a class",
                    "test accuracy (± 2 s.e.)",
                    _by_budget(columns, shift),
                )
                for shift in shifts(columns)
            ),
            by_layer("first step: output of a layer", "norm", "activation_log_norm"),
            by_layer("first step: gradient of it", "norm", "gradient_log_norm"),
            by_layer("first step: gradient of its weights", "norm", "parameter_gradient_log_norm"),
            by_layer("in the end: how far they went", "|dW| / |W|", "log_movement"),
        ],
    )


def _placed(shift: int) -> str:
    return f"images up to {shift} pixels off the centre" if shift else "images as they are"


def _by_budget(columns: Columns, shift: int) -> list[plots.Series]:
    counts = budgets(columns)
    series = []
    for method in METHODS:
        found = [of(columns, method, shift, n) for n in counts]
        mean = np.array([one.mean() for one in found])
        wide = ERRORS * np.array([error(one) for one in found])
        series.append(
            plots.Series(method, counts, mean, low=mean - wide, high=mean + wide, joined=True)
        )
    return series


def _by_layer(columns: Columns, shift: int, budget: int, name: str) -> list[plots.Series]:
    series = []
    for method in METHODS:
        logs = per_layer(columns, method, shift, budget, name)
        # What is given no gradient, or does not move, has no place on a logarithmic axis.
        place = np.flatnonzero(np.isfinite(logs).all(0))
        logs = logs[:, place]
        low, high = np.exp(logs.min(0)), np.exp(logs.max(0))
        middle = np.exp(logs.mean(0))
        series.append(plots.Series(method, place, middle, low=low, high=high, joined=True))
    return series
