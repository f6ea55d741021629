"""batch_indices: which examples make up a batch, as a function of seed and step alone."""

import functools
from typing import Any

import numpy as np

from convjax._check import integer

LARGEST = 2**31 - 1  # places are int32
TOGETHER = 2**20  # steps of one dispatch


def batch_indices(count: int, batch_size: int, *, seed: int, step: int) -> np.ndarray:
    """Return which of ``count`` examples form the batch of one step.

    Every epoch is a permutation of its own, cut into whole batches; what is left over at its end
    waits for another epoch. Nothing is remembered between calls, so a run can go on from any step,
    on any platform, with the batches it would have seen.

    Args:
      count: examples in the data.
      batch_size: examples in a batch.
      seed: of the order.
      step: 0, 1, …

    Returns:
      ``batch_size`` different indices, int32.

    Raises:
      ValueError: a batch bigger than the data or below one, or a negative step or seed.

    Example:
      >>> from convjax import data
      >>> first = data.batch_indices(10, 5, seed=0, step=0)
      >>> second = data.batch_indices(10, 5, seed=0, step=1)
      >>> sorted([*first.tolist(), *second.tolist()])
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    count = integer("count", count, 1, LARGEST)
    batch_size, seed = check_order(count, batch_size, seed)
    step = integer("step", step, 0)
    epoch, place = divmod(step, count // batch_size)
    return _order(count, seed, epoch)[place * batch_size : (place + 1) * batch_size].copy()


def check_order(count: int, batch_size: Any, seed: Any) -> tuple[int, int]:
    """Return size of a batch and seed; refuse what cannot be cut into batches."""
    size = integer("batch_size", batch_size)
    if not 1 <= size <= count:
        raise ValueError(f"batch_size={size} must lie between 1 and the {count} examples")
    return size, integer("seed", seed, 0)


def indices_of_steps(
    count: int, batch_size: int, *, seed: int, first: int, steps: int
) -> np.ndarray:
    """Return the batches of ``steps`` steps from ``first`` on, int32 ``(steps, batch_size)``."""
    first, steps = integer("first", first, 0), integer("steps", steps, 1, TOGETHER)
    found = [
        batch_indices(count, batch_size, seed=seed, step=step)
        for step in range(first, first + steps)
    ]
    return np.stack(found)


# A permutation of a million takes longer than a step. Two runs and their ends of an epoch fit in.
@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count).astype(np.int32)
