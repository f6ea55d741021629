"""What degradation shows: loss curves, lesions and features along depth, and their table."""

import itertools

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import lab, plots
from convjax.lab import Columns
from experiments.claims.networks import PLAIN, RESIDUAL
from experiments.degradation.criteria import area, compared, depths, found, last, lost
from experiments.degradation.networks import TWINS

POINTS = 30
"""Of a loss curve: means over as many stretches of steps."""


def draw(columns: Columns) -> Figure:
    """Draw the losses, the accuracy lost with units and layers, and the features along depth."""
    panel = plots.Panel
    shallow, deep = compared(columns)
    both = list(itertools.product(TWINS, (shallow, deep)))
    curves = [_curve(columns, *of) for of in both]
    place = "place in the network, as a share of depth"
    return plots.panels(
        "Degradation: plain and residual twins trained on the digits",
        [
            panel("training loss", "step", "loss of the batches", curves, yscale="log"),
            panel(
                f"one layer taken out, {shallow} layers",
                place,
                "accuracy lost",
                [_along(columns, twin, shallow, "without_layer") for twin in TWINS],
            ),
            panel(
                "one unit taken out",
                place,
                "accuracy lost",
                [_along(columns, PLAIN, shallow, "without")]
                + [_along(columns, RESIDUAL, depth, "without") for depth in (shallow, deep)],
            ),
            panel(
                "one unit taken out, residual",
                place,
                "loss",
                [_along(columns, RESIDUAL, depth, "without_loss") for depth in (shallow, deep)],
                yscale="log",
            ),
            panel(
                "features against the stem's",
                place,
                "correlation",
                [_along(columns, twin, depth, "correlation") for twin, depth in both],
            ),
            panel(
                "features against the stem's",
                place,
                "kernel alignment (CKA)",
                [_along(columns, twin, depth, "cka") for twin, depth in both],
            ),
        ],
    )


def _curve(columns: Columns, twin: str, depth: int) -> plots.Series:
    losses = found(columns, twin, depth, "batch_loss")
    steps = np.array_split(np.arange(losses.shape[1]), min(POINTS, losses.shape[1]))
    means = np.stack([losses[:, part].mean(1) for part in steps], axis=1)
    return _spread(f"{twin}, {depth} layers", [part.mean() for part in steps], means)


def _along(columns: Columns, twin: str, depth: int, quantity: str) -> plots.Series:
    if quantity in ("without", "without_layer"):
        values = lost(columns, twin, depth, quantity)
    else:
        values = found(columns, twin, depth, quantity)
    place = (np.arange(values.shape[1]) + 0.5) / values.shape[1]
    return _spread(f"{twin}, {depth} layers", place, values)


def _spread(label: str, x, y: np.ndarray) -> plots.Series:
    """Return the median over the seeds, with whiskers over all of them."""
    return plots.Series(label, x, np.median(y, 0), y.min(0), y.max(0), joined=True)


def table(columns: Columns) -> Table:
    """Return losses, accuracies, lesions and features of every network, medians over the seeds."""
    rows = []
    for twin, depth in itertools.product(TWINS, depths(columns)):
        units, layers = (lost(columns, twin, depth, what) for what in ("without", "without_layer"))
        values = (
            last(columns, twin, depth),
            area(columns, twin, depth),
            found(columns, twin, depth, "whole_accuracy"),
            found(columns, twin, depth, "test_accuracy"),
            np.median(layers, 1),
            np.median(units, 1),
            found(columns, twin, depth, "correlation").mean(1),
            found(columns, twin, depth, "cka").mean(1),
        )
        rows.append((f"{twin}, {depth}", *(f"{np.median(v):.3g}" for v in values)))
    heads = ("network", "loss: end", "mean", "accuracy", "test")
    heads += ("lost: a layer", "a unit", "correlation", "CKA")
    return lab.plain_table("Plain and residual twins, medians over the seeds", heads, rows)
