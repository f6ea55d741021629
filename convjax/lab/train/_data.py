"""The data that a run trains and tests on: digits, CIFAR, an .npz file, a folder, a stream."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax import data, lab, models

Pair = tuple[np.ndarray, np.ndarray]
Batches = Iterable[tuple[Any, Any]]

PARTS = {
    "cifar10": ("CIFAR-10", "cifar-10-batches-bin", ("test_batch.bin",)),
    "cifar100": ("CIFAR-100", "cifar-100-binary", ("train.bin", "test.bin")),
}
BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TESTED_TOGETHER = 256
# What was looked at before a run is what it trains on: it is read once.
once = functools.lru_cache(maxsize=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Sets:
    """What a run trains and tests on.

    Attributes:
      source: of the batches, a ``train.Source``.
      test: images and labels, or a function that returns batches of them.
      shape: of an image, ``(H, W, C)``.
      classes: how many there are.
      told: what this is, in words.
    """

    source: Any
    test: Pair | Callable[[], Batches]
    shape: tuple[int, int, int]
    classes: int
    told: str


@dataclasses.dataclass(frozen=True)
class Cut:
    """How the images of a run are made.

    Attributes:
      batch_size: of a step.
      seed: of the order.
      augment: what changes the images at random.
      size: height and width to resize to; None leaves them as they are.
    """

    batch_size: int
    seed: int
    augment: data.Augment
    size: int | None = None


def resident(
    train_set: Pair, test_set: Pair, cut: Cut, *, told: str, classes: int, pixels: bool = False
) -> Sets:
    """Return sets that fit in memory, standardised by the training images alone.

    Args:
      train_set: images, uint8 or float32, and labels.
      test_set: likewise.
      cut: how they are made into batches.
      told: what this is.
      classes: how many there are.
      pixels: whether the mean of every pixel is taken out and no more, as He et al. do; else mean
        and standard deviation of every channel.
    """
    (images, labels), (test_images, test_labels) = (
        (_resized(x, cut.size), y) for x, y in (train_set, test_set)
    )
    if test_images.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"images to test on have the shape {test_images.shape[1:]}, those to train on "
            f"{images.shape[1:]}; they must be the same"
        )
    for which, found in (("train", labels), ("test", test_labels)):
        if found.max() >= classes:
            raise ValueError(f"labels to {which} on go up to {found.max()}, of {classes} classes")
    if pixels:
        mean, std = np.mean(_unit(images), 0, dtype=np.float64), 1.0
    else:
        mean, std = data.moments(images)
        std = tuple(s or 1.0 for s in std)
    source = data.resident(
        images,
        labels,
        batch_size=cut.batch_size,
        seed=cut.seed,
        augment=cut.augment,
        mean=mean,
        std=std,
        classes=classes,
    )
    held = (_unit(test_images) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    count = f"{len(labels):,} images to train on, {len(test_labels):,} to test on"
    height, width, channels = images.shape[1:]
    return Sets(
        source,
        (held, test_labels),
        (height, width, channels),
        classes,
        f"{told}: {count}, {height}x{width}x{channels}, {classes} classes",
    )


@once
def digits(cut: Cut) -> Sets:
    """Return the digits; the last 360, other writers', are for testing."""
    return resident(data.digits("train"), data.digits("test"), cut, told="digits", classes=10)


def cifar_files(kind: str, folder: Path) -> None:
    """Refuse a folder that lacks one of the files of CIFAR-10 or CIFAR-100."""
    told, unpacked, names = PARTS[kind]
    names = (*BATCHES, *names) if kind == "cifar10" else names
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise lab.UsageError(
            f"{str(folder / missing[0])!r} is not there: the folder must hold {', '.join(names)}, "
            f"as the binary version of {told} unpacks them ({unpacked}). It is offered on Alex "
            "Krizhevsky's page 'The CIFAR-10 and CIFAR-100 datasets' at the University of Toronto; "
            "nothing is downloaded here."
        )


@once
def cifar(kind: str, folder: Path, cut: Cut) -> Sets:
    """Return CIFAR-10 or CIFAR-100 with its 100 classes."""
    cifar_files(kind, folder)
    read = data.cifar10 if kind == "cifar10" else data.cifar100
    classes = 10 if kind == "cifar10" else 100
    told = PARTS[kind][0]
    return resident(read(folder), read(folder, "test"), cut, told=told, classes=classes)


@once
def npz(path: Path, cut: Cut, share: float) -> Sets:
    """Return the images of a file: as it splits them, or with a share drawn for testing."""
    try:
        sets = data.npz(path, "train"), data.npz(path, "test")
    except ValueError as split:
        try:
            whole = data.npz(path)
        except ValueError:
            raise split from None
        sets = divided(whole, share, cut.seed)
    classes = int(max(labels.max() for _, labels in sets)) + 1
    return resident(*sets, cut, told=str(path), classes=classes)


def divided(whole: Pair, share: float | int, seed: int) -> tuple[Pair, Pair]:
    """Return all but a share, or a number, of the images, and that share, drawn by the seed."""
    images, labels = whole
    held = share if isinstance(share, int) else round(share * len(labels))
    if not 0 < held < len(labels):
        raise ValueError(f"{held} of {len(labels)} images cannot be held out; leave some of both")
    order = np.random.default_rng(seed).permutation(len(labels))
    kept, out = np.sort(order[held:]), np.sort(order[:held])
    return (images[kept], labels[kept]), (images[out], labels[out])


@once
def folder(path: Path, network: str, cut: Cut, share: float) -> Sets:
    """Return a folder of pictures, held in memory, cut as the network's weights want them."""
    how = models.preprocessing(network)
    options = {**how, "size": how.size if cut.size is None else cut.size}
    found, test = data.image_splits(path, share=share, seed=cut.seed, **options)
    if found.labels is None or test.labels is None:
        raise ValueError(f"{str(path)!r} has no class folders")
    skipped = f"; {len(found.skipped) + len(test.skipped)} files skipped"
    made = resident(
        (found.images, found.labels),
        (test.images, test.labels),
        dataclasses.replace(cut, size=None),
        told=str(path),
        classes=len(found.classes),
    )
    return dataclasses.replace(made, told=made.told + skipped)


@contextlib.contextmanager
def stream(path: Path, network: str, cut: Cut, workers: int) -> Iterator[Sets]:
    """Lend a folder as ImageNet's, of ``train`` and ``val`` (or ``test``), read while it trains."""
    how = models.preprocessing(network)
    size = how.size if cut.size is None else cut.size
    held = next((name for name in ("val", "test") if (path / name).is_dir()), None)
    if held is None or not (path / "train").is_dir():
        raise lab.UsageError(
            f"{str(path)!r} must hold the folders train and val (or test), and these a folder of "
            "pictures for every class."
        )
    shared: dict[str, Any] = {
        "size": size,
        "mean": how.mean,
        "std": how.std,
        "interpolation": how.interpolation,
        "order": how.order,
        "workers": workers,
    }
    with data.stream(
        path / "train",
        batch_size=cut.batch_size,
        seed=cut.seed,
        augment=cut.augment,
        **shared,
    ) as source:
        tested = {**shared, "crop": how.crop, "classes": source.classes}
        count = data.stream(path / held, batch_size=1, **tested).count
        yield Sets(
            source,
            lambda: every_picture(path / held, tested),
            (size, size, 3),
            len(source.classes),
            f"{path}: {source.count:,} pictures to train on, {count:,} to test on, "
            f"{size}x{size}x3, {len(source.classes)} classes, read by {workers} workers",
        )


def every_picture(path: Path, how: dict[str, Any]) -> Batches:
    """Yield every picture of a folder once, in batches; the last is smaller."""
    alone: dict[str, Any] = {**how, "workers": 0}
    with data.stream(path, batch_size=1, **alone) as single:
        count = single.count
        together = min(TESTED_TOGETHER, count)
        with data.stream(path, batch_size=together, **how) as many:
            for i in range(count // together):
                yield _batch(many, i, 1)
        # One order serves every size of batch: these are the ones that are left.
        if rest := count % together:
            yield _batch(single, count - rest, rest)


def _batch(stream: Any, first: int, steps: int) -> tuple[Any, Any]:
    """Return the pictures of some steps as one batch."""
    inputs = stream.inputs(first, steps)
    joined = {k: jnp.asarray(a.reshape(-1, *a.shape[2:])) for k, a in inputs.items()}
    return stream.batch(stream.arrays, joined, jax.random.key(0))


def _unit(images: np.ndarray) -> np.ndarray:
    """Return images as float32, bytes as brightness in [0, 1]."""
    return images.astype(np.float32) / np.float32(255 if images.dtype == np.uint8 else 1)


def _resized(images: np.ndarray, size: int | None) -> np.ndarray:
    """Return images of this height and width; bytes stay bytes."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    parts = []
    for first in range(0, len(images), 1024):
        part = images[first : first + 1024].astype(np.float32)
        shape = (len(part), size, size, part.shape[-1])
        part = np.asarray(jax.image.resize(part, shape, "bilinear"))
        parts.append(part.round().astype(np.uint8) if images.dtype == np.uint8 else part)
    return np.concatenate(parts)
