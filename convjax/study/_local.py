"""Local: cells measured by processes of this machine."""

import collections
import math
import os
import pickle
import sys
import time
from collections.abc import Generator, Iterator
from multiprocessing.connection import wait
from typing import Any

from convjax.study._job import Done, Job, lost
from convjax.study._jobs import Jobs
from convjax.study._process import accelerated, check_where
from convjax.study._time_limit import said
from convjax.study._worker import EndedError, Worker, uninterrupted

TRIES = 2
LATE = 5.0  # seconds after a limit of time in which a process ends its cell itself
# Cells that take less than so many seconds are sent ahead, so that no process waits for the next.
BRIEF, AHEAD = 0.1, 4


class Local:
    """Measure in processes of this machine, each on a processor core of its own.

    A process has one computing thread, so that the numbers do not depend on how many cores there
    are; it is started once and keeps what it has compiled, in memory for the cells of one group and
    on disk for the next time: in ``$JAX_COMPILATION_CACHE_DIR``, or else in ``convjax/compiled``
    of the user's folder for caches. A cell whose process is killed is tried once more.

    The processes import the measured function: it is defined in a file, and not in a notebook or in
    another function, where ``Here`` serves. They begin with JAX as the environment variables
    leave it: what this process has set by ``jax.config`` is not known there. A script that runs a
    study needs the usual ``if __name__ == "__main__":``.

    Args:
      workers: cells at a time; without it one for each core that this process may use, or one
        where there is an accelerator.
      platform: "cpu", "gpu" or "tpu"; without it, JAX chooses the fastest that there is.

    Raises:
      WrongTypeError: an argument of a wrong type.
      ValueError: no worker; a platform that is not one of these, or for which JAX is not
        installed. When it runs: a function that other processes cannot import, or processes that
        cannot start.

    Example:
      >>> from convjax import study
      >>> study.Local(2, platform="cpu").workers
      2
    """

    keeps = False

    def __init__(self, workers: int | None = None, *, platform: str | None = None):
        workers = check_where(workers, platform)
        alone = accelerated(platform)
        if platform in ("gpu", "tpu") and not alone:
            raise ValueError(
                f"platform={platform!r}, but there is no JAX for it here; leave platform out to "
                f"use what there is, or install the JAX that has it (pip install 'jax[...]')"
            )
        cores = _cores()
        if workers is None:
            workers = 1 if alone else len(cores)
        self.workers = workers
        self.platform = platform
        self._cores = [None] if alone else cores

    def run(self, jobs: Iterator[Job]) -> Generator[Done]:
        """Measure, and yield what became of each as it comes."""
        running = _Running(self, jobs)
        try:
            yield from running.outcomes()
        except BaseException:
            running.end(at_once=True)
            raise
        running.end(at_once=False)

    def start(self, place: int) -> Worker:
        """Start the process of a place."""
        return Worker(self._cores[place % len(self._cores)], self.platform)


class _Running:
    """The processes of one run, and who is at what."""

    def __init__(self, local: Local, jobs: Iterator[Job]):
        self.local = local
        self.jobs = jobs
        self.workers: list[Worker | None] = [None] * local.workers
        self.again: collections.deque[Job] = collections.deque()
        self.tries: collections.Counter[str] = collections.Counter()
        self.ahead = 1
        self.begun = [0.0] * local.workers  # when each began with what it is at
        self.unborn = 0  # processes that ended before they had begun, one after the other

    def outcomes(self) -> Iterator[Done]:
        """Yield what becomes of all jobs."""
        self.feed()
        while busy := {w.connection: i for i, w in enumerate(self.workers) if w and w.jobs}:
            for connection in wait(list(busy), self.patience()):
                done = self.heard(busy[connection])  # pyright: ignore[reportArgumentType]
                # Before the answer is kept, so that no process waits for that.
                self.feed()
                if done is not None:
                    yield done
            for done in self.overdue():
                self.feed()
                yield done

    def patience(self) -> float | None:
        """Return how long to wait for answers before some process is overdue."""
        left = [self.left(place) for place in range(len(self.workers))]
        return max(0.0, min(left)) if min(left) < math.inf else None

    def left(self, place: int) -> float:
        """Return the seconds after which a process is ended: it did not end its cell itself."""
        worker = self.workers[place]
        if worker is None or not (worker.ready and worker.jobs):
            return math.inf
        limit = worker.jobs[0].time_limit
        return math.inf if limit is None else self.begun[place] + limit + LATE - time.monotonic()

    def overdue(self) -> Iterator[Done]:
        """End the processes that are overdue, and return their cells as failed."""
        for place, worker in enumerate(self.workers):
            if worker is None or self.left(place) > 0:
                continue
            self.workers[place] = None
            worker.kill()
            worker.end()
            job = worker.jobs.popleft()
            self.again.extend(worker.jobs)
            yield lost(job, f"TimeLimitError: {said(job.time_limit or 0)}")

    def feed(self) -> None:
        """Give every process something to do, and only then anyone more than that."""
        for depth in range(self.ahead):
            for place in range(len(self.workers)):
                worker = self.workers[place]
                if worker is not None and len(worker.jobs) > depth:
                    continue
                job = self.next(worker.group if worker else "")
                if job is None:
                    return
                sent = packed(job)
                if worker is None:
                    with uninterrupted():
                        self.workers[place] = worker = self.local.start(place)
                if not worker.jobs:
                    self.begun[place] = time.monotonic()
                worker.give(job, sent)

    def next(self, group: str) -> Job | None:
        """Return the next job for a process that was at this group."""
        if self.again:
            return self.again.popleft()
        return self.jobs.take(group) if isinstance(self.jobs, Jobs) else next(self.jobs, None)

    def heard(self, place: int) -> Done | None:
        """Return what a process says became of its job; None if it says something else."""
        worker = self.workers[place]
        assert worker is not None
        try:
            done = worker.answer()
        except EndedError as error:
            self.workers[place] = None
            worker.end()
            return self.bereaved(worker, str(error))
        self.unborn = 0
        self.begun[place] = time.monotonic()
        if done is not None:
            self.ahead = AHEAD if done.seconds < BRIEF else 1
        return done

    def bereaved(self, worker: Worker, why: str) -> Done | None:
        """Hand on what a process leaves behind; return its job as lost if that has cost several."""
        if not worker.ready:
            self.unborn += 1
            if self.unborn == TRIES:
                raise ValueError(
                    f"a process that was to measure ended before it could: {why}; what it said is "
                    f"above. A script that runs a study does so under if __name__ == '__main__':"
                )
            self.again.extend(worker.jobs)
            return None
        job = worker.jobs.popleft()
        self.again.extend(worker.jobs)
        self.tries[job.key] += 1
        if self.tries[job.key] == TRIES:
            return lost(job, f"{why}, {TRIES} times")
        self.again.append(job)
        return None

    def end(self, *, at_once: bool) -> None:
        """End all processes; ``at_once`` whatever they are at."""
        workers = [worker for worker in self.workers if worker is not None]
        if at_once:
            for worker in workers:
                worker.kill()
        for worker in workers:
            worker.end()


def packed(job: Job) -> bytes:
    """Return a job as bytes.

    Raises:
      ValueError: other processes cannot import its function, or cannot be sent its configuration.
    """
    here = "or measure in this process with runner=study.Here(), --runner here in a command"
    name = getattr(job.function, "__qualname__", repr(job.function))
    if "<lambda>" in name:
        why = "it is a lambda"
    elif "<locals>" in name:
        why = "it is defined in another function"
    elif job.function.__module__ == "__main__" and not _is_file(sys.modules["__main__"]):
        why = "it was typed in a notebook or at a prompt"
    else:
        try:
            return pickle.dumps(job)
        except Exception as error:
            raise ValueError(
                f"the cell {job.config!r} of {name} cannot be sent to another process ({error}); "
                f"define its class at the top of a module, {here}"
            ) from error
    raise ValueError(
        f"other processes cannot import {name}: {why}; define it at the top of a module and import "
        f"it from there, {here}"
    )


def _is_file(main: Any) -> bool:
    """Tell whether multiprocessing lets other processes import the main module."""
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return not spec.name.endswith("__main__")
    return os.path.isfile(getattr(main, "__file__", None) or "")


def _cores() -> list[int]:
    """Return the processor's cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
