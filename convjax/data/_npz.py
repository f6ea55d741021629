"""npz: images and labels from a file of NumPy arrays, checked as they enter."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from convjax._check import choice, existing_file, instance, integer
from convjax.data._batches import LARGEST
from convjax.data._labels import checked_labels

# An array that unpacks to more than this many times its bytes, beyond a small one, is a bomb.
LARGEST_RATIO = 256
SMALL = 2**28
FLOATS = (np.float16, np.float32, np.float64)


def npz(
    path: str | os.PathLike,
    split: str | None = None,
    *,
    images: str | None = None,
    labels: str | None = None,
    classes: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels from an ``.npz`` file; nothing pickled is ever loaded.

    Args:
      path: the file.
      split: ``"train"`` takes ``x_train`` and ``y_train`` and ``"test"`` likewise, as Keras writes
        them; None takes ``images`` and ``labels``.
      images: name of the array of images, in the place of those; ``(N, H, W, C)`` or ``(N, H, W)``.
      labels: name of the array of labels; whole numbers ``(N,)`` or ``(N, 1)``.
      classes: labels must be below it; None lets them be any number from 0 on.

    Returns:
      Images ``(N, H, W, C)``, uint8 as they are and floating point as float32, and labels, int32
      ``(N,)``. Nothing is standardised.

    Raises:
      FileNotFoundError: a file that is missing; and a ValueError.
      ValueError: a file that is damaged, of another kind, or declares more than it holds, a name
        that it does not hold, or arrays of the wrong shape, dtype or range; always with the name of
        the file.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from convjax import data
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     x, y = np.zeros((5, 4, 3), np.uint8), np.arange(5)
      ...     np.savez(f"{folder}/small.npz", x_test=x, y_test=y)
      ...     images, labels = data.npz(f"{folder}/small.npz", "test")
      >>> images.shape, labels.tolist()
      ((5, 4, 3, 1), [0, 1, 2, 3, 4])
    """
    if split is not None:
        choice("split", split, ("train", "test"))
    classes = None if classes is None else integer("classes", classes, 1, LARGEST)
    file = existing_file("path", path, "give an .npz file")
    known = ("images", "labels") if split is None else (f"x_{split}", f"y_{split}")
    names = (_name("images", images, known[0]), _name("labels", labels, known[1]))
    x, y = _loaded(file, names)
    x_name, y_name = (f"path={str(file)!r}: {name}" for name in names)
    x = _checked_images(x_name, x)
    if y.shape == (len(x), 1):
        y = y[:, 0]
    return x, checked_labels(y_name, y, len(x), classes)


def _name(argument: str, given: Any, default: str) -> str:
    return default if given is None else instance(argument, given, str, "a name, or None")


def _loaded(path: Path, names: tuple[str, str]) -> list[np.ndarray]:
    try:
        with open(path, "rb") as opened:
            file: Any = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array, as .npy files do")
            held = list(file.keys())
            for name in names:
                _check_size(file.zip, f"{name}.npy", path.stat().st_size)
            # What is not an array of NumPy's comes as bytes.
            found = [np.asarray(file[name]) for name in names if name in held]
    except Exception as error:  # damage breaks zip, zlib and headers in any way there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"path={str(path)!r} is not an .npz file to be read: {reason}") from error
    missing = [name for name in names if name not in held]
    if missing:
        split = next((s for s in ("train", "test") if {f"x_{s}", f"y_{s}"} <= {*held}), None)
        asked = split is None or names != ("images", "labels")
        hint = "" if asked else f"; split={split!r} takes x_{split} and y_{split}"
        raise ValueError(
            f"path={str(path)!r} holds no {missing[0]!r}; it holds {', '.join(sorted(held))}{hint}"
        )
    return found


def _check_size(archive: Any, name: str, size: int) -> None:
    """Refuse an array that declares more than is stored of it, before memory is taken for it."""
    if name not in archive.namelist():
        return
    entry = archive.getinfo(name)
    most = max(LARGEST_RATIO * min(entry.compress_size, size), SMALL)
    with archive.open(name) as opened:
        version = np.lib.format.read_magic(opened)
        read = np.lib.format.read_array_header_1_0
        shape, _, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(
            opened
        )
        declared = math.prod(shape) * dtype.itemsize
        held = entry.file_size - opened.tell()
    if dtype.hasobject:
        return  # refused by the loader
    if declared > held or declared > most:
        raise ValueError(
            f"{name!r} declares the shape {shape}, {declared} bytes, and {min(held, most)} can be "
            f"stored in {entry.compress_size}"
        )


def _checked_images(name: str, images: np.ndarray) -> np.ndarray:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size:
        raise ValueError(
            f"{name} have the shape {images.shape}; they must be (N, H, W, C) or (N, H, W)"
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype not in FLOATS:
        raise ValueError(f"{name} are {images.dtype}; they must be uint8 or floating point")
    images = images.astype(np.float32)
    if not np.isfinite(images).all():
        raise ValueError(f"{name} hold NaN or infinity, or numbers too large for float32")
    return images
