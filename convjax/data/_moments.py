"""moments: mean and standard deviation of the channels of images."""

import numpy as np

from convjax.data._given import checked_images

TOGETHER = 256


def moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of every channel over all pixels of all images.

    Take them from the training split, and use them for the test split as well.

    Args:
      images: ``(N, H, W, C)``, floating point, or uint8, which counts as brightness in [0, 1].

    Returns:
      The means and the standard deviations, summed up in float64.

    Raises:
      ValueError: no images, or not of four axes, of another dtype, or not finite.

    Example:
      >>> import numpy as np
      >>> from convjax import data
      >>> images = np.array([0, 255, 255, 0, 51, 51], np.uint8).reshape(1, 3, 1, 2)
      >>> mean, std = data.moments(images)
      >>> [round(m, 3) for m in mean], [round(s, 3) for s in std]
      ([0.4, 0.4], [0.432, 0.432])
    """
    images = np.asarray(checked_images("images", images))
    unit = 255.0 if images.dtype == np.uint8 else 1.0
    # In parts: float64 is eight times as large as what a set of bytes takes.
    parts = range(0, len(images), TOGETHER)

    def mean_of(function):
        sums = [
            function(images[at : at + TOGETHER].astype(np.float64) / unit).sum((0, 1, 2))
            for at in parts
        ]
        return np.sum(sums, 0) / (images.size // images.shape[-1])

    mean = mean_of(lambda part: part)
    std = np.sqrt(mean_of(lambda part: (part - mean) ** 2))
    return tuple(mean.tolist()), tuple(std.tolist())
