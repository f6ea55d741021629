"""Time functions in turn, so that a slow moment of the machine falls on all of them alike."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax

LEAST_ROUNDS = 3


@runtime_checkable
class Timer(Protocol):
    """What measures itself, as another process does."""

    def time(self, count: int) -> float:
        """Return the seconds that ``count`` calls take together."""
        ...


class Calls:
    """Times a function of this process.

    Args:
      function: called without arguments; whatever JAX arrays it returns are waited for.
    """

    def __init__(self, function: Callable[[], Any]):
        self.function = function
        # A GPU takes its work in a queue, and waiting for each call would measure the way there. A
        # processor may run two calls at once, so there each is waited for.
        self.waits = jax.default_backend() == "cpu"

    def time(self, count: int) -> float:
        """Return the seconds that ``count`` calls take together."""
        start = time.perf_counter()
        result = None
        for _ in range(count):
            result = None  # Its memory, still in the cache, is there for the next.
            result = self.function()
            if self.waits:
                jax.block_until_ready(result)
        jax.block_until_ready(result)
        return time.perf_counter() - start


def alternate(
    functions: Mapping[str, Callable[[], Any] | Timer],
    *,
    repeats: int,
    min_seconds: float = 0.005,
    slow_seconds: float = 1.0,
) -> dict[str, list[float]]:
    """Measure functions in rounds, each once in a round, the order rotating from round to round.

    Every function runs once unmeasured before the first round. A sample is the mean over as many
    calls as last ``min_seconds`` together.

    Args:
      functions: by name; a function without arguments, or an object that times itself.
      repeats: number of rounds.
      min_seconds: least duration of a sample.
      slow_seconds: a function of which one call takes longer leaves after fewer rounds, so that its
        time is about that of ``repeats`` calls of this duration, but not before the third.

    Returns:
      The seconds of one call, in every round that the function took part in.
    """
    timers = {n: f if isinstance(f, Timer) else Calls(f) for n, f in functions.items()}
    for timer in timers.values():
        timer.time(1)
    names = list(timers)
    counts, rounds = dict.fromkeys(names, 1), dict.fromkeys(names, repeats)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for i in range(repeats):
        start = i % max(len(names), 1)
        for name in names[start:] + names[:start]:
            if i >= rounds[name]:
                continue
            seconds, counts[name] = _sample(timers[name], counts[name], min_seconds)
            samples[name].append(seconds)
            if i == 0:
                rounds[name] = _rounds(seconds, repeats, slow_seconds)
    return samples


def _sample(timer: Timer, count: int, min_seconds: float) -> tuple[float, int]:
    """Return the seconds of one call, and how many calls were long enough to tell."""
    total = timer.time(count)
    while total < min_seconds:
        count = max(2 * count, math.ceil(1.2 * count * min_seconds / max(total, 1e-7)))
        total = timer.time(count)
    return total / count, count


def _rounds(seconds: float, repeats: int, slow_seconds: float) -> int:
    if seconds <= slow_seconds:
        return repeats
    return min(repeats, max(LEAST_ROUNDS, int(repeats * slow_seconds / seconds)))


def median(samples: Iterable[float]) -> float:
    """Return the median."""
    return float(statistics.median(samples))


def geometric_mean(ratios: Iterable[float | None]) -> float | None:
    """Return the geometric mean of the ratios that are there; None if none is."""
    known = [ratio for ratio in ratios if ratio is not None]
    return statistics.geometric_mean(known) if known else None
