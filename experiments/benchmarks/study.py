"""What a study costs a cell over the work itself: cells that do nothing, kept one by one.

    python -m experiments bench-study

Runs a study of cells that take no time, in this process and in the processes of the local runner,
each into a folder of its own; then the same again, where all is there; then reads all into one
table. What the local runner takes contains the start of its processes.

Takes about three minutes on two cores.
"""

import collections
import dataclasses
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from rich.table import Table

from convjax import lab, study
from experiments.benchmarks import _report, benchmark
from experiments.benchmarks.timing import median, seconds

A_CELL, LOADING = 5e-3, 5.0  # seconds
main = partial(benchmark.run, __name__)


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Options):
    """Options."""

    cells: int = 10_000
    """Cells of a study."""
    workers: int | None = None
    """Processes of the local runner; without it, one for each processor core."""
    repeats: int = 3


@dataclasses.dataclass(frozen=True)
class Cell:
    """Nothing to do."""

    depth: int
    width: int = 16
    norm: str = "batch"


def measure_cell(cell: Cell) -> lab.Columns:
    """Return a small table at once."""
    layers = np.arange(4)
    return {"layer": layers, "norm": 0.5 * layers, "name": np.array([cell.norm] * 4)}


def check(config: Config) -> None:
    """Refuse what makes no study."""
    lab.check_least(config, cells=1)
    study.Local(config.workers, platform=config.platform)


def measure(config: Config) -> dict[str, Any]:
    """Return a row for each comparison: the seconds of every round, and the target."""
    there = study.Local(config.workers, platform=config.platform)
    runners = [("in this process", study.Here()), ("by the local runner", there)]
    taken: dict[str, list[float]] = collections.defaultdict(list)
    for i in range(config.repeats):
        for name, runner in runners[:: (-1) ** i]:
            for what, one in once(name, runner, config):
                taken[what].append(one)
    targets = {"by the local runner": A_CELL * config.cells, "read into one table": LOADING}
    rows = [{"what": w, "seconds": s, "target": targets.get(w)} for w, s in taken.items()]
    return {"workers": there.workers, "rows": rows}


def once(name: str, runner: study.Runner, config: Config) -> Iterator[tuple[str, float]]:
    """Yield what a study takes, the same again, and reading it."""
    cells = [Cell(depth) for depth in range(config.cells)]
    with tempfile.TemporaryDirectory(dir=config.out) as folder:

        def run() -> None:
            ran = study.run(measure_cell, cells, folder, runner=runner, watch=study.Silent())
            if ran.finished < len(cells):
                raise RuntimeError(f"cells failed: {ran.failed}")

        yield name, seconds(run)
        yield "again, where all is there", seconds(run)
        yield "read into one table", seconds(lambda: study.load(folder))


def tables(found: dict[str, Any], config: Config) -> Iterator[Table]:
    """Yield the medians of the rounds, and the targets."""

    def target(row: dict[str, Any]) -> str:
        told = _report.verdict(median(row["seconds"]), row["target"])
        return told and f"{row['target'] / config.cells * 1e3:g} ms, {told}"

    yield _report.table(
        f"A study of {config.cells} cells that do nothing, {found['workers']} processes",
        found["rows"],
        ("", lambda row: row["what"]),
        ("s", lambda row: median(row["seconds"])),
        ("ms a cell", lambda row: _report.milliseconds(median(row["seconds"]) / config.cells)),
        ("target (ms a cell, s)", target),
    )
