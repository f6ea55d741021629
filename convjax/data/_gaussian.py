"""gaussian: noise in the place of images, and labels that mean nothing."""

import numpy as np


def gaussian(
    count: int = 1797, shape: tuple[int, ...] = (8, 8, 1), *, classes: int = 10, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return unit Gaussian noise and uniformly random labels: what theory takes for data.

    Args:
      count: how many examples.
      shape: shape of one.
      classes: labels are 0 to ``classes - 1``.
      seed: the same seed gives the same data.

    Returns:
      Images, float32 ``(count, *shape)``, and labels, int32 ``(count,)``.

    Raises:
      ValueError: a count or a number of classes below one.

    Example:
      >>> from convjax import data
      >>> images, labels = data.gaussian(5, (4, 3, 2))
      >>> images.shape, labels.shape
      ((5, 4, 3, 2), (5,))
    """
    if count < 1 or classes < 1:
        raise ValueError(f"count={count} and classes={classes} must both be at least 1")
    random = np.random.default_rng(seed)
    images = random.standard_normal((count, *shape), dtype=np.float32)
    return images, random.integers(0, classes, count, dtype=np.int32)
