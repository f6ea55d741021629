"""What degradation shows: loss curves, lesions and features along depth, and their table."""

import itertools

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import lab, plots
from convjax.lab import Columns
from experiments.degradation.criteria import area, depths, found, last, lost
from experiments.degradation.networks import PLAIN, RESIDUAL, TITLES, TWINS

POINTS = 30
"""Of a loss curve: means over as many stretches of steps."""


def draw(columns: Columns) -> Figure:
    """Draw the losses, the accuracy lost with units and layers, and the features along depth."""
    shallow, *_, deep = depths(columns)
    residual = [(RESIDUAL, shallow), (RESIDUAL, deep)]
    every = [(PLAIN, shallow), (PLAIN, deep), *residual]

    def panel(title, label, quantity, networks, **options):
        drawn = [_along(columns, twin, depth, quantity) for twin, depth in networks]
        place = "place in the network, as a share of depth"
        return plots.Panel(title, place, label, drawn, **options)

    curves = [_curve(columns, twin, depth) for twin, depth in every]
    layer, unit, stem = "one layer taken out", "one unit taken out", "features against the stem's"
    twins = [(twin, shallow) for twin in TWINS]
    return plots.panels(
        f"Degradation: plain and residual twins trained on {TITLES[str(columns['data'][0])]}",
        [
            plots.Panel("training loss", "step", "loss of the batches", curves, yscale="log"),
            panel(f"{layer}, {shallow} layers", "accuracy lost", "without_layer", twins),
            panel(unit, "accuracy lost", "without", [(PLAIN, shallow), *residual]),
            panel(f"{unit}, residual", "loss", "without_loss", residual, yscale="log"),
            panel(stem, "correlation", "correlation", every),
            panel(stem, "kernel alignment (CKA)", "cka", every),
        ],
    )


def _curve(columns: Columns, twin: str, depth: int) -> plots.Series:
    losses = found(columns, twin, depth, "batch_loss")
    steps = np.array_split(np.arange(losses.shape[1]), min(POINTS, losses.shape[1]))
    means = np.stack([losses[:, part].mean(1) for part in steps], axis=1)
    return _series(twin, depth, [part.mean() for part in steps], means)


def _along(columns: Columns, twin: str, depth: int, quantity: str) -> plots.Series:
    take = lost if quantity in ("without", "without_layer") else found
    values = take(columns, twin, depth, quantity)
    return _series(twin, depth, (np.arange(values.shape[1]) + 0.5) / values.shape[1], values)


def _series(twin: str, depth: int, x, values: np.ndarray) -> plots.Series:
    return lab.series(f"{twin}, {depth} layers", x, values, middle=np.median, joined=True)


def table(columns: Columns) -> Table:
    """Return losses, accuracies, lesions and features of every network, medians over the seeds."""
    shown = {
        "loss: end": last,
        "mean": area,
        "accuracy": lambda *of: found(*of, quantity="whole_accuracy"),
        "test": lambda *of: found(*of, quantity="test_accuracy"),
        "lost: a layer": lambda *of: np.median(lost(*of, what="without_layer"), 1),
        "a unit": lambda *of: np.median(lost(*of), 1),
        "correlation": lambda *of: found(*of, quantity="correlation").mean(1),
        "CKA": lambda *of: found(*of, quantity="cka").mean(1),
    }
    rows = [
        (
            f"{twin}, {depth}",
            *(f"{np.median(take(columns, twin, depth)):.3g}" for take in shown.values()),
        )
        for twin, depth in itertools.product(TWINS, depths(columns))
    ]
    return lab.plain_table(
        "Plain and residual twins, medians over the seeds", ("network", *shown), rows
    )
