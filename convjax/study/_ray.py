"""Ray: cells measured by the tasks of a Ray cluster."""

import contextlib
import importlib
import itertools
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from typing import Any

from convjax import _check
from convjax.study._job import Done, Job, lost, perform
from convjax.study._process import check_where, settle, variables
from convjax.study._version import classes_of

# What a lost node or a killed process costs is another try; so many, and the cell is given up.
RETRIES = 3
PATIENCE = 60.0  # seconds that a cluster has for its answer
GONE = 30.0  # seconds without a sign of a cluster; after twice as many Ray ends this process
MISSING = "--runner ray needs Ray: pip install 'convjax[ray]'"
# Asked in a process of its own: Ray tries for minutes, and ends the process that has no token.
_KNOCK = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
except BaseException as error:
    sys.exit(" ".join(str(error).split()))
"""
# What each cell has to itself, by Ray's name of what the cells' number depends on.
_ASKED: dict[str, dict[str, Any]] = {
    "GPU": {"num_gpus": 1},
    "TPU": {"resources": {"TPU": 1}},
    "CPU": {},
}
# How a task ends without a result, by the name of Ray's exception.
_ENDS = {
    "NodeDiedError": "its node was lost",
    "OutOfMemoryError": "its node had too little memory",
    "WorkerCrashedError": "its process ended without a word",
}
# Ray takes these from the environment alone: no word of what it may do in later versions, nor of
# each node that is lost, no report to its makers, no endless tries of what has too little memory.
_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": str(RETRIES),
}


class Ray:
    """Measure on a Ray cluster: each cell is a task, and its result comes back to this process.

    No shared disk is needed. A cell whose node is lost, or whose process is killed, is tried again,
    three times; one that raises is not. Every cell has a processor core, or an accelerator where
    the cluster has some. On processors it computes as under ``Local``, by one thread, so that the
    figures are the same bit for bit where the processors are.

    A cluster that was there stays as it is. It is sent the package of convjax and those of the
    function and its configurations, so that its nodes run the code that this process has; what
    these import must be installed there, with the same versions of Python and Ray. Files that a
    configuration names must be there too. One that is started here has this machine alone, and is
    gone afterwards.

    Args:
      address: of a cluster, such as ``"10.0.0.1:6379"`` on one of its nodes, ``"auto"`` for the one
        that this machine is a node of, or ``"ray://10.0.0.1:10001"`` from anywhere, which needs
        ``ray[client]``; without it, one is started on this machine.
      workers: at most so many cells at a time; without it, as many as there is room for, and as
        many again wait.
      platform: "cpu", "gpu" or "tpu"; without it, accelerators if the cluster has some.

    Raises:
      ImportError: Ray is not installed; and a ValueError.
      WrongTypeError: an argument of a wrong type.
      ValueError: no worker, or a platform that is not one of these. ``run`` raises it where a
        cluster cannot be reached or used.

    Example:
      >>> from convjax import study
      >>> try:
      ...     keeps = study.Ray("10.0.0.1:6379", workers=100).keeps
      ... except ImportError:  # pip install 'convjax[ray]'
      ...     keeps = False
      >>> keeps
      False
    """

    keeps = False

    def __init__(
        self, address: str | None = None, *, workers: int | None = None, platform: str | None = None
    ):
        if address is not None:
            _check.instance("address", address, str, "the address of a cluster, such as 'auto'")
        workers = check_where(workers, platform)
        with _quiet():
            try:
                importlib.import_module("ray")
            except ImportError as error:
                raise _check.MissingPackageError(MISSING) from error
        self.address, self.workers, self.platform = address, workers, platform

    def run(self, jobs: Iterator[Job]) -> Generator[Done]:
        """Connect once there is a job, keep the cluster's cores busy, and leave it as it was."""
        import ray

        first = next(jobs, None)
        if first is None:
            return
        if ray.is_initialized():
            raise ValueError("Ray is connected to a cluster already; call ray.shutdown() before")
        with _quiet(), self._connected(first):
            yield from self._performed(itertools.chain([first], jobs))

    def _connected(self, job: Job) -> contextlib.AbstractContextManager[None]:
        set_there = variables(self.platform)
        if self.address is None:
            path = os.pathsep.join(filter(None, sys.path))
            return _started(self.workers, {"env_vars": {**set_there, "PYTHONPATH": path}})
        knock(self.address)
        sent = {"py_modules": packages(job), "excludes": ["__pycache__"]}
        return _joined(self.address, {"env_vars": set_there, **sent})

    def _performed(self, jobs: Iterator[Job]) -> Iterator[Done]:
        import ray

        device = self._device()
        # A process that has had an accelerator ends with its cell: it would not give it back.
        calls = 0 if device == "CPU" else 1
        options = {"num_cpus": 1, "max_retries": RETRIES, "max_calls": calls, **_ASKED[device]}
        task = ray.remote(**options)(_measure)
        running: dict[Any, Job] = {}
        head, seen = self._head(), time.monotonic()
        try:
            while True:
                if _answers(head):
                    seen = time.monotonic()
                    room = max(self._room(device) - len(running), 0)
                    running |= {task.remote(job): job for job in itertools.islice(jobs, room)}
                elif time.monotonic() > seen + GONE:
                    running.clear()
                    raise ValueError(
                        f"the Ray cluster at {head} is gone; what was measured is kept"
                    )
                if not running:
                    return
                for one in ray.wait(list(running), timeout=1.0)[0]:
                    yield _done(one, running.pop(one))
        finally:
            for one in running:
                ray.cancel(one, force=True)

    def _head(self) -> str:
        """Return where the cluster is seen to be there."""
        import ray

        if self.address is not None and self.address.startswith("ray://"):
            return self.address.removeprefix("ray://")
        return ray.get_runtime_context().gcs_address

    def _device(self) -> str:
        """Return where cells compute, by Ray's name.

        Raises:
          ValueError: the cluster has no such thing.
        """
        import ray

        there = ray.cluster_resources()
        if self.platform is None:
            return next((name for name in _ASKED if there.get(name)), "CPU")
        name = self.platform.upper()
        if not there.get(name):
            raise ValueError(
                f"platform={self.platform!r}, but the Ray cluster has no {name}; start its nodes "
                f"on machines that have one, or leave the platform out"
            )
        return name

    def _room(self, device: str) -> int:
        """Return how many cells the cluster may have at a time: nodes come and go."""
        import ray

        if self.workers is not None:
            return self.workers
        return 2 * max(1, int(ray.cluster_resources().get(device, 0)))


def _measure(job: Job) -> Done:
    """Measure in a process of the cluster."""
    settle()
    return perform(job)


def _done(reference: Any, job: Job) -> Done:
    """Return what became of a task that has ended.

    Raises:
      ValueError: not the cell's fault, and so that of every other.
    """
    import ray
    from ray import exceptions

    try:
        return ray.get(reference)
    except exceptions.LocalRayletDiedError as error:
        raise ValueError(f"the Ray cluster is gone: {_words(error)}") from error
    except (
        exceptions.RayTaskError,
        exceptions.RaySystemError,
        exceptions.RuntimeEnvSetupError,
    ) as error:
        raise ValueError(
            f"the Ray cluster's processes cannot run the cells: {_words(error)}; install on its "
            f"nodes what is installed here"
        ) from error
    except exceptions.RayError as error:
        kind = type(error).__name__
        return lost(job, f"{_ENDS.get(kind, f'{kind}: {_words(error)}')}, {1 + RETRIES} times")


def knock(address: str) -> None:
    """Make sure that a cluster answers.

    Raises:
      ValueError: it does not, or will not have this process.
    """
    start = "start one with `ray start --head`, or leave the address out"
    head = address.removeprefix("ray://")
    if ":" in head and not _answers(head):
        raise ValueError(f"address={address!r}: no Ray cluster is there; {start}")
    try:
        subprocess.run(
            [sys.executable, "-c", _KNOCK, address],
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"address={address!r}: no Ray cluster answers there within {PATIENCE:g} s; {start}"
        ) from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["the process that asked was ended"]
        raise ValueError(f"address={address!r}: Ray cannot use it: {lines[-1]}") from error


def _answers(head: str) -> bool:
    """Tell whether somebody listens where a cluster should."""
    host, _, port = head.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()
    except (OSError, ValueError):
        return False
    return True


def packages(job: Job) -> list[str]:
    """Return where the code lies that measures a cell: packages, or modules that stand alone."""
    of = sorted({one.__module__ for one in classes_of(job.config)} | {type(job.config).__module__})
    named = ("convjax", job.function.__module__, *of)
    found = []
    for name in dict.fromkeys(one.partition(".")[0] for one in named):
        module = importlib.import_module(name)
        file = getattr(module, "__file__", None)
        if hasattr(module, "__path__"):
            found.append(os.path.abspath(next(iter(module.__path__))))
        elif name not in ("__main__", "builtins") and file is not None:
            found.append(file)
    return found


@contextlib.contextmanager
def _joined(address: str, runtime: dict[str, Any], **options: Any) -> Iterator[None]:
    """Be connected to a cluster.

    Raises:
      ValueError: it cannot be had.
    """
    import ray
    from ray import exceptions

    before = signal.getsignal(signal.SIGTERM)
    try:
        try:
            ray.init(
                address=address,
                runtime_env=runtime,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                **options,
            )
        except (RuntimeError, OSError, exceptions.RayError) as error:
            raise ValueError(f"the Ray cluster cannot be used: {_words(error)}") from error
        yield
    finally:
        ray.shutdown()
        with contextlib.suppress(ValueError):  # not the main thread: Ray left it as it was
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _started(workers: int | None, runtime: dict[str, Any]) -> Iterator[None]:
    """Have a cluster on this machine for a while."""
    # Ray's sockets lie there, and their names must be short.
    folder = tempfile.mkdtemp(prefix="convjax-ray-", dir="/tmp")
    try:
        with _joined(
            "local",
            runtime,
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=256 * 2**20,
            _temp_dir=folder,
        ):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Have Ray find what it reads from the environment, unless the user has set it."""
    ours = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _words(error: Exception) -> str:
    """Return the last sentence of Ray's page about an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
