"""Worker: a process of this machine that measures the cells it is given, one after the other."""

import collections
import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

import jax

from convjax.study._job import Done, Job, perform
from convjax.study._process import settle, variables

GRACE = 5.0  # seconds in which a process ends by itself


class EndedError(Exception):
    """The process is gone; the message says how it ended."""


class Worker:
    """A process, and what it has been given.

    It ends when this end of its pipe is closed, so that it does not outlive this process either. It
    is started ``uninterrupted``.

    Args:
      core: of the processor, where it stays; None for any.
      platform: as of ``Local``.

    Attributes:
      jobs: what it has been given and not answered, in order; it is at the first.
      group: of what it was given last.
      connection: readable when there is an answer, or when the process has ended.
      ready: whether it has begun.
    """

    def __init__(self, core: int | None, platform: str | None):
        self.jobs: collections.deque[Job] = collections.deque()
        self.group = ""
        self.ready = False
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, core), name="convjax-study")
        with _surroundings(variables(platform)), _without_prompt():
            self._process.start()
        theirs.close()

    def give(self, job: Job, sent: bytes) -> None:
        """Send a job, as ``packed`` returned it."""
        self.jobs.append(job)
        self.group = job.group
        # A process that has just ended is noticed where its answers are read.
        with contextlib.suppress(OSError):
            self.connection.send_bytes(sent)

    def answer(self) -> Done | None:
        """Return what became of the first job; None where the process tells that it has begun.

        Raises:
          EndedError: there is no answer, and will be none.
          ValueError: it cannot measure, or cannot read what it was given.
        """
        try:
            said = self.connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(GRACE)
            raise EndedError(ending(self._process.exitcode)) from error
        if isinstance(said, str):
            raise ValueError(said)
        if said is not None:
            self.jobs.popleft()
        self.ready = True
        return said

    def kill(self) -> None:
        """End the process, whatever it is at."""
        self.connection.close()
        self._process.kill()

    def end(self) -> None:
        """Have the process end by itself, if it does so soon, and wait for that."""
        self.connection.close()
        self._process.join(GRACE)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._process.close()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C waiting, and for ever from the processes that are started meanwhile."""
    # Its start, at the first process, would let Ctrl-C through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ending(code: int | None) -> str:
    """Say how a process ended, by its exit code."""
    if code is None or code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    guess = " (out of memory?)" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{guess}"


def serve(connection: Connection, core: int | None) -> None:
    """Measure what comes through the pipe until it is closed; what a worker's process does."""
    settle(core)
    jobs: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, jobs), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # who reads is gone, and so is this process soon
        try:
            jax.devices()
        except Exception as error:
            connection.send(_without_device(error))
            return
        connection.send(None)
        while (job := jobs.get()) is not None:
            connection.send(_performed(job))


def _without_device(error: Exception) -> str:
    asked = os.environ.get("JAX_PLATFORMS") or "any"
    words = " ".join(str(error).split()) or type(error).__name__
    return f"a process that was to measure finds no device for JAX_PLATFORMS={asked}: {words}"


def _performed(sent: bytes) -> Done | str:
    try:
        job = pickle.loads(sent)
    except Exception as error:
        return f"another process cannot read the cell: {type(error).__name__}: {error}"
    done = perform(job)
    # What it printed shall be there even if the next cell takes the process with it.
    sys.stdout.flush()
    return done


def _listen(connection: Connection, jobs: queue.SimpleQueue) -> None:
    """Take jobs as they come, so that whoever sends them never waits; end with the pipe."""
    try:
        while True:
            jobs.put(connection.recv_bytes())
    except (EOFError, OSError):
        jobs.put(None)
        time.sleep(GRACE / 2)
        os._exit(1)  # in the middle of a cell that nobody waits for


@contextlib.contextmanager
def _surroundings(changes: Mapping[str, str]) -> Iterator[None]:
    """Have environment variables changed for what is started meanwhile."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_prompt() -> Iterator[None]:
    """Have nothing started meanwhile look for a main module that was piped in, not read."""
    main = vars(sys.modules["__main__"])
    file = main.get("__file__")
    if file is None or os.path.isfile(file):
        yield
        return
    del main["__file__"]
    try:
        yield
    finally:
        main["__file__"] = file
