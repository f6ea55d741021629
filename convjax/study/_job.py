"""Job: one cell that is to be measured; perform: measure it, wherever that is."""

import dataclasses
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from convjax._check import shown
from convjax.study._environment import environment
from convjax.study._identity import plain
from convjax.study._parquet import encode
from convjax.study._store import Store
from convjax.study._time_limit import within


@dataclasses.dataclass(frozen=True)
class Job:
    """One cell that is to be measured; it can be sent to another process or machine.

    Attributes:
      key: the cell's identity.
      function: ``function(config) -> columns``; other processes import it by its name.
      config: the cell.
      version: of the code that measures.
      group: cells of one group share a compilation, if one process has them.
      folder: of the study, where the process that performs the job locks the cell and keeps the
        result itself; None where the process that handed it out does.
      of: what the study measures, for that folder.
      retry: whether to measure what has failed before.
      time_limit: seconds that the function may take; None is no limit.
    """

    key: str
    function: Callable[[Any], Mapping[str, np.ndarray]]
    config: Any
    version: str
    group: str = ""
    folder: str | None = None
    of: str = ""
    retry: bool = False
    time_limit: float | None = None


@dataclasses.dataclass(frozen=True)
class Done:
    """What became of a job.

    Attributes:
      key: the cell's identity.
      table: a Parquet file: the result, or the row of a failure; None where another runner had it.
      error: in one line, why it failed; empty if it did not.
      seconds: that the function took.
      kept: whether the table is in the study's folder already.
    """

    key: str
    table: bytes | None
    error: str = ""
    seconds: float = 0.0
    kept: bool = False


@runtime_checkable
class Runner(Protocol):
    """Where cells are measured. ``study.Local``, ``Here``, ``Ray`` and ``Slurm`` are runners.

    Attributes:
      keeps: whether jobs are to lock their cells and keep their results themselves, in a folder
        that every machine sees.
    """

    keeps: bool

    def run(self, jobs: Iterator[Job]) -> Generator[Done]:
        """Take jobs as there is room for them, and yield what became of each, in any order.

        Jobs are locked as they are taken: a runner takes no more than it can keep busy. Closing
        the generator stops what runs. Whatever ends a job without its own doing, a process that
        was killed or a machine that was lost, is tried again or told by ``lost``; it does not end
        the others.
        """
        ...


def perform(job: Job) -> Done:
    """Measure a cell where this is called: what a runner of your own does with a job.

    A failure is a result too; only the end of the process is not.

    Args:
      job: as ``Runner.run`` is given it; it may have been pickled on the way.

    Returns:
      What became of it, for the runner to yield.

    Example:
      >>> import tempfile, numpy as np
      >>> from convjax import study
      >>> class Backwards:
      ...     keeps = False
      ...     def run(self, jobs):
      ...         for job in reversed(list(jobs)):
      ...             yield study.perform(job)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     how = {"version": "1", "runner": Backwards()}
      ...     ran = study.run(lambda c: {"x": np.ones(c["n"])}, [{"n": 1}, {"n": 2}], folder, **how)
      >>> ran.finished
      2
    """
    if job.folder is None:
        return _measured(job)
    with Store(job.folder, job.of) as store:
        if not store.lock(job.key) or over(store, job):
            return Done(job.key, None, kept=True)
        done = _measured(job)
        keep(store, done)
    return dataclasses.replace(done, kept=True)


def keep(store: Store, done: Done) -> None:
    """Keep what became of a job, unless that is done."""
    if done.kept or done.table is None:
        return
    if done.error:
        store.keep_failure(done.key, done.table)
    else:
        store.keep(done.key, done.table)


def over(store: Store, job: Job) -> bool:
    """Tell whether a cell is done, or has failed and is to be left alone."""
    return store.finished(job.key) or (not job.retry and store.has_failed(job.key))


def lost(job: Job, why: str) -> Done:
    """Return what became of a job whose process ended without a word: a failed cell.

    Args:
      job: that was given up.
      why: it is known to have ended, for whoever reads the failure.

    Returns:
      For the runner to yield.

    Example:
      >>> from convjax import study
      >>> study.lost(study.Job("key", print, {"depth": 8}, "1"), "its machine was lost").error
      'its machine was lost'
    """
    return _failed(job, why, "", 0.0, {})


def _measured(job: Job) -> Done:
    start = time.perf_counter()
    try:
        with within(job.time_limit):
            columns = job.function(job.config)
        seconds = time.perf_counter() - start
        if not isinstance(columns, Mapping):
            name = getattr(job.function, "__name__", shown(job.function))
            raise TypeError(f"{name} returned {shown(columns)}, not columns by name")
        about = _about(job, seconds) | {"environment": environment()}
        table = encode(columns, about)
    except (KeyboardInterrupt, GeneratorExit):  # the user's, and the runner's
        raise
    except BaseException as error:  # sys.exit() among them
        if _ends_process(error):
            raise
        seconds = time.perf_counter() - start
        return _failed(job, _told(error), traceback.format_exc(), seconds, environment())
    return Done(job.key, table, seconds=seconds)


def _ends_process(error: BaseException) -> bool:
    """Tell whether Ray or submitit ends this process, by an exit from where a signal reached it."""
    trace, module = sys.exc_info()[2], ""
    while trace is not None:
        module, trace = str(trace.tb_frame.f_globals.get("__name__")), trace.tb_next
    return isinstance(error, SystemExit) and module.partition(".")[0] in ("ray", "submitit")


def _told(error: BaseException) -> str:
    """Return an error in one line."""
    try:
        words = " ".join(str(error).split()) or "without a word"
    except Exception as another:
        words = f"what it says cannot be read ({type(another).__name__})"
    return f"{type(error).__name__}: {words}"


def _failed(
    job: Job, error: str, trace: str, seconds: float, surroundings: Mapping[str, Any]
) -> Done:
    # An error may quote what is no text, such as half of a letter in the name of a file.
    row = {"error": error, "traceback": trace}
    row = {k: np.array([v.encode(errors="replace").decode()]) for k, v in row.items()}
    table = encode(row, _about(job, seconds) | {"environment": dict(surroundings)})
    return Done(job.key, table, error, seconds)


def _about(job: Job, seconds: float) -> dict[str, Any]:
    return {
        "cell": job.key,
        "version": job.version,
        "config": plain(job.config),
        "seconds": seconds,
        "host": socket.gethostname(),
        "process": os.getpid(),
    }
