"""Slurm: cells measured by the job arrays of a cluster, through submitit."""

import dataclasses
import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from convjax import _check
from convjax.study._files import check_place
from convjax.study._job import Done, Job, lost, perform
from convjax.study._process import check_where, settle, variables
from convjax.study._store import Store

MISSING = "--runner slurm needs submitit: pip install 'convjax[slurm]'"
ARRAY = 1000  # jobs; Slurm refuses arrays of more than 1,001 unless told otherwise
POLL = 0.5  # seconds between two looks at what has ended
ASK = 10.0  # seconds between two questions to Slurm
LATE = 15.0  # seconds that a shared disk may take to show what another machine wrote
# Options that submitit takes as lists.
_LISTS = ("slurm_setup", "slurm_teardown", "slurm_srun_args")
_OURS: dict[str, Any] = {"name": "convjax", "timeout_min": 60, "nodes": 1, "tasks_per_node": 1}


class Slurm:
    """Measure by Slurm's job arrays: each cell is a task, which keeps its result by itself.

    The study's folder and this one are seen by all machines. A task that is preempted, or runs out
    of its time, is queued again and starts its cell anew, after its time has run out four times no
    more. One that Slurm ends otherwise, as for want of memory, is a failure that ``retry`` measures
    again. When this process ends by Ctrl-C, its jobs are cancelled. When it is killed they go on,
    and the next one leaves alone what they are at.

    Args:
      folder: for what submitit writes: the cells, and the tasks' logs.
      options: what submitit tells Slurm, as words such as ``"timeout_min=240"`` (60 without it),
        ``"mem_gb=16"``, ``"cpus_per_task=4"`` or ``"slurm_partition=gpu"``. ``"cluster=local"``
        has submitit run the tasks on this machine, to try it.
      workers: at most so many cells at a time; without it, as Slurm sees fit. Arrays are of at most
        a thousand cells, one after the other.
      platform: "cpu", "gpu" or "tpu"; with "gpu" each task asks for one.

    Raises:
      ImportError: submitit is not installed; and a ValueError.
      WrongTypeError: an argument of a wrong type.
      ValueError: no worker, a platform that is not one of these, an option that is not submitit's,
        or no Slurm on this machine. ``run`` raises it where Slurm does not take the jobs.

    Example:
      >>> import tempfile
      >>> from convjax import study
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     try:
      ...         keeps = study.Slurm(folder, ["cluster=local", "timeout_min=5"], workers=2).keeps
      ...     except ImportError:  # pip install 'convjax[slurm]'
      ...         keeps = True
      >>> keeps
      True
    """

    keeps = True

    def __init__(
        self,
        folder: str | os.PathLike,
        options: Sequence[str] = (),
        *,
        workers: int | None = None,
        platform: str | None = None,
    ):
        folder = _check.path("folder", folder)
        check_place(folder)
        workers = check_where(workers, platform)
        options = _check.strings("options", options)
        try:
            importlib.import_module("submitit")
        except ImportError as error:
            raise _check.MissingPackageError(MISSING) from error
        told = dict(_OURS, slurm_array_parallelism=workers or ARRAY)
        if platform == "gpu":
            told["gpus_per_node"] = 1
        told |= read(options)
        self._cluster = told.pop("cluster", "slurm")
        # Submitit starts all that it has at once where there is no Slurm.
        self._most = ARRAY if self._cluster == "slurm" else workers or os.cpu_count() or 1
        self._executor = _executor(str(folder), self._cluster, told)
        self._environment = variables(platform)

    def run(self, jobs: Iterator[Job]) -> Generator[Done]:
        """Submit what nobody is at, array by array, and tell what the tasks say."""
        first = next(jobs, None)
        if first is None or first.folder is None:
            return
        held: list[Job] = []
        with Store(first.folder, first.of) as store:
            for some in _arrays(itertools.chain([first], jobs), self._most):
                held += [job for job in some if not _is_free(store, job)]
                yield from self._performed([job for job in some if job not in held])
            while held:
                for job in [one for one in held if _is_free(store, one)]:
                    held.remove(job)
                    # Whether that finished it, the study's folder knows.
                    yield Done(job.key, None, kept=True)
                time.sleep(POLL if held else 0.0)

    def _performed(self, jobs: list[Job]) -> Iterator[Done]:
        running = dict(zip(self._submitted(jobs), jobs, strict=True)) if jobs else {}
        queue = _Queue(self._cluster)
        silent: dict[Any, float] = {}
        try:
            while running:
                # One look at the folder, which a shared disk then shows as it is.
                written = set(os.listdir(self._executor.folder))
                for task in list(running):
                    if task.paths.result_pickle.name in written:
                        yield _done(task, running.pop(task))
                    elif task in queue:
                        silent.pop(task, None)
                    elif time.monotonic() > silent.setdefault(task, time.monotonic()) + LATE:
                        yield _ended(task, running.pop(task))
                time.sleep(POLL if running else 0.0)
        finally:
            queue.cancel(list(running))

    def _submitted(self, jobs: list[Job]) -> list[Any]:
        """Return submitit's jobs; the tasks inherit this environment, and find what is found here.

        Raises:
          ValueError: Slurm does not take them.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.helpers import environment_variables

        path = os.pathsep.join(filter(None, sys.path))
        try:
            with environment_variables(**self._environment, PYTHONPATH=path):
                return self._executor.submit_array([Task(job) for job in jobs])
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise ValueError(
                f"Slurm does not take the jobs: {' '.join(str(error).split())}"
            ) from error


class _Queue:
    """Which tasks run or wait; submitit asks what not every Slurm keeps, and not often."""

    def __init__(self, cluster: str):
        self.cluster = cluster
        self.asked = 0.0
        self.found: set[str] | None = None

    def __contains__(self, task: Any) -> bool:
        if self.cluster != "slurm":
            return not task.done()
        if time.monotonic() > self.asked + ASK:
            self.asked = time.monotonic()
            command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
            asked = subprocess.run(command, check=False, capture_output=True, text=True)
            # One that does not answer says nothing of the tasks.
            self.found = set(asked.stdout.split()) if asked.returncode == 0 else None
        return self.found is None or task.job_id in self.found

    def cancel(self, tasks: list[Any]) -> None:
        """End tasks: under Slurm by one call, since each takes a while."""
        if self.cluster == "slurm" and tasks:
            arrays = sorted({task.job_id.partition("_")[0] for task in tasks})
            subprocess.run(["scancel", *arrays], check=False, capture_output=True)
            return
        for task in tasks:
            task.cancel(check=False)
        for task in tasks:
            task.wait()


@dataclasses.dataclass(frozen=True)
class Task:
    """A cell in the hands of submitit."""

    job: Job

    def __call__(self) -> Done:
        """Measure it, where Slurm has started this."""
        settle()
        return perform(self.job)

    def checkpoint(self) -> Any:
        """Return what is to be queued again: the whole of it, since cells keep nothing before."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def read(options: Sequence[str]) -> dict[str, Any]:
    """Return options by name, numbers and truth values as such.

    Raises:
      ValueError: a word that is none, or whose name submitit does not know.
    """
    import submitit

    slurm = {f"slurm_{name}" for name in submitit.SlurmExecutor._valid_parameters()}
    known = submitit.AutoExecutor._valid_parameters() | slurm - {"slurm_additional_parameters"}
    found: dict[str, Any] = {}
    for word in options:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ValueError(f"the Slurm option {word!r} must be NAME=VALUE, as in timeout_min=60")
        if name == "cluster":
            if value not in ("slurm", "local"):
                raise ValueError(
                    f"the Slurm option {word!r} must be cluster=slurm or cluster=local"
                )
        elif name not in known:
            raise ValueError(
                f"the Slurm option {name!r} is not known; submitit has {', '.join(sorted(known))}"
            )
        found[name] = [value] if name in _LISTS else _value(value)
    return found


def _value(text: str) -> str | int | float | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"0|[1-9]\d*", text):  # an account may be called 007
        return int(text)
    return float(text) if re.fullmatch(r"\d+\.\d+", text) else text


def _executor(folder: str, cluster: str, told: dict[str, Any]) -> Any:
    import submitit

    if cluster == "slurm" and not (shutil.which("srun") and shutil.which("sbatch")):
        raise ValueError(
            "there is no Slurm here, neither srun nor sbatch; start from a machine that submits "
            "jobs, or try it on this one with the option cluster=local"
        )
    executor = submitit.AutoExecutor(folder, cluster=cluster)
    try:
        executor.update_parameters(**told)
    except (AssertionError, NameError, TypeError, ValueError) as error:
        raise ValueError(f"submitit refuses an option: {' '.join(str(error).split())}") from error
    return executor


def _arrays(jobs: Iterator[Job], most: int) -> Iterator[list[Job]]:
    while some := list(itertools.islice(jobs, most)):
        yield some


def _is_free(store: Store, job: Job) -> bool:
    """Tell whether nobody is at a cell: tasks of a process that was killed may be."""
    if not store.lock(job.key):
        return False
    store.release(job.key)
    return True


def _done(task: Any, job: Job) -> Done:
    from submitit.core.utils import UncompletedJobError

    try:
        done = task.result()
    except UncompletedJobError as error:
        lines = [line for line in str(error).splitlines() if line and not line.startswith("-")]
        return lost(job, f"its process failed; its log is {task.paths.stderr}: {lines[-1]}")
    for path in (task.paths.result_pickle, task.paths.submitted_pickle):
        path.unlink(missing_ok=True)
    return done


def _ended(task: Any, job: Job) -> Done:
    said = task.stderr() or ""
    words = said.strip().splitlines() or ["without a word"]
    return lost(job, f"its process ended: {'; '.join(words[-2:])}; its log is {task.paths.stderr}")
