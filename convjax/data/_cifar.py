"""cifar10 and cifar100: from the original files, binary or of the Python version, checked."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from convjax._check import choice, existing_file, flag, path
from convjax.data._cifar_python import python_records
from convjax.data._labels import checked_labels

# What is said where a file is missing.
OFFERED = (
    "folder must hold {}, as the binary version of {} unpacks them, or those of the Python "
    "version, whose names have no .bin. Both are offered on Alex "
    "Krizhevsky's page 'The CIFAR-10 and CIFAR-100 datasets' at the University of Toronto; "
    "nothing is downloaded here"
)
PIXELS = 3 * 32 * 32
CIFAR10 = {
    "train": {f"data_batch_{i}.bin": 10000 for i in range(1, 6)},
    "test": {"test_batch.bin": 10000},
}
CIFAR100 = {"train": {"train.bin": 50000}, "test": {"test.bin": 10000}}
# Folders that the archives are unpacked to.
UNPACKED = {
    "CIFAR-10": ("cifar-10-batches-bin", "cifar-10-batches-py"),
    "CIFAR-100": ("cifar-100-binary", "cifar-100-python"),
}
# What the Python version calls the labels, by how many there are of an image.
LABELS = {1: ("labels",), 2: ("coarse_labels", "fine_labels")}
# Place of the byte in front of the pixels, and how many classes there are.
CIFAR100_LABELS = {"coarse": (0, 20), "fine": (1, 100)}


def cifar10(
    folder: str | os.PathLike, split: str = "train", *, whole: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of CIFAR-10, from ``data_batch_1.bin`` and its like.

    The Python version's files are read where those are not there. They are pickles; no more than
    arrays, lists and texts is read of them, and nothing is executed.

    Args:
      folder: ``cifar-10-batches-bin``, as the archive of the binary version is unpacked, or
        ``cifar-10-batches-py``; or the folder that one of them is in.
      split: ``"train"`` (50,000 images) or ``"test"`` (10,000).
      whole: whether every file must hold the 10,000 records that it has in the archive; otherwise
        any number of whole records will do, as in a small file for a test.

    Returns:
      Images, uint8 ``(N, 32, 32, 3)``, and labels, int32 ``(N,)``, 0 to 9: airplane, automobile,
      bird, cat, deer, dog, frog, horse, ship, truck.

    Raises:
      FileNotFoundError: a file that is missing, named; and a ValueError.
      ValueError: a file that is cut short or of the wrong size, or holds a label out of
        range, named; or an unknown split.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from convjax import data
      >>> record = np.zeros((2, 3073), np.uint8)
      >>> record[1, 0], record[1, 1:1025] = 7, 255  # a horse, all red
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     record.tofile(f"{folder}/test_batch.bin")
      ...     images, labels = data.cifar10(folder, "test", whole=False)
      >>> images.shape, images[1, 5, 6].tolist(), labels.tolist()
      ((2, 32, 32, 3), [255, 0, 0], [0, 7])

    Reference: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    files = CIFAR10[choice("split", split, CIFAR10)]
    return _read(folder, files, whole, 1, 0, 10)


def cifar100(
    folder: str | os.PathLike, split: str = "train", *, labels: str = "fine", whole: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of CIFAR-100, from ``train.bin`` or ``test.bin``.

    Args:
      folder: ``cifar-100-binary``, as the archive of the binary version is unpacked, or
        ``cifar-100-python``, as for ``cifar10``; or the folder that one of them is in.
      split: ``"train"`` (50,000 images) or ``"test"`` (10,000).
      labels: ``"fine"`` (100 classes) or ``"coarse"`` (20).
      whole: as for ``cifar10``.

    Returns:
      Images, uint8 ``(N, 32, 32, 3)``, and labels, int32 ``(N,)``.

    Raises:
      ValueError: as for ``cifar10``, or unknown labels.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from convjax import data
      >>> record = np.zeros((2, 3074), np.uint8)
      >>> record[1, :2] = 19, 99
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     record.tofile(f"{folder}/test.bin")
      ...     data.cifar100(folder, "test", whole=False)[1].tolist()
      [0, 99]

    Reference: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    files = CIFAR100[choice("split", split, CIFAR100)]
    place, classes = CIFAR100_LABELS[choice("labels", labels, CIFAR100_LABELS)]
    return _read(folder, files, whole, 2, place, classes)


def _read(
    folder: Any, files: dict[str, int], whole: Any, before: int, place: int, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what files of records hold: ``before`` bytes of labels, then red, green and blue."""
    folder, whole = path("folder", folder), flag("whole", whole)
    kind, splits = ("CIFAR-10", CIFAR10) if before == 1 else ("CIFAR-100", CIFAR100)
    hint = OFFERED.format(", ".join(name for split in splits.values() for name in split), kind)
    images, labels = [], []
    folder = _unpacked(folder, kind, splits)
    python = _is_python(folder, splits)
    for name, count in files.items():
        file = folder / (name.removesuffix(".bin") if python else name)
        existing_file("file", file, hint)
        most = count if whole else None
        if python:
            records = python_records(file, LABELS[before], most)
        else:
            records = _records(file, before + PIXELS, most)
        planes = records[:, before:].reshape(-1, 3, 32, 32)
        images.append(planes.transpose(0, 2, 3, 1))
        named = f"file={str(file)!r}: labels"
        labels.append(checked_labels(named, records[:, place], len(records), classes))
    return np.concatenate(images), np.concatenate(labels)


def _unpacked(folder: Path, kind: str, splits: dict[str, dict[str, int]]) -> Path:
    """Return the folder, or the one in it that an archive was unpacked to, where that has files."""
    names = [name for split in splits.values() for name in split]
    names += [name.removesuffix(".bin") for name in names]
    places = (folder, *(folder / below for below in UNPACKED[kind]))
    return next((at for at in places if any((at / name).is_file() for name in names)), folder)


def _is_python(folder: Path, splits: dict[str, dict[str, int]]) -> bool:
    """Say whether a folder holds files of the Python version, and none of the binary one."""
    names = [name for split in splits.values() for name in split]
    python = any((folder / name.removesuffix(".bin")).is_file() for name in names)
    return python and not any((folder / name).exists() for name in names)


def _records(file: Path, length: int, count: int | None) -> np.ndarray:
    size = file.stat().st_size
    if count is not None and size != count * length:
        how = "cut short" if size < count * length else "too long"
        raise ValueError(
            f"file={str(file)!r} is {how}: {size} bytes, where {count} records of {length} bytes "
            f"are {count * length}"
        )
    if not size or size % length:
        raise ValueError(
            f"file={str(file)!r} is cut short or of another kind: {size} bytes are not a number "
            f"of whole records of {length} bytes"
        )
    return np.fromfile(file, np.uint8).reshape(-1, length)
