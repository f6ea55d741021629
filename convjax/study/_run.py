"""run: measure the cells of a study that have no result yet."""

import contextlib
import dataclasses
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convjax import _check
from convjax.study._here import Here
from convjax.study._identity import canonical, key
from convjax.study._job import Done, Job, Runner, over
from convjax.study._jobs import Jobs
from convjax.study._keeping import keeping
from convjax.study._parquet import arrow
from convjax.study._store import Store
from convjax.study._version import plain_function
from convjax.study._version import version as version_of
from convjax.study._watch import Progress, Watch

POLL = 0.5  # seconds between two looks at what another runner is at


@dataclasses.dataclass(frozen=True)
class Ran:
    """How a study stands.

    Attributes:
      keys: of its cells, in the order of their configurations.
      finished: how many have a result.
      measured: how many of these this run measured.
      failed: keys of the cells that failed, here or at another runner, now or earlier, each with
        its error.
      folder: where they are.
    """

    keys: tuple[str, ...]
    finished: int
    measured: int
    failed: Mapping[str, str]
    folder: Path


def run(
    function: Callable[[Any], Mapping[str, np.ndarray]],
    configs: Sequence[Any],
    folder: str | os.PathLike,
    *,
    name: str | None = None,
    runner: Runner | None = None,
    version: str | None = None,
    group: Callable[[Any], Hashable] | None = None,
    retry: bool = False,
    time_limit: int | float | None = None,
    watch: Watch | None = None,
) -> Ran:
    """Measure every cell of a grid that has no result yet, and keep each as soon as it is there.

    A cell is a configuration; its identity, a hash of that and of the code's version. Its result is
    one file, there whole or not at all. A cell that has one is not measured again, whichever runner
    measured it; two runs on one folder share the cells between them. A cell that raises leaves a
    row with the error and is left alone until ``retry``, also where it calls ``sys.exit``; the row
    goes once a run with mended code has an answer for the same configuration.
    Interrupted, or killed, the same call goes on where it was. A file of which a bit has changed
    since it was written is put aside, into the folder ``damaged``, with a warning, and its cell is
    measured again.

    Args:
      function: ``function(config) -> columns``, equally long arrays by name, the same for equal
        configurations. Unless the runner is ``Here``, it is defined in a module, not in another
        function.
      configs: the cells, frozen dataclasses such as ``study.grid`` returns, none twice.
      folder: of the study; it is made if it is not there.
      name: of the study, which the folder keeps: it takes no cells of a study of another name.
        Without one, the module's and the function's.
      runner: where to measure; ``study.Here()`` without one.
      version: of the code that measures, a name that you change with it; without one
        ``study.version(function)``, which needs the source in a file. A notebook gives a version
        and measures by ``Here``, ``Ray`` or ``Slurm``; ``Local`` needs a function from a module.
      group: ``group(config)``, the same for cells whose programs are the same: runners give such
        cells to one process, one after the other, so that it compiles once.
      retry: whether to measure again what has failed.
      time_limit: seconds that a cell may take, after which it has failed; None is no limit.
        ``Local`` ends its process if need be, other runners when the cell's code next comes back to
        Python.
      watch: who is told how it comes along; ``study.Progress()`` without one, ``study.Silent()``
        for nobody.

    Returns:
      How the study stands.

    Raises:
      WrongTypeError: an argument of a wrong type; a configuration that is not data.
      ValueError: no cell, one cell twice, a folder of another study or not to be written to, a disk
        that is full; what was kept stays.
      MissingPackageError: pyarrow is not installed; a system without file locks, as Windows.

    Example:
      >>> import dataclasses, tempfile, numpy as np
      >>> from convjax import study
      >>> @dataclasses.dataclass(frozen=True)
      ... class Config:
      ...     depth: int = 8
      >>> def norms(config):
      ...     return {"layer": np.arange(config.depth), "norm": 0.9 ** np.arange(config.depth)}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     cells = study.grid(Config(), depth=[2, 3])
      ...     ran = study.run(norms, cells, folder, version="1")
      ...     again = study.run(norms, cells, folder, version="1")
      ...     table = study.load(folder, ran.keys)
      >>> ran.measured, again.measured, table["norm"].to_pylist()
      (2, 0, [1.0, 0.9, 1.0, 0.9, 0.81])
    """
    where: Runner = _a("runner", Here() if runner is None else runner, Runner, "study.Local()")
    told: Watch = _a("watch", Progress() if watch is None else watch, Watch, "study.Silent()")
    retry = _check.flag("retry", retry)
    if group is not None:
        _check.function("group", group)
    folder = _check.path("folder", folder)
    arrow()
    if time_limit is not None:
        time_limit = _check.number("time_limit", time_limit, above=0)
    cells = keyed(function, configs, version)
    of = name_of(function, name)
    with Store(folder, of) as store:
        store.tidy()
        for path in store.put_aside(cells):
            warnings.warn(
                f"{str(path)!r} is damaged; it is put aside, and its cell measured again",
                stacklevel=2,
            )
        waiting = [one for one in cells if not store.finished(one)]
        old = [] if retry else [one for one in waiting if store.has_failed(one)]
        told.begin(len(cells), len(cells) - len(waiting), len(old))
        failed = {one: store.error(one) for one in old}
        jobs = [
            Job(
                key=one,
                function=function,
                config=cells[one],
                version=version or version_of(function, cells[one]),
                group=one if group is None else str(group(cells[one])),
                folder=str(store.folder) if where.keeps else None,
                of=of,
                retry=retry,
                time_limit=time_limit,
            )
            for one in waiting
            if one not in failed
        ]
        measured = 0
        # Whatever ends this, what runs ends with it, and not when the error is forgotten.
        with contextlib.closing(_performed(where, store, jobs)) as performed:
            for done in performed:
                if done.error:
                    failed[done.key] = done.error
                elif done.table is not None:
                    measured += 1
                told.finish(cells[done.key], done)
        store.retire(cells)
        finished = sum(store.finished(one) for one in cells)
    return Ran(tuple(cells), finished, measured, failed, folder)


def _a(name: str, value: Any, kind: Any, example: str) -> Any:
    """Return an instance of a protocol; a class is not taken for one of its instances."""
    if isinstance(value, type) or not isinstance(value, kind):
        _check.wrong_type(name, value, f"a {name}, such as {example}")
    return value


def keyed(
    function: Callable[[Any], Any], configs: Sequence[Any], version: str | None
) -> dict[str, Any]:
    """Return the cells by their keys.

    Raises:
      WrongTypeError: an argument of a wrong type.
      ValueError: no cell, or one twice; no version.
    """
    _check.function("function", function, "a function that measures a cell")
    if isinstance(configs, str | bytes | Mapping) or not isinstance(configs, Iterable):
        _check.wrong_type("configs", configs, "a list of cells")
    configs = list(configs)
    if version is not None and not _check.instance("version", version, str, "a string"):
        raise ValueError("version='' names no version; leave it out, or give a name")
    cells = {key(one, version or version_of(function, one)): one for one in configs}
    if not cells:
        raise ValueError("configs is empty; give at least one cell")
    if len(cells) < len(configs):
        counts = Counter(canonical(config) for config in configs)
        raise ValueError(f"configs names one cell twice: {counts.most_common(1)[0][0]}")
    return cells


def name_of(function: Callable[..., Any], name: str | None = None) -> str:
    """Return the name under which a study of a function is kept."""
    if name is not None:
        return _check.instance("name", name, str, "the name of a study, or None")
    function, _ = plain_function(function)
    return f"{function.__module__}:{function.__qualname__}"


def _performed(runner: Runner, store: Store, jobs: list[Job]) -> Generator[Done]:
    """Perform all jobs, round by round: what others are at comes last, in case they give it up."""
    while jobs:
        some = False
        waiting = Jobs(store, jobs)
        named = {job.key: job for job in jobs}
        running = runner.run(waiting)
        try:
            for done in keeping(running, store):
                some = True
                store.release(done.key)
                if done.table is None:
                    waiting.elsewhere.append(named[done.key])
                else:
                    yield done
        finally:
            running.close()
        jobs = []
        for job in waiting.elsewhere:
            if over(store, job):
                yield Done(job.key, None, store.error(job.key), kept=True)
            else:
                jobs.append(job)
        if jobs and not some:
            time.sleep(POLL)
