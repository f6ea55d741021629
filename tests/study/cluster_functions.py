"""What the tests of clusters measure, in processes that import it by its name, and watch."""

import contextlib
import dataclasses
import os
import signal
import time
import uuid
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from convjax import ops, study


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell; ``marks`` is a folder in which each try leaves a file, if it is not empty.

    ``ends`` says how: "" well, "raises", "killed", "waits" a minute at the first try, or "asked",
    well once there is a file "go" beside the marks.
    """

    seed: int
    marks: str = ""
    seconds: float = 0.0
    ends: str = ""


def gradient(cell):
    """Return the gradient of a small convolution's kernel, unless the cell says otherwise."""
    if cell.marks:
        mark = Path(cell.marks) / f"{cell.seed}-{uuid.uuid4().hex}"
        mark.with_name(f".{mark.name}").write_text(f"{os.getsid(0)} {os.getpid()}")
        mark.with_name(f".{mark.name}").rename(mark)
    if cell.ends == "waits" and tries_of(Path(cell.marks))[cell.seed] == 1:
        time.sleep(60)
    if cell.ends == "asked":
        until = time.monotonic() + 120
        while not (Path(cell.marks) / "go").exists() and time.monotonic() < until:
            time.sleep(0.02)
    time.sleep(cell.seconds)
    if cell.ends == "raises":
        raise ValueError(f"seed {cell.seed}\nwill not do")
    if cell.ends == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    x, w = (
        jax.random.normal(jax.random.key(2 * cell.seed + i), shape)
        for i, shape in enumerate([(3, 19, 13, 7), (5, 3, 7, 11)])
    )
    found = jax.jit(jax.grad(lambda w: jnp.sum(jnp.tanh(ops.conv(x, w)) ** 2)))(w)
    values = np.asarray(found, np.float64).ravel()
    return {"place": np.arange(values.size), "gradient": values}


def tries_of(marks):
    """Return how often each cell was begun."""
    return Counter(int(mark.name.partition("-")[0]) for mark in marks.glob("[0-9]*"))


def awaited(marks, seed):
    """Return the mark of a cell, once it has begun."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for mark in marks.glob(f"{seed}-*"):
            return mark
        time.sleep(0.02)
    raise TimeoutError(f"cell {seed} does not begin")


class Counting(study.Silent):
    """Counts what it is told."""

    def __init__(self):
        self.dones = Counter()

    def finish(self, config, done):
        self.dones[config] += 1


def processes(session):
    """Return the processes of a session that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state != "Z":
                found.append(int(stat.parent.name))
    return found


def kill(leader):
    """End a process that leads a session, and all of the session, without a word."""
    until = time.monotonic() + 10
    while (alive := processes(leader.pid)) and time.monotonic() < until:
        for one in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        time.sleep(0.02)
    leader.wait(10)
