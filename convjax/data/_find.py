"""find: data by a name: digits, MNIST, CIFAR, a file of arrays, a folder, a stream."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from convjax._check import MissingFileError, choice, existing_folder, integer, number, wrong_type
from convjax.data._augment import Augment
from convjax.data._cifar import cifar10, cifar100
from convjax.data._digits import digits
from convjax.data._idx import GET_MNIST, fashion_mnist, mnist
from convjax.data._images import RGB
from convjax.data._npz import npz
from convjax.data._sets import Sets, hold_out, sets
from convjax.data._splits import image_splits
from convjax.data._stream import UNREADABLE, stream

TESTED_TOGETHER = 256
NEEDED = ("size", "mean", "std")
"""What must be known of pictures."""
PACKAGED = ("fashion-mnist",)
"""What a package of the system puts in a place of its own."""


def find(
    name: str,
    path: str | os.PathLike | None = None,
    *,
    batch_size: int,
    seed: int = 0,
    augment: Augment | None = None,
    size: int | None = None,
    share: float = 0.2,
    how: Any = None,
    workers: int = 0,
    unreadable: str = "stop",
    channels: int = 3,
) -> Sets:
    """Return data to train and to test on by a name; nothing is downloaded.

    =============  =================================================================================
    digits         scikit-learn's handwritten digits; the last 360, other writers', are for testing
    mnist          the four idx files in the folder ``path``, packed by gzip or not
    fashion-mnist  likewise; without ``path``, where Debian's ``dataset-fashion-mnist`` puts them
    cifar10        the files of either version in the folder ``path``; cifar100 likewise
    npz            the file ``path``, split as it says (``x_train``, …) or by ``share``
    folder         class folders in ``path``, split as ``image_splits`` does, held in memory
    stream         ``train`` and ``val`` (or ``test``) in ``path``, read while a network trains
    =============  =================================================================================

    Args:
      name: one of these; ``_`` is as good as ``-``.
      path: where it lies; None for the digits, and for what a package has put in its place.
      batch_size: examples in a batch, over all devices.
      seed: of the order of the examples, and of what is held out.
      augment: what changes the images to train on at random.
      size: height and width that images are resized to; None leaves them as they are, and pictures
        as ``how`` has them.
      share: of images that are not split, held out for testing.
      how: what becomes of the pictures of a folder or a stream: ``models.preprocessing(network)``,
        or a mapping of ``size``, ``mean`` and ``std``, and of what else ``image_folder`` takes.
      workers: processes that read a stream.
      unreadable: what a picture of a stream does that cannot be read, as for ``stream``; in a
        folder that is held in memory it is skipped.
      channels: of the pictures of a folder or a stream: 3 in colour, 1 in grey, 4 with alpha.

    Raises:
      MissingFileError: no such file or folder.
      ValueError: an unknown name, pictures without ``how``, or what the readers refuse.

    Example:
      >>> from convjax import data
      >>> with data.find("digits", batch_size=64) as found:
      ...     print(found.told)
      digits: 1,437 images to train on, 360 to test on, 8x8x1, 10 classes
    """
    name = name.replace("_", "-") if isinstance(name, str) else name
    read = READERS[choice("name", name, READERS)]
    if path is None and name == "mnist":
        raise MissingFileError(f"path=None, name='mnist': path must say where it is. {GET_MNIST}")
    if (path is None) != (name == "digits") and not (path is None and name in PACKAGED):
        needed = "is not needed: digits come with scikit-learn" if path else "must say where it is"
        raise ValueError(f"path={path!r}, name={name!r}: path {needed}")
    share = number("share", share, above=0, below=1)
    workers = integer("workers", workers, 0)
    shared = {"batch_size": batch_size, "seed": seed, "augment": augment}
    options: dict[str, Any] = {"size": size, "share": share, "how": how, "workers": workers}
    options["unreadable"] = choice("unreadable", unreadable, UNREADABLE)
    options["channels"] = integer("channels", channels, 1)
    if options["channels"] != RGB and name not in ("folder", "stream"):
        raise ValueError(
            f"channels={channels}, name={name!r}: only a folder's pictures are converted"
        )
    return read(path, shared, **options)


def _digits(path: Any, shared: dict[str, Any], size: Any, **_: Any) -> Sets:
    return sets(digits("train"), digits("test"), size=size, classes=10, told="digits", **shared)


def _split(read: Callable[..., Any], classes: int, told: str) -> Callable[..., Sets]:
    """Return the reader of data that come in a part to train and one to test on."""

    def both(path: Any, shared: dict[str, Any], size: Any, **_: Any) -> Sets:
        parts = read(path), read(path, "test")
        return sets(*parts, size=size, classes=classes, told=told, **shared)

    return both


def _npz(path: Any, shared: dict[str, Any], size: Any, share: float, **_: Any) -> Sets:
    try:
        parts = npz(path, "train"), npz(path, "test")
    except ValueError as split:
        try:
            whole = npz(path)
        except ValueError:
            raise split from None
        parts = hold_out(*whole, share, seed=shared["seed"])
    return sets(*parts, size=size, told=str(path), **shared)


def _folder(
    path: Any,
    shared: dict[str, Any],
    size: Any,
    share: float,
    how: Any,
    channels: int,
    **_: Any,
) -> Sets:
    options = _prepared(how, size, channels, ("allow_empty",))
    found, test = image_splits(path, share=share, seed=shared["seed"], **options)
    parts: Any = (found.images, found.labels), (test.images, test.labels)
    made = sets(*parts, classes=len(found.classes), told=str(path), **shared)
    skipped = f"; {len(found.skipped) + len(test.skipped)} files skipped"
    return dataclasses.replace(made, told=made.told + skipped)


def _stream(
    path: Any,
    shared: dict[str, Any],
    size: Any,
    how: Any,
    workers: int,
    unreadable: str,
    channels: int,
    **_: Any,
) -> Sets:
    options = _prepared(how, size, channels, ("allow_empty", "classes", "flip"))
    options["unreadable"] = unreadable
    crop, size = options.pop("crop"), options["size"]
    root = existing_folder("path", path)
    held = next((root / name for name in ("val", "test") if (root / name).is_dir()), None)
    if held is None or not (root / "train").is_dir():
        raise ValueError(
            f"path={str(root)!r} must hold the folders train and val (or test), and these a folder "
            "of pictures for every class"
        )
    source = stream(root / "train", workers=workers, **options, **shared)
    tested = {**options, "crop": crop, "classes": source.classes, "workers": workers}
    count = stream(held, batch_size=1, **tested).count
    test = stream(held, batch_size=min(TESTED_TOGETHER, count), **tested).once
    counts = f"{source.count:,} pictures to train on, {count:,} to test on"
    classes = len(source.classes)
    told = (
        f"{root}: {counts}, {size}x{size}x{channels}, {classes} classes, read by {workers} workers"
    )
    return Sets(source, test, (size, size, channels), classes, told)


def _prepared(how: Any, size: int | None, channels: int, more: tuple[str, ...]) -> dict[str, Any]:
    """Return what the readers of pictures take, with the defaults of ``image_folder``."""
    if how is None or not (isinstance(how, Mapping) or hasattr(how, "keys")):
        wrong_type("how", how, "what becomes of pictures, such as models.preprocessing('resnet18')")
    options = {"crop": 0.875, "interpolation": "bicubic", **dict(how)}
    for key in options:
        choice("how: key", key, (*NEEDED, "crop", "interpolation", "order", *more))
    options |= {} if size is None else {"size": size}
    if missing := [key for key in NEEDED if key not in options]:
        raise ValueError(
            f"how has no {missing[0]!r}; it must have {', '.join(NEEDED)}, as "
            "models.preprocessing('resnet18') has"
        )
    return options | {"channels": channels}


READERS: dict[str, Callable[..., Sets]] = {
    "digits": _digits,
    "mnist": _split(mnist, 10, "MNIST"),
    "fashion-mnist": _split(fashion_mnist, 10, "Fashion-MNIST"),
    "cifar10": _split(cifar10, 10, "CIFAR-10"),
    "cifar100": _split(cifar100, 100, "CIFAR-100"),
    "npz": _npz,
    "folder": _folder,
    "stream": _stream,
}
"""By name, ``read(path, shared, **options)``."""
