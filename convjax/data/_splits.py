"""image_splits: a folder of pictures as images to train on and images to test on."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convjax._check import existing_folder, integer, number
from convjax.data._folder import ANNOTATIONS
from convjax.data._images import ImageFolder, image_folder

TESTS = ("test", "val")


def image_splits(
    path: str | os.PathLike,
    *,
    size: int,
    share: float = 0.2,
    seed: int = 0,
    crop: float = 0.875,
    interpolation: str = "bicubic",
    mean: Sequence[float],
    std: Sequence[float],
    order: str = "RGB",
    channels: int = 3,
    allow_empty: bool = False,
) -> tuple[ImageFolder, ImageFolder]:
    """Return the pictures of a folder in two parts, to train on and to test on.

    A folder that holds ``train`` and ``test`` (or ``val``) is split as it says. Otherwise every
    class gives a share of its pictures, chosen by the seed, to the test.

    Args:
      path: a folder of class folders, or one that holds ``train`` and ``test`` with class folders.
      size: height and width of the result, in pixels.
      share: of each class that goes to the test, rounded, and at least one picture.
      seed: of the random choice.
      crop: as for ``image_folder``.
      interpolation: as for ``image_folder``.
      mean: as for ``image_folder``.
      std: as for ``image_folder``.
      order: as for ``image_folder``.
      channels: as for ``image_folder``.
      allow_empty: as for ``image_folder``.

    Returns:
      Two ``ImageFolder`` with the same classes, for ``resident``.

    Raises:
      FileNotFoundError: no such folder; and a ValueError.
      ImportError: Pillow is not installed; and a ValueError.
      ValueError: no class folders, a class to test that is not trained, a class of one picture that
        cannot be shared, a share out of range; or what ``image_folder`` refuses.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from convjax import data
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for name in ("cat/1", "cat/2", "cat/3", "dog/1", "dog/2"):
      ...         file = pathlib.Path(folder, f"{name}.png")
      ...         file.parent.mkdir(exist_ok=True)
      ...         Image.new("RGB", (20, 20)).save(file)
      ...     train, test = data.image_splits(folder, size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
      >>> len(train.images), test.labels.tolist(), test.classes
      (3, [0, 1], ('cat', 'dog'))
    """
    root = existing_folder("path", path)
    share, seed = number("share", share, above=0, below=1), integer("seed", seed, 0)

    def read(folder: Path) -> ImageFolder:
        found = image_folder(
            folder,
            size=size,
            crop=crop,
            interpolation=interpolation,
            mean=mean,
            std=std,
            order=order,
            channels=channels,
            allow_empty=allow_empty,
        )
        if found.labels is None:
            raise ValueError(f"path={str(folder)!r} has no class folders, so there are no labels")
        return found

    tests = [name for name in TESTS if (root / name).is_dir()]
    if (root / "val" / ANNOTATIONS).is_file():  # Tiny-ImageNet's test has no labels
        tests = ["val"]
    if (root / "train").is_dir() and tests:
        train = read(root / "train")
        return train, _relabelled(read(root / tests[0]), train.classes, root / tests[0])
    whole = read(root)
    chosen = _chosen(whole, share, seed)
    return _part(whole, ~chosen), dataclasses.replace(_part(whole, chosen), skipped=(), others=())


def _relabelled(found: ImageFolder, classes: tuple[str, ...], folder: Path) -> ImageFolder:
    """Return pictures whose labels are places in the classes of the training."""
    unknown = sorted(set(found.classes) - set(classes))
    if unknown:
        raise ValueError(f"path={str(folder)!r} has a class that train has not: {unknown[0]!r}")
    places = np.array([classes.index(name) for name in found.classes], np.int32)
    return dataclasses.replace(found, labels=places[found.labels], classes=classes)


def _chosen(whole: ImageFolder, share: float, seed: int) -> np.ndarray:
    """Return which pictures are for the test, some of every class."""
    random = np.random.default_rng(seed)
    chosen = np.zeros(len(whole.images), bool)
    for label, name in enumerate(whole.classes):
        members = np.flatnonzero(whole.labels == label)
        if len(members) < 2:
            raise ValueError(
                f"class {name!r} has {len(members)} pictures that can be read; "
                "it takes 2 to train on one and test on the other"
            )
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        chosen[random.permutation(members)[:count]] = True
    return chosen


def _part(whole: ImageFolder, of: np.ndarray) -> ImageFolder:
    return dataclasses.replace(
        whole,
        images=whole.images[of],
        labels=None if whole.labels is None else whole.labels[of],
        files=tuple(file for file, chosen in zip(whole.files, of, strict=True) if chosen),
    )
