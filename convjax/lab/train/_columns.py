"""What runs leave, as one table; and what a reader wants to see of them.

The runs of a table are of one kind, and differ in their seeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
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
    alike = {name: np.full(len(joined["kind"]), facts[name]) for name in AXES if name in facts}
    return joined | alike | {"step": joined["step"].astype(np.int64)}


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
    bad = int((~np.isfinite(losses)).sum())
    made = [that("every loss is finite", bad == 0, f"{bad} of {losses.size} are not", "all")]
    if losses.shape[1] >= max(20, _epoch(columns)):
        tenth = losses.shape[1] // 10
        first, last = (losses[:, of].mean(1) for of in _ends(tenth))
        worst = int(np.argmax(last - first))
        told = f"{lab.digits(first[worst])}, then {lab.digits(last[worst])}"
        claim = "training: the last tenth's mean loss is lower"
        made.append(that(claim, bool((last < first).all()), told + _worst(losses), "lower"))
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
    """Return the last losses and accuracies; of several runs the mean, and the range."""
    steps = by_run(columns, "train", "loss").shape[1]
    last = _ends(min(_epoch(columns), steps))[1]
    parts = {"training, mean of the last epoch": ("train", "", last), "test": ("test", "", -1)}
    if fact(columns, "averaged"):
        parts["test, averaged weights"] = ("test", "average_", -1)
    rows = []
    for told, (kind, before, of) in parts.items():
        loss, right = (
            by_run(columns, kind, f"{before}{name}")[:, of].reshape(len(seeds(columns)), -1).mean(1)
            for name in ("loss", "accuracy")
        )
        row = (told, float(loss.mean()), float(100 * right.mean()))
        ends = (float(100 * right.min()), float(100 * right.max())) if len(right) > 1 else ()
        rows.append((*row, *ends))
    several = len(seeds(columns)) > 1
    return lab.plain_table(
        f"{fact(columns, 'network')} after {fact(columns, 'steps'):,.0f} steps of "
        f"{fact(columns, 'batch_size'):.0f} images{_of_runs(columns)}",
        ("of", "loss", "accuracy %", *(("lowest", "highest") if several else ())),
        rows,
    )


def seeds(columns: Columns) -> list[int]:
    """Return the seeds of the runs."""
    return facts(columns, "seed").tolist()


def _of_runs(columns: Columns) -> str:
    count = len(seeds(columns))
    return f", {count} runs" if count > 1 else ""


def speed(columns: Columns) -> Table:
    """Return images a second and wall time; of several runs the mean."""
    pace = pick(columns, kind="train")["images_per_second"]
    pace = pace[np.isfinite(pace)]
    first = int(facts(columns, "first").max())
    since = f"from step {first}" if first else "from the first step"
    wall, processor = (
        lab.digits(float(facts(columns, name).mean())) for name in ("seconds", "processor_seconds")
    )
    return lab.plain_table(
        f"Speed{', mean of the runs' if _of_runs(columns) else ''}",
        ("of", "measured"),
        [
            ("images a second, median", f"{np.median(pace):,.0f}" if len(pace) else "not known"),
            (f"wall time in s, {since}, compilation included", wall),
            ("processor time in s", processor),
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
        lab.plain_table(
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

    def training(name: str, scale: float = 1.0) -> plots.Series:
        steps = by_run(columns, "train", "step")[0]
        return _curve("training", steps, scale * by_run(columns, "train", name), _thinned)

    def learnt(name: str, scale: float = 1.0) -> list[plots.Series]:
        beside = {"test": name}
        if fact(columns, "averaged"):
            beside["test, averaged weights"] = f"average_{name}"
        steps = by_run(columns, "test", "step")[0]
        tests = {label: by_run(columns, "test", column) for label, column in beside.items()}
        return [training(name, scale)] + [
            _curve(label, steps, scale * values, lambda values: values)
            for label, values in tests.items()
        ]

    panel = plots.Panel
    drawn = [
        panel("loss", "step", "cross-entropy, nats", learnt("loss"), yscale="log"),
        panel("accuracy", "step", "%", learnt("accuracy", 100.0)),
        panel("learning rate", "step", "rate", [training("learning_rate")]),
        panel(
            "gradient of all parameters", "step", "norm", [training("gradient_norm")], yscale="log"
        ),
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
    return plots.panels(f"Training of {fact(columns, 'network')}{_of_runs(columns)}", drawn)


def _curve(
    label: str, steps: np.ndarray, values: np.ndarray, thin: Callable[[np.ndarray], np.ndarray]
) -> plots.Series:
    """Return what became of a quantity, (runs, steps), over the steps."""
    x, found = thin(steps), np.array([thin(run) for run in values])
    if len(found) == 1:
        return plots.Series(label, x, found[0], joined=True)
    low, middle, high = found.min(0), np.median(found, 0), found.max(0)
    return plots.Series(label, x, middle, low=low, high=high, joined=True)


def _thinned(values: np.ndarray) -> np.ndarray:
    """Return means over neighbouring steps, at most so many."""
    bins = np.array_split(np.arange(len(values)), min(MOST_POINTS, len(values)))
    return np.array([values[of].mean() for of in bins])
