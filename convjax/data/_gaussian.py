"""gaussian: noise in the place of images, and labels that mean nothing."""

import numpy as np

from convjax._check import integer, integers
from convjax.data._batches import LARGEST


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
      ValueError: a count, a size or a number of classes below one, a negative seed, or more numbers
        than memory holds.

    Example:
      >>> from convjax import data
      >>> images, labels = data.gaussian(5, (4, 3, 2))
      >>> images.shape, labels.shape
      ((5, 4, 3, 2), (5,))
    """
    count, classes = integer("count", count, 1), integer("classes", classes, 1, LARGEST)
    whole = (count, *integers("shape", shape, least=1))
    random = np.random.default_rng(integer("seed", seed, 0))
    try:
        images = random.standard_normal(whole, dtype=np.float32)
    except (MemoryError, ValueError) as error:  # more axes or more bytes than there can be
        raise ValueError(f"count={count} and shape={shape!r} cannot be held: {error}") from error
    return images, random.integers(0, classes, count, dtype=np.int32)
