"""What the tests of runners measure: functions that other processes can import."""

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a test measures."""

    index: int = 0
    size: int = 37
    kind: str = "sums"
    folder: str = ""


EVENTS: list[str] = []
MEASURED: list[int] = []
jax.monitoring.register_event_listener(lambda event, **_: EVENTS.append(event))


@jax.jit
def sums(key, size_like):
    """Numbers whose last bits depend on how the program is cut into parts."""
    a, b = jax.random.normal(key, (2, 131, 517 + len(size_like)))
    return jnp.tanh(a @ b.T).sum(1), jnp.linalg.qr(a[:, :40])[1], a.mean()


class MuteError(Exception):
    """An error that cannot say what it is."""

    def __str__(self):
        raise RuntimeError("not even that")


def trivial(cell):
    """A few numbers that take no time."""
    return {"index": np.array([cell.index, -cell.index]), "value": np.array([0.5, 1.5])}


def computed(cell):
    """Numbers of a compiled program, one for each size, and what the process knows of itself."""
    parts = sums(jax.random.key(cell.index), jnp.zeros(cell.size))
    value = np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])
    MEASURED.append(cell.index)
    about = {
        "index": cell.index,
        "process": os.getpid(),
        "place": len(MEASURED),
        "missed": EVENTS.count("/jax/compilation_cache/cache_misses"),
        "found": EVENTS.count("/jax/compilation_cache/cache_hits"),
        "cores": len(os.sched_getaffinity(0)),
    }
    columns = {name: np.full(len(value), number) for name, number in about.items()}
    return columns | {"value": value}


def behaving(cell):
    """What ``computed`` does, unless the cell's kind says something worse."""
    calls = Path(cell.folder) / f"calls-{cell.index}"
    with open(calls, "a") as file:
        file.write(f"{os.getpid()}\n")
    if cell.kind == "raises":
        raise ArithmeticError("no such\nnumber")
    first = len(calls.read_text().splitlines()) == 1
    if cell.kind == "kills" or (cell.kind == "kills once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.kind == "exits":
        sys.exit(3)
    if cell.kind == "mute":
        raise MuteError()
    if cell.kind == "stuck":  # as in a compilation, which hears no signal before its end
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    if cell.kind in ("waits", "stuck"):
        time.sleep(600)
    return trivial(cell) if cell.kind == "trivial" else computed(cell)
