"""The figure, a waterfall for each network, and the printed table."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import lab, plots
from convjax.lab import Columns, digits, pick
from experiments.dynamics import networks
from experiments.dynamics.criteria import along_trunk, layers, log_ranges
from experiments.dynamics.networks import DECAYED, HE, NETWORKS, PLAIN, ROLES, SILENT, TWIN
from experiments.dynamics.training import FIRST, TRAINED

# There are seven colours; the plain network without norm, which does not learn, is in the table.
SHOWN = (PLAIN, TWIN, HE, *SILENT, DECAYED)


def draw(columns: Columns) -> Figure:
    """Draw the first steps in the upper row, the zeros and training in the lower ones."""
    watched = np.unique(pick(columns, phase=TRAINED)["step"])

    def panel(title, across, up, series, yscale: Any = "log", level=None):
        return plots.Panel(title, across, up, list(series), yscale=yscale, level=level)

    def over_training(name):
        found = ((of, layers(columns, TRAINED, of, name, "first")) for of in (TWIN, DECAYED))
        return [_line(of, watched, np.median(values, axis=2)) for of, values in found]

    ranges = ((name, np.exp(log_ranges(columns, name))) for name in (PLAIN, TWIN))
    ranges = (_line(name, np.arange(found.shape[1]), found) for name, found in ranges)
    losses = (_line(name, watched, losses_of(columns, name)) for name in SHOWN)
    layer, weights = "convolution, from the stem", "gradient / the last one's"
    initial, later = (_layers(columns, step) for step in (0, 1))
    trunks, shares, normed = _trunks(columns), _shares(columns), "weights before a norm"
    lengths, gradients = (over_training(name) for name in ("weight", "gradient"))
    late, largest = _trained_ranges(columns, watched), "largest / smallest gradient"
    return plots.panels(
        "Gradients in the first steps and over training",
        [
            panel("range over layers", "step", "largest / smallest", ranges),
            panel("weights, initially", layer, weights, initial),
            panel("weights, after 1 step", layer, weights, later),
            panel("activations, initially", "unit", "gradient / the end's", trunks, level=1.0),
            panel("parameters of the units", "step", "share with gradient 0", shares, "linear"),
            panel("training", "step", "loss", losses),
            panel(normed, "step", "|W|, median layer", lengths, "linear"),
            panel(normed, "step", "gradient, median layer", gradients),
            panel("weights, over training", "step", largest, late),
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


def _line(label: str, x: np.ndarray, values: np.ndarray) -> plots.Series:
    return lab.series(label, x, values, middle=np.median, joined=True)


def _layers(columns: Columns, step: int) -> Iterator[plots.Series]:
    for name in (PLAIN, TWIN):
        logs = np.log(layers(columns, FIRST, name, "gradient")[:, step])
        middle = np.exp(np.mean(logs - logs[:, -1:], axis=0))
        yield plots.Series(name, 1 + np.arange(len(middle)), middle, joined=True)


def _trunks(columns: Columns) -> Iterator[plots.Series]:
    for i, name in enumerate((HE, *SILENT)):
        middle = np.exp(np.mean(along_trunk(columns, name), axis=0))
        # Three networks lie on one line: every third place each, so that all can be seen.
        start, apart = (0, 1) if name == HE else (i - 1, len(SILENT))
        places = np.arange(start, len(middle), apart)
        yield plots.Series(name, places, middle[places], joined=name == HE)


def _shares(columns: Columns) -> Iterator[plots.Series]:
    steps = np.unique(pick(columns, phase=FIRST)["step"])[: networks.AWAKE + 2]
    for i, name in enumerate((HE, *SILENT)):
        rows = pick(columns, phase=FIRST, network=name, role=(*networks.LAYERS, "factor"))
        zero, asleep = rows["gradient"] == 0, rows["step"] < networks.wakes(rows)
        measured, expected = (
            [share[rows["step"] == step].mean() for step in steps] for share in (zero, asleep)
        )
        yield plots.Series(name, steps + 0.06 * (i - 1.5), measured, expected=expected)


def losses_of(columns: Columns, network: str) -> np.ndarray:
    """Return the losses of the watched steps of training, as (seeds, steps)."""
    rows = pick(columns, phase=TRAINED, network=network, role="classifier")
    return lab.array(rows, "loss", "seed", "step")


def _trained_ranges(columns: Columns, steps: np.ndarray) -> Iterator[plots.Series]:
    for network in SHOWN:
        logs = np.median(log_ranges(columns, network, TRAINED), axis=0)
        kept = np.isfinite(logs)
        yield plots.Series(network, steps[kept], np.exp(logs[kept]), joined=True)


def table(columns: Columns) -> Table:
    """Return ranges before some of the first steps and at the end, and what is zero."""
    early = sorted({0, 1, 2, int(pick(columns, phase=FIRST)["step"].max())})
    rows = []
    for name in (*NETWORKS, DECAYED):
        gaps = [""] * len(early)
        if name != DECAYED:
            values = layers(columns, FIRST, name, "gradient")
            gaps = [_range(values[:, step]) for step in early]
        late = _range(layers(columns, TRAINED, name, "gradient")[:, -1])
        loss = np.median(losses_of(columns, name)[:, -1])
        rows.append((name, *gaps, late, digits(float(loss), 3)))
        if name in SILENT:
            asleep = [_asleep(columns, name, step) for step in early]
            rows.append((f"  {networks.ZERO}", *asleep, "", ""))
    trained = pick(columns, phase=TRAINED)["step"].max()
    heads = ("network", *(f"step {step}" for step in early), f"trained {trained}", "loss")
    title = "Largest / smallest weight gradient over the layers; medians over the seeds"
    return lab.plain_table(title, heads, rows)


def _range(gradients: np.ndarray) -> str:
    """Write the range of (seeds, layers), or the share that is zero."""
    zero = (gradients == 0).mean()
    if zero:
        return f"{zero:.0%} zero"
    return digits(float(np.median(gradients.max(1) / gradients.min(1))))


def _asleep(columns: Columns, network: str, step: int) -> str:
    rows = pick(columns, phase=FIRST, network=network, step=step, state=networks.ZERO)
    return ", ".join(role for role in ROLES if role in rows["role"]) or "none"
