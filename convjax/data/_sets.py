"""sets: what a network is trained and tested on, of one shape and standardised alike."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import numpy as np

from convjax._check import choice, instance, integer, number, shown, wrong_type
from convjax.data._augment import Augment
from convjax.data._given import checked_images
from convjax.data._labels import checked_labels
from convjax.data._moments import moments
from convjax.data._resident import resident
from convjax.data._stream import Stream

Pair = tuple[np.ndarray, np.ndarray]
TOGETHER = 1024


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sets:
    """What a network is trained and tested on; ``sets`` and ``find`` make it.

    Use it in a ``with`` where worker processes read for it: they end then.

    Attributes:
      source: of the batches, for ``train.fit``: a ``Resident`` or a ``Stream``.
      test: for its ``test``: images and labels, or a function that returns batches of them.
      shape: of an image, ``(H, W, C)``.
      classes: how many there are.
      told: what this is, in words.
    """

    source: Any
    test: Pair | Callable[[], Iterable[tuple[Any, Any]]]
    shape: tuple[int, int, int]
    classes: int
    told: str

    def __repr__(self) -> str:
        return f"Sets({self.told!r}, shape={self.shape}, classes={self.classes})"

    def __enter__(self) -> "Sets":
        """Return the sets themselves."""
        return self

    def __exit__(self, *_: Any) -> None:
        """End the processes that read."""
        if isinstance(self.source, Stream):
            self.source.close()


def sets(
    train: Pair,
    test: Pair,
    *,
    batch_size: int,
    seed: int = 0,
    augment: Augment | None = None,
    size: int | None = None,
    classes: int | None = None,
    by: Literal["channels", "pixels"] = "channels",
    told: str = "images",
) -> Sets:
    """Return images that fit in memory, standardised by those to train on alone.

    Args:
      train: images ``(N, H, W, C)``, uint8 or floating point, and labels ``(N,)``.
      test: likewise.
      batch_size: examples in a batch, over all devices.
      seed: of the order of the examples.
      augment: what changes the images to train on at random.
      size: height and width that all are resized to; None leaves them as they are.
      classes: labels must be below it; None takes the largest label.
      by: mean and standard deviation of every channel; or "pixels": the mean of every pixel is
        taken out and no more, as He et al. do.
      told: what this is.

    Raises:
      WrongTypeError: an argument of a wrong type.
      ValueError: images to test on of another shape, or labels that are none of the classes.

    Example:
      >>> import numpy as np
      >>> from convjax import data
      >>> images, labels = np.arange(96, dtype=np.uint8).reshape(4, 4, 2, 3), np.array([0, 1, 0, 1])
      >>> found = data.sets((images, labels), (images, labels), batch_size=2, size=6, told="noise")
      >>> found.told
      'noise: 4 images to train on, 4 to test on, 6x6x3, 2 classes'
    """
    size = None if size is None else integer("size", size, 1)
    choice("by", by, ("channels", "pixels"))
    instance("told", told, str, "a string")
    images, labels = _part("train", train, size)
    test_images, test_labels = _part("test", test, size)
    if test_images.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"test: images have the shape {test_images.shape}, those to train on {images.shape}; "
            "height, width and channels must be the same"
        )
    largest = {"train": int(labels.max()), "test": int(test_labels.max())}
    classes = max(largest.values()) + 1 if classes is None else integer("classes", classes, 1)
    for which, found in largest.items():
        if found >= classes:
            raise ValueError(f"labels to {which} on go up to {found}, of {classes} classes")
    if by == "pixels":
        mean, std = np.mean(_unit(images), 0, dtype=np.float64), 1.0
    else:
        mean, std = moments(images)
        std = tuple(s or 1.0 for s in std)
    shared = {"batch_size": batch_size, "seed": seed, "augment": augment, "classes": classes}
    source = resident(images, labels, mean=mean, std=std, **shared)
    held = (_unit(test_images) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    height, width, channels = images.shape[1:]
    count = f"{len(labels):,} images to train on, {len(test_labels):,} to test on"
    told = f"{told}: {count}, {height}x{width}x{channels}, {classes} classes"
    return Sets(source, (held, test_labels), (height, width, channels), classes, told)


def hold_out(
    images: np.ndarray, labels: np.ndarray, held: int | float, *, seed: int = 0
) -> tuple[Pair, Pair]:
    """Return images and labels in two parts: all but some, and those, chosen at random.

    Args:
      images: any number of them.
      labels: as many.
      held: how many go to the second part, or which share of all.
      seed: of the choice.

    Raises:
      WrongTypeError: an argument of a wrong type.
      ValueError: labels that are not as many whole numbers, or nothing left of one of the parts.

    Example:
      >>> import numpy as np
      >>> from convjax import data
      >>> (x, _), (held, _) = data.hold_out(np.arange(10), np.zeros(10, int), 0.2)
      >>> len(x), len(held)
      (8, 2)
    """
    instance("images", images, (np.ndarray, jax.Array), "an array of NumPy or JAX")
    labels = checked_labels("labels", labels, len(images))
    most = number("held", held)
    count = round(most * len(labels)) if isinstance(held, float | np.floating) else int(held)
    if not 0 < count < len(labels):
        raise ValueError(
            f"held={shown(held)}: {count} of {len(labels)} images cannot be held out; leave some "
            "of both"
        )
    order = np.random.default_rng(integer("seed", seed, 0)).permutation(len(labels))
    kept, out = np.sort(order[count:]), np.sort(order[:count])
    return (images[kept], labels[kept]), (images[out], labels[out])


def _unit(images: np.ndarray) -> np.ndarray:
    """Return images as float32, bytes as brightness in [0, 1]."""
    return images.astype(np.float32) / np.float32(255 if images.dtype == np.uint8 else 1)


def _part(name: str, given: Any, size: int | None) -> Pair:
    """Return images of this height and width, and their labels."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        wrong_type(name, given, "a pair: images and labels")
    images = _resized(name, given[0], size)
    return images, checked_labels(f"{name}: labels", given[1], len(images))


def _resized(name: str, images: Any, size: int | None) -> np.ndarray:
    """Return images of this height and width; bytes stay bytes."""
    images = np.asarray(checked_images(f"{name}: images", images))
    if size is None or images.shape[1:3] == (size, size):
        return images
    parts = []
    for first in range(0, len(images), TOGETHER):
        part = images[first : first + TOGETHER].astype(np.float32)
        shape = (len(part), size, size, part.shape[-1])
        part = np.asarray(jax.image.resize(part, shape, "bilinear"))
        parts.append(part.round().astype(np.uint8) if images.dtype == np.uint8 else part)
    return np.concatenate(parts)
