"""An experiment whose numbers are planted, for tests of the report."""

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from convjax import lab, plots, study
from convjax.lab.report import _search

DEPTHS = (4, 7)
LABEL, THEORY, SIGNED = "<b>He</b> & sons", "theory alone", "signed"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One depth; those below 3 cannot be measured."""

    depth: int

    def __str__(self):
        return f"depth {self.depth}"


def measure(cell):
    """Return numbers over six decades, and others of both signs, one of them missing."""
    if cell.depth < 3:
        raise ArithmeticError(f"depth {cell.depth} <is> too little")
    rng = np.random.default_rng(cell.depth)
    norm = np.exp(rng.normal(scale=3, size=cell.depth))
    signed = np.round(rng.normal(size=cell.depth), 2)
    signed[:3] = (0.0, -1.25, np.nan)
    return {
        "depth": np.full(cell.depth, cell.depth),
        "layer": np.arange(cell.depth),
        "path": np.array([f"body/{i}" for i in range(cell.depth)]),
        "norm": norm,
        "low": 0.5 * norm,
        "high": 3.0 * norm,
        "expected": 1.25 * norm,
        "signed": signed,
    }


def columns():
    """Return what all cells measure."""
    return lab.joined([measure(Cell(depth)) for depth in DEPTHS])


def judge(columns):
    """Return two claims that hold, and one that does not."""
    depth = int(columns["depth"][0])
    return [
        lab.within(f"the depth of <i>{depth}</i>", depth, 4.0, absolute=1.0),
        lab.that("norms are positive", bool((columns["norm"] > 0).all()), "yes", "yes"),
    ]


def draw(columns):
    """Draw norms over an expectation with its band, and numbers of both signs."""
    layer, norm = columns["layer"], columns["norm"]
    measured = plots.Series(
        LABEL,
        layer,
        norm,
        columns["low"],
        columns["high"],
        expected=columns["expected"],
        expected_low=0.8 * columns["expected"],
        expected_high=2.0 * columns["expected"],
        names=columns["path"],
    )
    theory = plots.Series(THEORY, layer, expected=2.5 * norm)
    signed = plots.Series(SIGNED, layer, columns["signed"], joined=True)
    return plots.panels(
        "Planted </script> numbers",
        [
            plots.Panel("norms", "layer", "norm", [measured, theory], yscale="log", level=1.0),
            plots.Panel("of both signs", "layer", "change", [signed], level=0.0),
        ],
    )


def table(columns):
    """Return one row for each layer."""
    rows = list(zip(columns["path"].tolist(), columns["norm"].tolist(), strict=True))
    return lab.plain_table("Norms of every layer", ("layer", "norm"), rows)


def also(columns):
    """Return a figure that does not know what it shows."""
    figure = Figure(figsize=(5, 3))
    figure.subplots().plot(columns["norm"])
    return {"planted_picture": figure}


EXPERIMENT = lab.Experiment(
    name="planted",
    about="How large are planted numbers?\n\nThey are <drawn> from a generator.\n",
    config=lab.Options,
    cells=lambda config: [Cell(depth) for depth in DEPTHS],
    measure=measure,
    judge=judge,
    draw=draw,
    table=table,
    apart=("depth",),
    also=also,
)

ENVIRONMENT = {
    **{"convjax": "0.5.0", "python": "3.13.0", "jax": "0.12.0", "device_kind": "abacus"},
    **{"device_count": 2, "platform": "wood", "machine": "x", "time": "2026-01-02T03:04:05+00:00"},
}
COMMAND = "python -m experiments planted --depths 4 7"


def write(folder, name="planted", **changes):
    """Write the experiment's table into a folder, as a run does."""
    numbers = columns()
    about = {
        "experiment": name,
        "config": {"depths": list(DEPTHS), "out": "results/planted"},
        "criteria": [dataclasses.asdict(one) for one in lab.criteria(EXPERIMENT, numbers)],
        "command": COMMAND,
        "cells": 2,
        "seconds": 75.0,
        "environments": [{**ENVIRONMENT, "cells": 2, "hosts": ["one", "two"]}],
    }
    about = {key: value for key, value in (about | changes).items() if value is not None}
    folder.mkdir(parents=True)
    study.write_parquet(folder / f"{name}.parquet", numbers, about)
    return numbers


def known(monkeypatch):
    """Make the report know the experiment, as if its file stood in this folder."""
    real = _search.experiment

    def experiment(name, files):
        return EXPERIMENT if name == "planted" else real(name, files)

    monkeypatch.setattr(_search, "experiment", experiment)
