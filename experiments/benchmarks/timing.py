"""Time functions in turn, so that a slow moment of the machine falls on all of them alike."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax

LEAST_ROUNDS = 3
median = statistics.median
Timer = Callable[[int], float]
"""Returns the seconds that so many calls take together."""


def seconds(function: Callable[[], Any], count: int = 1) -> float:
    """Return the seconds that some calls take together, until their JAX arrays are there."""
    # A GPU takes its work in a queue, and waiting for each call would measure the way there. A
    # processor may run two calls at once, so there each is waited for.
    waits = jax.default_backend() == "cpu"
    start = time.perf_counter()
    result = None
    for _ in range(count):
        result = None  # Its memory, still in the cache, is there for the next.
        result = function()
        if waits:
            jax.block_until_ready(result)
    jax.block_until_ready(result)
    return time.perf_counter() - start


def alternate(
    functions: Mapping[str, Callable[[], Any]],
    *,
    repeats: int,
    min_seconds: float = 0.005,
    slow_seconds: float = 1.0,
    elsewhere: Mapping[str, Timer] | None = None,
) -> dict[str, list[float]]:
    """Measure functions in rounds, each once in a round, by an order that changes every round.

    It begins with another function and goes on in other steps, so that none always comes after the
    same one, which may leave nothing of the common arrays in the cache. Every function runs once
    unmeasured before the first round. A sample is the mean over as many calls as last
    ``min_seconds`` together.

    Args:
      functions: by name, called without arguments.
      repeats: number of rounds.
      min_seconds: least duration of a sample.
      slow_seconds: a function of which one call takes longer leaves after fewer rounds, so that its
        time is about that of ``repeats`` calls of this duration, but not before the third.
      elsewhere: what another process times itself, by name; it takes part like the functions.

    Returns:
      The seconds of one call, in every round that the function took part in.
    """
    timers = {name: partial(seconds, f) for name, f in functions.items()} | dict(elsewhere or {})
    for timer in timers.values():
        timer(1)
    names = list(timers)
    counts, rounds = dict.fromkeys(names, 1), dict.fromkeys(names, repeats)
    samples: dict[str, list[float]] = {name: [] for name in names}
    steps = [step for step in range(1, len(names)) if math.gcd(step, len(names)) == 1] or [1]
    for i in range(repeats):
        step = steps[i % len(steps)]
        for name in (names[(i + k * step) % len(names)] for k in range(len(names))):
            if i >= rounds[name]:
                continue
            taken, counts[name] = _sample(timers[name], counts[name], min_seconds)
            samples[name].append(taken)
            if i == 0 and taken > slow_seconds:
                rounds[name] = max(LEAST_ROUNDS, int(repeats * slow_seconds / taken))
    return samples


def _sample(timer: Timer, count: int, min_seconds: float) -> tuple[float, int]:
    """Return the seconds of one call, and how many calls were long enough to tell."""
    total = timer(count)
    while total < min_seconds:
        count = max(2 * count, math.ceil(1.2 * count * min_seconds / max(total, 1e-7)))
        total = timer(count)
    return total / count, count


def pairs(
    first: Callable[[], Any], second: Callable[[], Any], repeats: int
) -> list[tuple[float, float]]:
    """Return the seconds of two functions in every round, all rounds whole."""
    samples = alternate({"1": first, "2": second}, repeats=repeats, slow_seconds=math.inf)
    return list(zip(*samples.values(), strict=True))


def comparison(
    what: str, pairs: Sequence[tuple[float, float]], target: float | None = None, steps: int = 1
) -> dict[str, Any]:
    """Return a row: medians of one step of both, the median of the ratios, and their range.

    Args:
      what: the first over the second, in words.
      pairs: the seconds of both in every round.
      target: what the ratio should not exceed.
      steps: how many steps these seconds are of.
    """
    first, second = (median(times) / steps for times in zip(*pairs, strict=True))
    ratios = [one / other for one, other in pairs]
    return {
        "what": what,
        "first_s": first,
        "second_s": second,
        "ratio": median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "target": target,
    }


def geometric_mean(ratios: Iterable[float | None]) -> float | None:
    """Return the geometric mean of the ratios that are there; None if none is."""
    known = [ratio for ratio in ratios if ratio is not None]
    return statistics.geometric_mean(known) if known else None
