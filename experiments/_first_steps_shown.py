"""What early-dynamics found: the table's columns as arrays, the figure, the printed table."""

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import plots
from experiments import _outcome
from experiments._columns import pick
from experiments._first_steps import (
    AWAKE,
    HE,
    LAYERS,
    NETWORKS,
    PLAIN,
    ROLES,
    SILENT,
    TRUNK,
    TWIN,
    WAKES,
    ZERO,
)
from experiments._outcome import Columns, digits


def by_seed_and_step(columns: Columns, network: str, name: str) -> np.ndarray:
    """Return a column of a network's equal layers as (seeds, steps, layers)."""
    rows = pick(columns, network=network, role=LAYERS)
    order = np.lexsort((rows["role"], rows["position"], rows["step"], rows["seed"]))
    seeds, steps = (len(np.unique(rows[axis])) for axis in ("seed", "step"))
    return rows[name][order].reshape(seeds, steps, -1)


def log_ranges(columns: Columns, network: str) -> np.ndarray:
    """Return ln(largest / smallest norm of a layer's weight gradient) as (seeds, steps)."""
    return np.ptp(by_seed_and_step(columns, network, "parameter_gradient_log_norm"), axis=2)


def along_trunk(columns: Columns, network: str) -> np.ndarray:
    """Return ln of the injected gradient's norm over that at the end as (seeds, places)."""
    rows = pick(columns, network=network, role=TRUNK)
    order = np.lexsort((rows["position"], rows["seed"]))
    logs = rows["gradient_log_norm"][order].reshape(len(np.unique(rows["seed"])), -1)
    return logs - logs[:, -1:]


def draw(columns: Columns) -> Figure:
    """Draw the ranges and the layers of batch norm, and what the zeros do."""
    panel = plots.Panel
    last = int(columns["step"].max())
    layer, step = "convolution, from the stem", "step"
    weights = "gradient / the last one's"
    return plots.panels(
        "The first steps: batch norm's explosion, and branches born at zero",
        [
            panel("range over layers", step, "largest / smallest", _ranges(columns), yscale="log"),
            panel("weights, at birth", layer, weights, _layers(columns, 0), yscale="log"),
            panel("weights, after 1 step", layer, weights, _layers(columns, 1), yscale="log"),
            panel(
                "activations, at birth",
                "unit",
                "gradient / the end's",
                _trunks(columns),
                yscale="log",
                level=1.0,
            ),
            panel("parameters of the units", step, "share with gradient 0", _shares(columns)),
            panel(f"training, {last} steps", step, "loss", _losses(columns), yscale="log"),
        ],
    )


def _spread(label: str, x: np.ndarray, y: np.ndarray) -> plots.Series:
    """Return the median over the first axis, with whiskers over all of it."""
    low, middle, high = y.min(axis=0), np.median(y, axis=0), y.max(axis=0)
    return plots.Series(label, x, middle, low=low, high=high, joined=True)


def _ranges(columns: Columns) -> list[plots.Series]:
    found = {name: np.exp(log_ranges(columns, name)) for name in (PLAIN, TWIN)}
    return [_spread(name, np.arange(y.shape[1]), y) for name, y in found.items()]


def _layers(columns: Columns, step: int) -> list[plots.Series]:
    made = []
    for name in (PLAIN, TWIN):
        logs = by_seed_and_step(columns, name, "parameter_gradient_log_norm")[:, step]
        middle = np.exp(np.mean(logs - logs[:, -1:], axis=0))
        made.append(plots.Series(name, 1 + np.arange(len(middle)), middle, joined=True))
    return made


def _trunks(columns: Columns) -> list[plots.Series]:
    made = []
    for i, name in enumerate((HE, *SILENT)):
        middle = np.exp(np.mean(along_trunk(columns, name), axis=0))
        # Three networks lie on one line: every third place each, so that all can be seen.
        places = (
            np.arange(len(middle)) if name == HE else np.arange(i - 1, len(middle), len(SILENT))
        )
        made.append(plots.Series(name, places, middle[places], joined=name == HE))
    return made


def _shares(columns: Columns) -> list[plots.Series]:
    steps = np.unique(columns["step"])[: AWAKE + 2]
    made = []
    for i, name in enumerate((HE, *SILENT)):
        rows = pick(columns, network=name, role=(*LAYERS, "factor"))
        zero = np.isneginf(rows["parameter_gradient_log_norm"])
        asleep = np.array([WAKES.get(name, {}).get(role, 0) for role in rows["role"]])
        measured = [zero[rows["step"] == step].mean() for step in steps]
        expected = [(step < asleep[rows["step"] == step]).mean() for step in steps]
        shifted = steps + 0.06 * (i - 1.5)
        made.append(plots.Series(name, shifted, measured, expected=expected))
    return made


def _losses(columns: Columns) -> list[plots.Series]:
    made = []
    for name in NETWORKS:
        rows = pick(columns, network=name, role="classifier")
        order = np.lexsort((rows["step"], rows["seed"]))
        losses = rows["loss"][order].reshape(len(np.unique(rows["seed"])), -1)
        made.append(plots.Series(name, range(losses.shape[1]), np.median(losses, 0), joined=True))
    return made


def table(columns: Columns) -> Table:
    """Return what was found before some of the steps."""
    steps = sorted({0, 1, 2, int(columns["step"].max())})
    rows = []
    for name in (PLAIN, TWIN):
        weights = by_seed_and_step(columns, name, "parameter_log_norm")
        gradients = by_seed_and_step(columns, name, "parameter_gradient_log_norm")
        for what, logs in (("|gradient|", gradients), ("|gradient| |W|", gradients + weights)):
            found = np.exp(np.median(np.ptp(logs, axis=2), axis=0))
            rows.append((name, f"range of {what}", *(digits(found[step]) for step in steps)))
    for name in (HE, *SILENT):
        rows.append((name, ZERO, *(_asleep(columns, name, step) for step in steps)))
    heads = ("network", "over the layers", *(f"step {step}" for step in steps))
    return _outcome.plain_table("Gradients of the weights, medians over the seeds", heads, rows)


def _asleep(columns: Columns, network: str, step: int) -> str:
    rows = pick(columns, network=network, step=step, state=ZERO)
    return ", ".join(role for role in ROLES if role in rows["role"]) or "none"
