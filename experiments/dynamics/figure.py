"""The figure, a waterfall for each network, and the printed table."""

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import lab, plots
from convjax.lab import Columns, digits, pick
from experiments.dynamics.criteria import along_trunk, layers, log_ranges
from experiments.dynamics.networks import (
    AWAKE,
    DECAYED,
    HE,
    LAYERS,
    NETWORKS,
    PLAIN,
    ROLES,
    SILENT,
    TWIN,
    WAKES,
    ZERO,
)
from experiments.dynamics.training import FIRST, TRAINED

# There are seven colours; the plain network without norm, which does not learn, is in the table.
SHOWN = (PLAIN, TWIN, HE, *SILENT, DECAYED)


def draw(columns: Columns) -> Figure:
    """Draw the first steps in the upper row, the zeros and training in the lower ones."""
    panel = plots.Panel
    layer, step = "convolution, from the stem", "step"
    weights = "gradient / the last one's"
    return plots.panels(
        "Gradients in the first steps and over training",
        [
            panel("range over layers", step, "largest / smallest", _ranges(columns), yscale="log"),
            panel("weights, initially", layer, weights, _layers(columns, 0), yscale="log"),
            panel("weights, after 1 step", layer, weights, _layers(columns, 1), yscale="log"),
            panel(
                "activations, initially",
                "unit",
                "gradient / the end's",
                _trunks(columns),
                yscale="log",
                level=1.0,
            ),
            panel("parameters of the units", step, "share with gradient 0", _shares(columns)),
            panel("training", step, "loss", _losses(columns), yscale="log"),
            panel(
                "weights before a norm",
                step,
                "|W|, median layer",
                _over_training(columns, "weight", (TWIN, DECAYED)),
            ),
            panel(
                "weights before a norm",
                step,
                "gradient, median layer",
                _over_training(columns, "gradient", (TWIN, DECAYED)),
                yscale="log",
            ),
            panel(
                "weights, over training",
                step,
                "largest / smallest gradient",
                _trained_ranges(columns),
                yscale="log",
            ),
        ],
    )


def waterfalls(columns: Columns) -> Iterator[tuple[str, Figure]]:
    """Yield a name and the gradients by layer and step of the first run of every network."""
    for network in (*NETWORKS, DECAYED):
        rows = pick(columns, phase=TRAINED, network=network, role=tuple(ROLES), seed=0)
        if not len(rows["step"]):
            continue
        place = np.array([list(ROLES).index(role) for role in rows["role"]])
        # A stem is before all units, the classifier behind them.
        unit = np.select([place == 0, place == len(ROLES) - 1], [-1, 1 << 30], rows["position"])
        order = np.lexsort((place, unit, rows["step"]))
        ordered = {name: column[order] for name, column in rows.items()}
        once = np.unique(ordered["step"], return_index=True)[1]
        losses = {name: ordered[name][once] for name in ("step", "loss")}
        figure = plots.waterfall(ordered, losses, title=f"{network}: gradient norm over training")
        yield "_".join(network.replace(",", "").lower().split()), figure


def _spread(label: str, x, y: np.ndarray) -> plots.Series:
    """Return the median over the first axis, with whiskers over all of it."""
    low, middle, high = y.min(axis=0), np.median(y, axis=0), y.max(axis=0)
    return plots.Series(label, x, middle, low=low, high=high, joined=True)


def _ranges(columns: Columns) -> list[plots.Series]:
    found = {name: np.exp(log_ranges(columns, name)) for name in (PLAIN, TWIN)}
    return [_spread(name, np.arange(y.shape[1]), y) for name, y in found.items()]


def _layers(columns: Columns, step: int) -> list[plots.Series]:
    made = []
    for name in (PLAIN, TWIN):
        logs = np.log(layers(columns, FIRST, name, "gradient")[:, step])
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
    steps = np.unique(pick(columns, phase=FIRST)["step"])[: AWAKE + 2]
    made = []
    for i, name in enumerate((HE, *SILENT)):
        rows = pick(columns, phase=FIRST, network=name, role=(*LAYERS, "factor"))
        zero = rows["gradient"] == 0
        asleep = np.array([WAKES.get(name, {}).get(role, 0) for role in rows["role"]])
        measured = [zero[rows["step"] == step].mean() for step in steps]
        expected = [(step < asleep[rows["step"] == step]).mean() for step in steps]
        shifted = steps + 0.06 * (i - 1.5)
        made.append(plots.Series(name, shifted, measured, expected=expected))
    return made


def _losses(columns: Columns) -> list[plots.Series]:
    found = {name: losses(columns, name) for name in SHOWN}
    return [_spread(name, *pair) for name, pair in found.items()]


def losses(columns: Columns, network: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the watched steps of training, and their losses as (seeds, steps)."""
    rows = pick(columns, phase=TRAINED, network=network, role="classifier")
    return np.unique(rows["step"]), lab.array(rows, "loss", "seed", "step")


def _over_training(columns: Columns, name: str, networks: tuple[str, ...]) -> list[plots.Series]:
    made = []
    for network in networks:
        steps = losses(columns, network)[0]
        found = np.median(layers(columns, TRAINED, network, name, "first"), axis=2)
        made.append(_spread(network, steps, found))
    return made


def _trained_ranges(columns: Columns) -> list[plots.Series]:
    made = []
    for network in SHOWN:
        steps, _ = losses(columns, network)
        logs = np.median(log_ranges(columns, network, TRAINED), axis=0)
        kept = np.isfinite(logs)
        made.append(plots.Series(network, steps[kept], np.exp(logs[kept]), joined=True))
    return made


def table(columns: Columns) -> Table:
    """Return ranges before some of the first steps and at the end, and what is zero."""
    first = np.unique(pick(columns, phase=FIRST)["step"])
    trained = losses(columns, PLAIN)[0]
    early = sorted({0, 1, 2, int(first.max())})
    rows = []
    for name in (*NETWORKS, DECAYED):
        gaps = ("",) * len(early)
        if name != DECAYED:
            values = layers(columns, FIRST, name, "gradient")
            gaps = [_range(values[:, step]) for step in early]
        late = _range(layers(columns, TRAINED, name, "gradient")[:, -1])
        loss = np.median(losses(columns, name)[1][:, -1])
        rows.append((name, *gaps, late, digits(float(loss), 3)))
        if name in SILENT:
            asleep = [_asleep(columns, name, step) for step in early]
            rows.append((f"  {ZERO}", *asleep, "", ""))
    heads = ("network", *(f"step {step}" for step in early), f"trained {trained[-1]}", "loss")
    title = "Largest / smallest weight gradient over the layers; medians over the seeds"
    return lab.plain_table(title, heads, rows)


def _range(gradients: np.ndarray) -> str:
    """Write the range of (seeds, layers), or the share that is zero."""
    zero = (gradients == 0).mean()
    if zero:
        return f"{zero:.0%} zero"
    return digits(float(np.median(gradients.max(1) / gradients.min(1))))


def _asleep(columns: Columns, network: str, step: int) -> str:
    rows = pick(columns, phase=FIRST, network=network, step=step, state=ZERO)
    return ", ".join(role for role in ROLES if role in rows["role"]) or "none"
