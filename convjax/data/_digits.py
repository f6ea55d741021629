"""digits: 1797 handwritten digits of 8x8 pixels, which scikit-learn carries inside its package."""

import numpy as np

from convjax._check import MissingPackageError, choice

TRAIN = 1437


def digits(split: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of the handwritten digits, standardised.

    One mean and one standard deviation, those of all pixels of the training split, are taken out
    of every pixel of every split: nothing of the test images leaks, and edges stay comparable with
    the middle. The test split is the last 360 images.

    Args:
      split: ``"train"`` (1437 images), ``"test"`` (360), or None for all of them in that order.

    Returns:
      Images, float32 ``(N, 8, 8, 1)``, and labels, int32 ``(N,)``, 0 to 9.

    Raises:
      ValueError: an unknown split.
      ImportError: scikit-learn is not installed; and a ValueError.

    Example:
      >>> from convjax import data
      >>> images, labels = data.digits("test")
      >>> images.shape, images.dtype, labels[:3].tolist()
      ((360, 8, 8, 1), dtype('float32'), [2, 3, 4])

    Reference: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, 1998 (UCI).
    """
    parts = {None: slice(None), "train": slice(TRAIN), "test": slice(TRAIN, None)}
    if split is not None:
        choice("split", split, ("train", "test"))
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingPackageError(
            "the digits come with scikit-learn, which is missing: pip install 'convjax[lab]'"
        ) from error
    # Where pandas is installed, its types count as possible here.
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    seen = images[:TRAIN]
    images = ((images - seen.mean()) / seen.std()).astype(np.float32)
    return images[parts[split]].reshape(-1, 8, 8, 1), labels[parts[split]].astype(np.int32)
