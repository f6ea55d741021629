"""What a study costs a cell over the work itself: cells that do nothing, kept one by one.

    python -m experiments bench-study

Runs a study of cells that take no time, in this process and in the processes of the local runner,
each into a folder of its own; then the same again, where all is there; then reads all into one
table. Prints the median of the rounds beside its target, where it has one, and saves all as JSON.
What the local runner takes contains the start of its processes.

Takes about three minutes on two cores.
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convjax import lab, study
from convjax.lab import Columns
from experiments.benchmarks import _report
from experiments.benchmarks.timing import median

STEM = "bench_study"
A_CELL, LOADING = 5e-3, 5.0  # seconds


@dataclasses.dataclass(frozen=True)
class Config(lab.CommandOptions):
    """Options."""

    cells: int = 10_000
    """Cells of a study."""
    workers: int | None = None
    """Processes of the local runner; without it, one for each processor core."""
    repeats: int = 3
    """Rounds; the median counts."""
    out: Path = Path("results/bench-study")
    """Folder for the numbers, and for the studies meanwhile; it is made if it is not there."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """Nothing to do."""

    depth: int
    width: int = 16
    norm: str = "batch"


def measure(cell: Cell) -> Columns:
    """Return a small table at once."""
    layers = np.arange(4)
    return {"layer": layers, "norm": 0.5 * layers, "name": np.array([cell.norm] * 4)}


def main(argv: Sequence[str]) -> int:
    """Run the benchmark from the command line and return the exit code."""
    about, _, _ = (__doc__ or "").partition("\n")
    config = lab.parse(Config, argv, command="python -m experiments bench-study", about=about)
    lab.use_platform(config.platform)
    with lab.refusing():
        for name in ("cells", "repeats"):
            if getattr(config, name) < 1:
                raise ValueError(f"{name}={getattr(config, name)} must be at least 1")
        study.check_writable(config.out)
        local = study.Local(config.workers, platform=config.platform)
        loads = [os.getloadavg()[0]]
        rows = measured(config, local)
    loads.append(os.getloadavg()[0])
    report(rows, config.cells, local.workers, loads)
    path = config.out / f"{STEM}.json"
    _report.save_json(path, rows=rows, config=config, workers=local.workers, loads=loads)
    print(path)
    return 0


def measured(config: Config, local: study.Runner) -> list[dict[str, Any]]:
    """Return a row for each comparison: the seconds of every round, and the target."""
    runners = {"in this process": study.Here(), "by the local runner": local}
    names = list(runners)
    found: dict[str, list[float]] = {}
    for i in range(config.repeats):
        for name in names[i % 2 :] + names[: i % 2]:
            for what, seconds in once(name, runners[name], config):
                found.setdefault(what, []).append(seconds)
    targets = {"by the local runner": A_CELL * config.cells, "read into one table": LOADING}
    return [
        {"what": what, "seconds": seconds, "target": targets.get(what)}
        for what, seconds in found.items()
    ]


def once(name: str, runner: study.Runner, config: Config) -> Iterator[tuple[str, float]]:
    """Yield what a study takes, the same again, and reading it."""
    cells = [Cell(depth) for depth in range(config.cells)]
    with tempfile.TemporaryDirectory(dir=config.out) as folder:

        def run() -> None:
            ran = study.run(measure, cells, folder, runner=runner, watch=study.Silent())
            if ran.finished < len(cells):
                raise RuntimeError(f"cells failed: {ran.failed}")

        yield name, taken(run)
        yield "again, where all is there", taken(run)
        yield "read into one table", taken(lambda: study.load(folder))


def taken(function: Callable[[], Any]) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def report(
    rows: Sequence[dict[str, Any]], cells: int, workers: int, loads: Sequence[float]
) -> None:
    """Print the table, and how busy the machine was."""
    lines = []
    for row in sorted(rows, key=lambda row: row["target"] is None):
        seconds, target = median(row["seconds"]), row["target"]
        verdict = "" if target is None else "met" if seconds <= target else "missed"
        lines.append(
            [
                row["what"],
                _report.number(seconds),
                _report.milliseconds(seconds / cells),
                "" if target is None else f"{target:g} s, {target / cells * 1e3:g} ms {verdict}",
            ]
        )
    console = _report.console()
    title = f"A study of {cells} cells that do nothing, {workers} processes"
    console.print(_report.table(title, ["", "s", "ms a cell", "target"], lines))
    busy = " and ".join(f"{load:.1f}" for load in loads)
    console.print(f"Load of the machine at the beginning and the end: {busy}.")
