"""What a run leaves, as one table; and what a reader wants to see of it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import plots, train
from experiments import _outcome
from experiments._columns import pick
from experiments._outcome import Columns, Criterion, that

MOST_POINTS = 250
LAYERS_SHOWN = 3


def columns(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> Columns:
    """Return everything that was recorded, one row each; what does not apply is NaN or empty.

    ``kind`` says what a row is of: "train", a step; "test"; "layer", a layer at a watched step,
    named by ``path``; "run", the whole, with the facts.

    Args:
      rows: as ``train.read_rows`` returns them.
      facts: numbers and text that hold for the whole run.
    """
    paces = [
        row.get("time", {}).get("images_per_second", math.nan)
        for row in rows
        if row["kind"] == "train"
    ]
    parts = {
        "train": train.step_columns(rows) | {"images_per_second": np.array(paces, float)},
        "test": train.step_columns(rows, "test"),
        "layer": train.layer_columns(rows),
        "run": {"step": np.array([facts["steps"]])}
        | {name: np.array([value]) for name, value in facts.items()},
    }
    names = dict.fromkeys(name for part in parts.values() for name in part)
    joined: Columns = {
        "kind": np.repeat(list(parts), [len(part["step"]) for part in parts.values()])
    }
    for name in names:
        text = any(part[name].dtype.kind == "U" for part in parts.values() if name in part)
        missing = "" if text else np.nan
        filled = [
            part[name] if name in part else np.full(len(part["step"]), missing)
            for part in parts.values()
        ]
        joined[name] = np.concatenate(filled)
    return joined | {"step": joined["step"].astype(np.int64)}


def fact(columns: Columns, name: str) -> Any:
    """Return a number or text that holds for the whole run."""
    return pick(columns, kind="run")[name][0]


def final(columns: Columns) -> tuple[float, float]:
    """Return loss and accuracy of the last test, of the averaged weights where there are any."""
    last = pick(columns, kind="test")
    before = "average_" if fact(columns, "averaged") else ""
    return float(last[f"{before}loss"][-1]), float(last[f"{before}accuracy"][-1])


def judge(columns: Columns) -> list[Criterion]:
    """Return whether all was finite, and after an epoch whether the loss fell."""
    steps = pick(columns, kind="train")
    bad = int((~np.isfinite(steps["loss"])).sum())
    made = [that("every loss is finite", bad == 0, f"{bad} of {len(steps['loss'])} are not", "all")]
    if len(steps["loss"]) >= max(20, _epoch(columns)):
        tenth = len(steps["loss"]) // 10
        first, last = (float(steps["loss"][of].mean()) for of in _ends(tenth))
        told = f"{_outcome.digits(first)}, then {_outcome.digits(last)}"
        made.append(
            that("training: the last tenth's mean loss is lower", last < first, told, "lower")
        )
    return made


def _ends(count: int) -> tuple[slice, slice]:
    return slice(None, count), slice(-count, None)


def _epoch(columns: Columns) -> int:
    return max(1, int(fact(columns, "examples") // fact(columns, "batch_size")))


def table(columns: Columns) -> Table:
    """Return the last losses and accuracies, the speed, and the layers that move most and least."""
    return stacked([scores(columns), speed(columns), *layers(columns)])


def stacked(tables: Sequence[Table]) -> Table:
    """Return tables one below the other, as one."""
    grid = Table.grid()
    for i, inner in enumerate(tables):
        if i:
            grid.add_row("")
        grid.add_row(inner)
    return grid


def scores(columns: Columns) -> Table:
    """Return the last losses and accuracies."""
    steps = pick(columns, kind="train")
    last = _ends(min(_epoch(columns), len(steps["loss"])))[1]
    rows = [("training, mean of the last epoch", steps["loss"][last], steps["accuracy"][last])]
    tested = pick(columns, kind="test")
    rows.append(("test", tested["loss"][-1:], tested["accuracy"][-1:]))
    if fact(columns, "averaged"):
        found = tested["average_loss"][-1:], tested["average_accuracy"][-1:]
        rows.append(("test, averaged weights", *found))
    return _outcome.plain_table(
        f"{fact(columns, 'network')} after {fact(columns, 'steps'):,.0f} steps of "
        f"{fact(columns, 'batch_size'):.0f} images",
        ("of", "loss", "accuracy %"),
        [(told, float(loss.mean()), float(100 * right.mean())) for told, loss, right in rows],
    )


def speed(columns: Columns) -> Table:
    """Return images a second and wall time."""
    steps = pick(columns, kind="train")
    pace = steps["images_per_second"][np.isfinite(steps["images_per_second"])]
    first = int(fact(columns, "first"))
    since = f"from step {first}" if first else "from the first step"
    return _outcome.plain_table(
        "Speed",
        ("of", "measured"),
        [
            ("images a second, median", f"{np.median(pace):,.0f}" if len(pace) else "not known"),
            (
                f"wall time in s, {since}, compilation included",
                _outcome.digits(float(fact(columns, "seconds"))),
            ),
            ("processor time in s", _outcome.digits(float(fact(columns, "processor_seconds")))),
        ],
    )


def layers(columns: Columns) -> list[Table]:
    """Return the kernels that a step changes most and least, if any step was watched."""
    paths, ratios, gradients = ratios_of(columns)
    if not len(paths):
        return []
    order = np.argsort(-ratios)
    few = order if len(order) <= 2 * LAYERS_SHOWN else [*order[:LAYERS_SHOWN], *order[-3:]]
    return [
        _outcome.plain_table(
            "Kernels that a step changes most and least (medians)",
            ("layer", "|update| / |weights|", "|gradient|"),
            [(str(paths[i]), float(ratios[i]), float(gradients[i])) for i in few],
        )
    ]


def ratios_of(columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return paths of the kernels, their medians of update / weight, and those of the gradient."""
    rows = pick(columns, kind="layer")
    if not len(rows["step"]):
        return np.array([]), np.array([]), np.array([])
    kernels = np.char.endswith(rows["path"], "kernel") & (rows["weight"] > 0)
    rows = {name: column[kernels] for name, column in rows.items()}
    paths = np.array(list(dict.fromkeys(rows["path"].tolist())), str)
    found = [pick(rows, path=path) for path in paths]
    ratios = [np.median(one["update"] / one["weight"]) for one in found]
    gradients = [np.median(one["gradient"]) for one in found]
    return paths, np.array(ratios), np.array(gradients)


def draw(columns: Columns) -> Figure:
    """Draw losses, accuracies, gradient norm and rate over the steps, and how far kernels move."""
    steps, tested = pick(columns, kind="train"), pick(columns, kind="test")

    def learnt(name: str, scale: float = 1.0) -> list[plots.Series]:
        series = [_thinned("training", steps["step"], scale * steps[name])]
        beside = {"test": name}
        if fact(columns, "averaged"):
            beside["test, averaged weights"] = f"average_{name}"
        for label, column in beside.items():
            y = scale * tested[column]
            series.append(plots.Series(label, tested["step"], y, joined=True))
        return series

    def alone(name: str) -> list[plots.Series]:
        return [_thinned("training", steps["step"], steps[name])]

    panel = plots.Panel
    drawn = [
        panel("loss", "step", "cross-entropy, nats", learnt("loss"), yscale="log"),
        panel("accuracy", "step", "%", learnt("accuracy", 100.0)),
        panel("learning rate", "step", "rate", alone("learning_rate")),
        panel("gradient of all parameters", "step", "norm", alone("gradient_norm"), yscale="log"),
    ]
    paths, ratios, gradients = ratios_of(columns)
    if len(paths):
        places = np.arange(len(paths))
        for title, values in (("|update| / |weights|", ratios), ("|gradient|", gradients)):
            seen = values > 0
            points = plots.Series("training", places[seen], values[seen], joined=True)
            drawn.append(
                panel(f"{title}, median", "kernel, from input to output", title, [points], "linear")
            )
    return plots.panels(f"Training of {fact(columns, 'network')}", drawn)


def _thinned(label: str, steps: np.ndarray, values: np.ndarray) -> plots.Series:
    """Return means over neighbouring steps, at most so many."""
    bins = np.array_split(np.arange(len(steps)), min(MOST_POINTS, len(steps)))
    middle = [(steps[of].mean(), values[of].mean()) for of in bins]
    x, y = np.array(middle).T
    return plots.Series(label, x, y, joined=True)
