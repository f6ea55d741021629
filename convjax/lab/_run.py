"""Running an experiment: its cells measured somewhere, how far they have come, and what failed."""

import contextlib
import dataclasses
import inspect
import json
import shlex
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from flax import nnx

from convjax import study
from convjax.lab._ensemble import Ensemble
from convjax.lab._experiment import Experiment, measure_all, whole
from convjax.lab._options import (
    CommandOptions,
    UsageError,
    calling,
    parse,
    refusing,
    use_platform,
)
from convjax.lab._outcome import conclude, stem_of
from convjax.lab._progress import Ticker
from convjax.lab._tables import console, plain_table

# Options that not every runner takes, and who takes them.
TAKEN_BY = {
    "workers": ("local", "ray", "slurm"),
    "address": ("ray",),
    "slurm": ("slurm",),
}


@dataclasses.dataclass(frozen=True)
class Options(CommandOptions):
    """What every experiment takes."""

    runner: Literal["local", "ray", "slurm", "here"] = "local"
    """Where cells are measured: processes of this machine, a Ray cluster, Slurm, this process."""
    workers: int | None = None
    """Cells at a time; without it, one for each processor core, or one on an accelerator."""
    address: str | None = None
    """Of the Ray cluster; without it, one is started on this machine."""
    slurm: tuple[str, ...] = ()
    """What submitit tells Slurm, such as timeout_min=60 slurm_partition=gpu."""
    retry: bool = False
    """Measure again the cells that failed."""
    time_limit: float | None = None
    """Seconds that a cell may take before it counts as failed."""
    dry_run: bool = False
    """List the cells, how each stands and what those that are finished took; measure nothing."""


def run(experiment: Experiment, argv: Sequence[str], command: Sequence[str]) -> int:
    """Run an experiment from the command line.

    Args:
      experiment: what is run.
      argv: the words of its options.
      command: the words before them, such as ``["convjax", "run", "kernel_size.py"]``; the results
        say that this made them.

    Returns:
      0 where every criterion holds, 1 where one does not or a cell failed, 130 where the user
      stopped it.

    Raises:
      UsageError: what was asked for cannot be done.
      SystemExit: the command line has what no option takes, or asked for help.

    Example:
      >>> from convjax import lab
      >>> def main(argv):
      ...     import kernel_size  # a file that asks a question
      ...     return lab.run(lab.experiment(kernel_size), argv, ["python", "-m", "mine"])
    """
    config = parse(
        experiment.config,
        experiment.in_full(argv),
        command=f"{shlex.join(command)}{'' if experiment.in_full is list else ' [NAME]'}",
        about=experiment.about.strip().partition("\n")[0],
        default=defaults(experiment),
    )
    return run_config(experiment, config, [*command, *argv])


def defaults(experiment: Experiment) -> Any:
    """Return the options of an experiment where nothing is said: results go to ``results/NAME``.

    Args:
      experiment: whose options.
    """
    return experiment.config(out=Path("results") / experiment.name)


def run_config(experiment: Experiment, config: Any, command: Sequence[str]) -> int:
    """Run an experiment with these options; return the exit code, as of ``run``.

    Args:
      experiment: what is run.
      config: its options.
      command: the words that the results shall say made them.

    Raises:
      UsageError: what was asked for cannot be done.

    Example:
      >>> from pathlib import Path
      >>> from convjax import lab
      >>> def look(experiment, folder):
      ...     config = experiment.config(runner="here", out=Path(folder))
      ...     return lab.run_config(experiment, config, ["mine"])
    """
    if not experiment.keeps:
        return _at_once(experiment, config, command)
    cells: list[Any] = []
    # Two bars on one terminal would take turns on one line.
    watch = Watch(bar=not (experiment.shows and config.runner == "here"))
    try:
        with refusing(), watch:
            with calling("cells", passing=(ValueError, ImportError)):
                found: Any = experiment.cells(config)
                found = list(found) if isinstance(found, Iterable) else found
            if not found or not isinstance(found, list):
                raise UsageError(f"cells returned {found!r}; it must return a list of cells.")
            cells += found
            # Before a dry run too: what the run refuses is refused.
            where = runner(config)
            if config.dry_run:
                check_built(cells)
                print_plan(experiment, config, cells)
                return 0
            ran = study.run(
                experiment.measure,
                cells,
                config.out,
                name=experiment.study,
                runner=where,
                group=experiment.group,
                retry=config.retry,
                time_limit=config.time_limit,
                watch=watch,
            )
    except KeyboardInterrupt:
        if not cells:
            return interrupted("interrupted")
        states = study.states(experiment.measure, cells, config.out, name=experiment.study)
        kept = f"{states.count('finished')} of {len(cells)} cells are kept in {config.out}"
        return interrupted(f"interrupted: {kept}; the same command goes on")
    if ran.finished < len(cells):
        first = next((f", the first by {error}" for error in ran.failed.values() if error), "")
        say(f"{len(cells) - ran.finished} of {len(cells)} cells failed{first}")
        kept = f"the others are kept in {config.out}, and " if ran.finished else ""
        where = f"convjax report {config.out} tells where they failed"
        say(f"{kept}--retry measures the failed ones again; {where}")
        return 1
    kept = f"; the cells are kept in {config.out}, and the same command goes on once it is mended"
    with refusing(), calling(experiment.name, kept, passing=(OSError,)):
        columns = whole(experiment, study.results(config.out, ran.keys))
        about = {"command": shlex.join(command), **study.about(config.out, ran.keys)}
        _tell_replaced(experiment, config)
        try:
            return conclude(experiment, config, columns, about)
        except OSError as error:
            raise UsageError(
                f"cannot write into {str(config.out)!r}: {error.strerror}; the cells are kept, and "
                "the same command writes the rest."
            ) from error


def _tell_replaced(experiment: Experiment, config: Any) -> None:
    """Say where the summary of other options is about to be replaced."""
    path = (Path(config.out) / stem_of(experiment)).with_suffix(".parquet")
    try:
        before = study.read_parquet(path)[1]["config"]
    except Exception:  # none is there, or it is damaged
        return
    how = {field.name for field in dataclasses.fields(Options)}
    now = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    other = [name for name in now if name not in how and before.get(name) != now[name]]
    if other:
        say(f"replaces the summary of other {', '.join(other)} in {config.out}; its cells are kept")


def _at_once(experiment: Experiment, config: Any, command: Sequence[str]) -> int:
    """Measure in this process what is not kept, and conclude."""
    with refusing():
        use_platform(config.platform)
        study.check_writable(config.out)
        start = time.perf_counter()
        try:
            columns = measure_all(experiment, config)
        except KeyboardInterrupt:
            return interrupted("interrupted: nothing was kept")
    about = {
        "command": shlex.join(command),
        "cells": 1,
        "seconds": time.perf_counter() - start,
        "environments": [{**study.environment(), "cells": 1, "hosts": [socket.gethostname()]}],
    }
    with refusing(), calling(experiment.name):
        return conclude(experiment, config, columns, about)


def interrupted(words: str) -> int:
    """Say what an interruption leaves, and return its exit code."""
    say(words)
    return 130


class Watch:
    """Tells on stderr how the cells come along, and of failures as they come.

    Args:
      bar: whether there may be a bar.
    """

    def __init__(self, bar: bool = True):
        self._bar = bar
        self._told = contextlib.ExitStack()
        self._ticker: Ticker | None = None

    def begin(self, total: int, finished: int, failed: int) -> None:
        """Say what is there already."""
        if finished:
            say(f"{finished} of {total} cells are there already")
        if failed:
            say(f"{failed} of {total} cells have failed before; --retry measures them again")
        if total > finished + failed:
            self._ticker = self._told.enter_context(Ticker(total - finished - failed, self._bar))
            self._ticker.begin("measuring")

    def finish(self, config: Any, done: study.Done) -> None:
        """Say what became of a cell."""
        remark = f"FAILED, {done.error}" if done.error else ""
        if self._ticker is not None:
            self._ticker.finish(str(config), remark or ("" if done.table else "by another runner"))

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._told.close()


def runner(config: Any) -> study.Runner:
    """Return where the options say that cells are measured.

    Raises:
      ValueError: an option that the runner does not take.
      ImportError: the runner's package is missing.
    """
    check_effect(config, config.runner)
    if config.time_limit is not None and config.time_limit <= 0:
        raise ValueError(f"time_limit={config.time_limit} must be greater than 0")
    if config.runner == "here":
        use_platform(config.platform)
        return study.Here()
    if config.runner == "ray":
        return study.Ray(config.address, workers=config.workers, platform=config.platform)
    if config.runner == "slurm":
        folder = Path(config.out) / "slurm"
        return study.Slurm(folder, config.slurm, workers=config.workers, platform=config.platform)
    return study.Local(config.workers, platform=config.platform)


def check_effect(config: Any, runner: str) -> None:
    """Refuse an option that has no effect with a runner.

    Args:
      config: the options.
      runner: "local", "ray", "slurm" or "here".

    Raises:
      ValueError: it names the option and the runners that take it.

    Example:
      >>> from convjax import lab
      >>> lab.check_effect(lab.Options(workers=2), "local")
    """
    for option, runners in TAKEN_BY.items():
        if getattr(config, option) not in (None, ()) and runner not in runners:
            taking = " or ".join(f"--runner {name}" for name in runners)
            raise ValueError(
                f"--{option} has no effect with --runner {runner}; leave it out, or take {taking}"
            )


def check_built(cells: Sequence[Any]) -> None:
    """Build the network of every cell without its values, and call it on its signal.

    It is the kind of an ensemble, or the cell itself, that has ``network(rngs)``; what has
    ``signal(key, batch_size)`` as well shows what goes in. Other cells are passed over.

    Raises:
      UsageError: what building or calling one raises, in a sentence that names the cell.
    """
    for cell in cells:
        kind = getattr(cell, "kind", cell)
        build, signal = getattr(kind, "network", None), getattr(kind, "signal", None)
        if not callable(build) or len(inspect.signature(build).parameters) != 1:
            continue

        def called(key, build=build, signal=signal, cell=cell):
            net = build(nnx.Rngs(key))
            return net(signal(key, cell.batch_size), train=True) if signal else None

        signal = signal if isinstance(cell, Ensemble) else None
        with refusing(f"{cell}: "), calling(f"the network of {cell}", passing=(ValueError,)):
            nnx.eval_shape(called, jax.random.key(0))


def print_plan(experiment: Experiment, config: Any, cells: Sequence[Any]) -> None:
    """List the cells, how each stands, and what those that are finished took."""
    states = study.states(experiment.measure, cells, config.out, name=experiment.study)
    took = [
        _took(experiment, cell, config.out) if state == "finished" else None
        for cell, state in zip(cells, states, strict=True)
    ]
    rows = [
        (str(cell), state, "" if seconds is None else f"{seconds:.1f} s")
        for cell, state, seconds in zip(cells, states, took, strict=True)
    ]
    shown = console()
    title = f"{experiment.name}: {len(cells)} cells in {config.out}"
    shown.print(title, style="bold", soft_wrap=True)  # a table would break it at its own width
    shown.print(plain_table("", ("cell", "state", "took"), rows))
    counts = ", ".join(f"{count} {state}" for state, count in Counter(states).items())
    known = [seconds for seconds in took if seconds is not None]
    told = "what a cell takes is known once one is finished"
    if known:
        told = f"a finished cell took {statistics.median(known):.1f} s in the median"
    shown.print(f"{counts}; {told}. Nothing was measured.")


def _took(experiment: Experiment, cell: Any, folder: Path) -> float:
    key = study.key(cell, study.version(experiment.measure, cell))
    return study.about(folder, [key])["seconds"]


def say(words: str) -> None:
    console(stderr=True).print(words, soft_wrap=True)
