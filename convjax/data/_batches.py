"""batch_indices: which examples make up a batch, as a function of seed and step alone."""

import numpy as np


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
      ValueError: a batch bigger than the data or below one, or a negative step.

    Example:
      >>> from convjax import data
      >>> first = data.batch_indices(10, 5, seed=0, step=0)
      >>> second = data.batch_indices(10, 5, seed=0, step=1)
      >>> sorted([*first.tolist(), *second.tolist()])
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    if not 1 <= batch_size <= count:
        raise ValueError(f"batch_size={batch_size} must lie between 1 and the {count} examples")
    if step < 0:
        raise ValueError(f"step={step} must not be negative")
    epoch, place = divmod(step, count // batch_size)
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return order[place * batch_size : (place + 1) * batch_size].astype(np.int32)
