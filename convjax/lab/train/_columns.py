"""What runs leave, as one table; and what a reader wants to see of them.

The runs of a table are of one kind, and differ in their seeds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table

from convjax import lab, plots, train
from convjax.lab import Columns, Criterion, pick, that

MOST_POINTS = 250
LAYERS_SHOWN = 3
# Facts that every row is given: they tell runs apart.
AXES = ("seed", "depth")


def columns(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> Columns:
    """Return everything that was recorded, one row each; what does not apply is NaN or empty.

    ``kind`` says what a row is of: "train", a step; "test"; "layer", a layer at a watched step,
    named by ``path``; "run", the whole, with the facts. Seed and depth stand on every row.

    Args:
      rows: as ``train.read_rows`` returns them.
      facts: numbers and text that hold for the whole run.
    """
    steps = [row.get("time", {}) for row in rows if row["kind"] == "train"]
    paces = np.array([time.get("images_per_second", math.nan) for time in steps], float)
    parts = {
        "train": train.step_columns(rows) | {"images_per_second": paces},
        "test": train.step_columns(rows, "test"),
        "layer": train.layer_columns(rows),
        "run": {name: np.array([v]) for name, v in {"step": facts["steps"], **facts}.items()},
    }
    counts = {kind: len(part["step"]) for kind, part in parts.items()}
    joined: Columns = {"kind": np.repeat(list(parts), list(counts.values()))}
    for name in dict.fromkeys(name for part in parts.values() for name in part):
        text = any(part[name].dtype.kind == "U" for part in parts.values() if name in part)
        missing = "" if text else np.nan
        filled = [part.get(name, np.full(counts[kind], missing)) for kind, part in parts.items()]
        joined[name] = np.concatenate(filled)
    joined |= {"step": joined["step"].astype(np.int64)}
    return lab.beside(joined, **{name: facts[name] for name in AXES if name in facts})


def fact(columns: Columns, name: str) -> Any:
    """Return a number or text that holds for all runs."""
    return facts(columns, name)[0]


def facts(columns: Columns, name: str) -> np.ndarray:
    """Return a number or text of every run, by seed."""
    return pick(columns, kind="run")[name]


def by_run(columns: Columns, kind: str, name: str) -> np.ndarray:
    """Return a column of the steps or tests as (runs, steps)."""
    rows = pick(columns, kind=kind)
    return rows[name].reshape(len(facts(columns, "seed")), -1)


def accuracies(columns: Columns) -> np.ndarray:
    """Return the last test's accuracy, of the averaged weights where there are any, by run."""
    before = "average_" if fact(columns, "averaged") else ""
    return by_run(columns, "test", f"{before}accuracy")[:, -1]


def finite_and_falling(columns: Columns) -> list[Criterion]:
    """Return whether all was finite, and after an epoch whether the loss fell."""
    losses = by_run(columns, "train", "loss")
    bad, steps = int((~np.isfinite(losses)).sum()), losses.shape[1]
    made = [that("every loss is finite", bad == 0, f"{bad} of {losses.size} are not", "all")]
    if steps >= max(20, _epoch(columns)):
        tenth = steps // 10
        first, last = losses[:, :tenth].mean(1), losses[:, -tenth:].mean(1)
        worst = int(np.argmax(last - first))
        told = f"{lab.digits(first[worst])}, then {lab.digits(last[worst])}{_worst(losses)}"
        claim = "training: the last tenth's mean loss is lower"
        made.append(that(claim, bool((last < first).all()), told, "lower"))
    return made


def accuracy_reached(columns: Columns) -> list[Criterion]:
    """Return whether every run reached the test accuracy that was asked for, if one was."""
    reach, found = fact(columns, "reach"), accuracies(columns)
    if np.isnan(reach):
        return []
    told = f"{found.min():.2%}{_worst(found)}"
    return [that("test accuracy", bool(found.min() >= reach), told, f"at least {reach:.0%}")]


def _worst(runs: np.ndarray) -> str:
    return f" (the worst of {len(runs)} runs)" if len(runs) > 1 else ""


def _epoch(columns: Columns) -> int:
    return max(1, int(fact(columns, "examples") // fact(columns, "batch_size")))


def table(columns: Columns) -> Group:
    """Return the last losses and accuracies, the speed, and the layers that move most and least."""
    return stacked([scores(columns), speed(columns), *layers(columns)])


def stacked(tables: Sequence[Table]) -> Group:
    """Return tables one below the other, as one."""
    first, *others = tables
    return Group(first, *(part for table in others for part in ("", table)))


def scores(columns: Columns) -> Table:
    """Return the last losses and accuracies; of several runs the mean, and the range."""
    runs = len(facts(columns, "seed"))
    parts = {"training, mean of the last epoch": ("train", "", -_epoch(columns))}
    parts["test"] = ("test", "", -1)
    if fact(columns, "averaged"):
        parts["test, averaged weights"] = ("test", "average_", -1)
    rows = []
    for told, (kind, before, since) in parts.items():
        loss, right = (
            by_run(columns, kind, f"{before}{name}")[:, since:].mean(1)
            for name in ("loss", "accuracy")
        )
        ends = (float(100 * right.min()), float(100 * right.max())) if runs > 1 else ()
        rows.append((told, float(loss.mean()), float(100 * right.mean()), *ends))
    return lab.plain_table(
        f"{fact(columns, 'network')} after {fact(columns, 'steps'):,.0f} steps of "
        f"{fact(columns, 'batch_size'):.0f} images{_of_runs(columns)}",
        ("of", "loss", "accuracy %", *(("lowest", "highest") if runs > 1 else ())),
        rows,
    )


def _of_runs(columns: Columns) -> str:
    count = len(facts(columns, "seed"))
    return f", {count} runs" if count > 1 else ""


def speed(columns: Columns) -> Table:
    """Return images a second and wall time; of several runs the mean."""
    pace = pick(columns, kind="train")["images_per_second"]
    pace = pace[np.isfinite(pace)]
    first = int(facts(columns, "first").max())
    since = f"from step {first}" if first else "from the first step"
    wall, processor = (facts(columns, name).mean() for name in ("seconds", "processor_seconds"))
    rows = [
        ("images a second, median", f"{np.median(pace):,.0f}" if len(pace) else "not known"),
        (f"wall time in s, {since}, compilation included", lab.digits(wall)),
        ("processor time in s", lab.digits(processor)),
    ]
    title = f"Speed{', mean of the runs' if _of_runs(columns) else ''}"
    return lab.plain_table(title, ("of", "measured"), rows)


def layers(columns: Columns) -> list[Table]:
    """Return the kernels that a step changes most and least, if any step was watched."""
    paths, ratios, gradients = ratios_of(columns)
    if not len(paths):
        return []
    order = np.argsort(-ratios).tolist()
    few = order if len(order) <= 2 * LAYERS_SHOWN else order[:LAYERS_SHOWN] + order[-LAYERS_SHOWN:]
    title = "Kernels that a step changes most and least (medians)"
    heads = ("layer", "|update| / |weights|", "|gradient|")
    rows = [(str(paths[i]), float(ratios[i]), float(gradients[i])) for i in few]
    return [lab.plain_table(title, heads, rows)]


def ratios_of(columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return paths of the kernels, their medians of update / weight, and those of the gradient."""
    rows = pick(columns, kind="layer")
    if not len(rows["step"]):
        return np.array([]), np.array([]), np.array([])
    # What is frozen has no update.
    moved = np.isfinite(rows["update"]) & (rows["weight"] > 0)
    kernels = np.char.endswith(rows["path"], "kernel") & moved
    rows = {name: column[kernels] for name, column in rows.items()}
    paths = np.array(list(dict.fromkeys(rows["path"].tolist())), str)
    found = [pick(rows, path=path) for path in paths]
    ratios = [np.median(one["update"] / one["weight"]) for one in found]
    gradients = [np.median(one["gradient"]) for one in found]
    return paths, np.array(ratios), np.array(gradients)


def draw(columns: Columns) -> Figure:
    """Draw losses, accuracies, gradient norm and rate over the steps, and how far kernels move.

    Of several runs the median is drawn, and the whole range.
    """

    def training(name: str, scale: float = 1.0) -> list[plots.Series]:
        return [_curve("training", columns, "train", name, scale)]

    def learnt(name: str, scale: float = 1.0) -> list[plots.Series]:
        tests = {"test": name}
        if fact(columns, "averaged"):
            tests["test, averaged weights"] = f"average_{name}"
        others = [_curve(label, columns, "test", of, scale) for label, of in tests.items()]
        return [*training(name, scale), *others]

    rate, norm = training("learning_rate"), training("gradient_norm")
    drawn = [
        plots.Panel("loss", "step", "cross-entropy, nats", learnt("loss"), yscale="log"),
        plots.Panel("accuracy", "step", "%", learnt("accuracy", 100.0)),
        plots.Panel("learning rate", "step", "rate", rate),
        plots.Panel("gradient of all parameters", "step", "norm", norm, yscale="log"),
    ]
    paths, *found = ratios_of(columns)
    for title, values in zip(("|update| / |weights|", "|gradient|"), found, strict=True):
        if len(paths):
            seen = values > 0
            places = np.arange(len(paths))[seen]
            points = [plots.Series("training", places, values[seen], joined=True)]
            axis = "kernel, from input to output"
            drawn.append(plots.Panel(f"{title}, median", axis, title, points, "linear"))
    return plots.panels(f"Training of {fact(columns, 'network')}{_of_runs(columns)}", drawn)


def _curve(label: str, columns: Columns, kind: str, name: str, scale: float) -> plots.Series:
    """Return what became of a quantity of all runs; of training, means over neighbouring steps."""
    steps, values = by_run(columns, kind, "step")[0], scale * by_run(columns, kind, name)
    if kind == "train":
        bins = np.array_split(np.arange(len(steps)), min(MOST_POINTS, len(steps)))
        steps = np.array([steps[of].mean() for of in bins])
        values = np.stack([values[:, of].mean(1) for of in bins], axis=1)
    if len(values) == 1:
        return plots.Series(label, steps, values[0], joined=True)
    low, middle, high = values.min(0), np.median(values, 0), values.max(0)
    return plots.Series(label, steps, middle, low=low, high=high, joined=True)
