"""image_folder: a folder of pictures as arrays, cut to size as the references do at evaluation."""

import dataclasses
import itertools
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convjax._check import MissingPackageError, choice, instance, integer, number, numbers
from convjax.data._folder import EXTENSIONS, FORMATS, Listed, checked_names, listed
from convjax.data._given import check_divisor
from convjax.data._labels import checked_labels

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
ORDERS = ("RGB", "BGR")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""What Pillow calls pictures of so many channels."""
RGB = 3
LARGEST = 2**14  # pixels of a side


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImageFolder:
    """Pictures of a folder, in the order of their class folders and paths.

    Attributes:
      images: float32 ``(N, size, size, channels)``, standardised.
      labels: int32 ``(N,)``, places in ``classes``; None where the folder has no class folders.
      classes: names of the class folders, sorted or as given.
      files: path of each picture, relative to the folder, with ``/``.
      skipped: path and reason of each file that was no picture to be read, and of each link that
        was not followed.
      others: extension of the files that were passed over, and how many there were.
    """

    images: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    files: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    others: tuple[tuple[str, int], ...] = ()

    def __post_init__(self):
        images = instance("images", self.images, np.ndarray, "an array of NumPy")
        if images.ndim != 4:
            raise ValueError(f"images have the shape {images.shape}; it must be (N, H, W, C)")
        count = len(images)
        if self.labels is not None:
            checked_labels("labels", self.labels, count, len(checked_names(self.classes)))
        if len(instance("files", self.files, tuple, "a tuple of paths")) != count:
            raise ValueError(f"files={len(self.files)} paths do not belong to {count} images")

    def __repr__(self) -> str:
        return f"ImageFolder({str(self).partition(chr(10))[0]})"

    def __str__(self) -> str:
        """Say how many there are, and name what was skipped."""
        count, size = len(self.images), self.images.shape[1]
        of = f" of {len(self.classes)} classes" if self.classes else ""
        lines = [f"{count} images{of}, {size}x{size}; {len(self.skipped)} skipped"]
        if self.others:
            told = ", ".join(f"{count} {suffix or 'without'}" for suffix, count in self.others)
            lines[0] += f"; files of other extensions: {told}"
        return "\n".join([*lines, *(f"  {file}: {reason}" for file, reason in self.skipped)])


def image_folder(
    path: str | os.PathLike,
    *,
    size: int,
    crop: float = 0.875,
    interpolation: str = "bicubic",
    mean: Sequence[float],
    std: Sequence[float],
    order: str = "RGB",
    channels: int = 3,
    limit: int | None = None,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    allow_empty: bool = False,
) -> ImageFolder:
    """Return the pictures of a folder, prepared as pretrained weights were evaluated.

    The shorter side is resized to ``floor(size / crop)`` by Pillow, with antialiasing; the centre
    is cut out; brightness is scaled to [0, 1] and standardised by ``mean`` and ``std``: what timm
    and torchvision do. As there, an orientation noted in EXIF is not followed, because published
    accuracies are those of pictures as stored; and alpha is dropped, with the colour beneath it
    kept. Grey, palette and CMYK pictures become RGB; of 16 bits the upper 8 count. Of an animation
    the first frame is taken. With ``channels=1`` all become grey, 0.299 R + 0.587 G + 0.114 B; with
    4 they have an alpha, 1 where there was none, and colours are weighted by it when resized.

    A folder in the form of Tiny-ImageNet's ``val``, with ``val_annotations.txt`` beside ``images``,
    has the classes that its annotations name.

    A file with the extension of an image that cannot be read (truncated, empty, of another kind, or
    too many pixels, so that Pillow takes it for a decompression bomb) is skipped and named in the
    result. Files of other extensions are counted there; hidden files are passed over. Links are
    followed, but for one that leads into a folder around it.

    Args:
      path: a folder of class folders, as ImageNet's, or a folder of pictures. Beside class folders,
        a loose picture counts as skipped.
      size: height and width of the result, in pixels.
      crop: share of the resized shorter side that is kept.
      interpolation: ``"nearest"``, ``"box"``, ``"bilinear"``, ``"hamming"``, ``"bicubic"`` or
        ``"lanczos"``.
      mean: of the channels red, green, blue, in [0, 1]. One grey channel takes one number, or the
        average of three; RGBA takes four, or three, and then 0 for alpha.
      std: of the channels, likewise; where three are given, that of alpha is 1.
        ``**models.preprocessing(name)`` gives a network's size, crop, interpolation, mean, std and
        order.
      order: of the channels of the result: ``"RGB"``, or ``"BGR"`` for some of Keras's networks.
      channels: of the result: 3 in colour, 1 in grey, 4 in colour with alpha, as the
        ``in_features`` of a network.
      limit: most pictures to read, as evenly from the classes as there are; None reads all.
      seed: of the random choice, where there is a limit.
      classes: names of the class folders in the order of their labels, such as those trained on;
        None sorts those there are.
      allow_empty: whether a class folder may hold no picture; its label is then kept for it.

    Returns:
      The ``ImageFolder``; the same files give the same arrays in the same order.

    Raises:
      FileNotFoundError: no such folder; and a ValueError.
      ImportError: Pillow is not installed; and a ValueError.
      ValueError: no picture that can be read; an empty class folder, or one that ``classes`` lacks;
        a folder that holds ``train`` and ``val``; an argument out of its range.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from PIL import Image
      >>> from convjax import data
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for name in ("cat", "dog"):
      ...         pathlib.Path(folder, name).mkdir()
      ...         Image.new("RGB", (40, 30), "red").save(f"{folder}/{name}/1.png")
      ...     broken = pathlib.Path(folder, "dog", "2.png").write_bytes(b"")
      ...     found = data.image_folder(folder, size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
      >>> print(found)
      2 images of 2 classes, 16x16; 1 skipped
        dog/2.png: empty file
      >>> found.labels.tolist(), found.images[0, 0, 0].tolist()
      ([0, 1], [1.0, -1.0, -1.0])

    Reference: torchvision's ``Resize`` and ``CenterCrop``, as timm composes them for evaluation.
    """
    how = checked_how(size, crop, interpolation, mean, std, order, channels)
    limit = None if limit is None else integer("limit", limit, 1)
    seed = integer("seed", seed, 0)
    pillow = load_pillow()
    found = listed("path", path, classes, allow_empty)
    skipped = dict(found.skipped)

    def readable(names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        for file in names:
            try:
                pixels = _read(pillow, found.root / file, how)
            except Exception as error:  # a broken file breaks a decoder in any way there is
                skipped[file] = reason_of(error)
            else:
                yield file, pixels

    sources = _by_class(found) if limit is None else _shuffled(_by_class(found), seed)
    most = None if limit is None else min(limit, len(found.files))
    pixels = dict(itertools.islice(_by_turns(map(readable, sources)), most))
    if not pixels:
        raise ValueError(_nothing(str(found.root), skipped))
    places = [place for place, file in enumerate(found.files) if file in pixels]
    files = tuple(found.files[place] for place in places)
    return ImageFolder(
        images=_standardised([pixels[file] for file in files], how),
        labels=found.labels[places] if found.classes else None,
        classes=found.classes,
        files=files,
        skipped=tuple(sorted(skipped.items())),
        others=tuple(sorted(found.others.items())),
    )


class How(NamedTuple):
    """How pictures are cut and standardised: plain values that have been checked."""

    size: int
    crop: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: str
    channels: int


def checked_how(
    size: Any, crop: Any, interpolation: Any, mean: Any, std: Any, order: Any, channels: Any
) -> How:
    """Return how pictures are cut and standardised; refuse what cannot be."""
    if integer("channels", channels) not in MODES:
        raise ValueError(f"channels={channels} must be 1 (grey), 3 (RGB) or 4 (RGBA)")
    how = How(
        size=integer("size", size, 1, LARGEST),
        crop=number("crop", crop, above=0, most=1),
        interpolation=choice("interpolation", interpolation, INTERPOLATIONS),
        mean=_by_channel(numbers("mean", mean, least=0, most=1), int(channels), 0.0),
        std=_by_channel(numbers("std", std, above=0), int(channels), 1.0),
        order=choice("order", order, ORDERS),
        channels=int(channels),
    )
    for name, found in (("mean", how.mean), ("std", how.std)):
        if len(found) != how.channels:
            raise ValueError(
                f"{name}={found} has {len(found)} entries; it must have {how.channels}"
            )
    if how.order != "RGB" and how.channels != RGB:
        raise ValueError(f"order={how.order!r} is for 3 channels, and here are {how.channels}")
    check_divisor("std", how.std)
    return how


def _by_channel(given: tuple[float, ...], channels: int, alpha: float) -> tuple[float, ...]:
    """Return numbers for the channels of a result, of those for red, green and blue."""
    if len(given) != RGB:
        return given
    return {1: (sum(given) / RGB,), 4: (*given, alpha)}.get(channels, given)


def _standardised(pictures: Sequence[np.ndarray], how: How) -> np.ndarray:
    images = np.stack(pictures).astype(np.float32)
    images /= np.float32(255)
    images -= np.asarray(how.mean, np.float32)
    images /= np.asarray(how.std, np.float32)
    return images if how.order == "RGB" else np.ascontiguousarray(images[..., ::-1])


def load_pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackageError(
            "images are read by Pillow, which is missing: pip install 'convjax[lab]'"
        ) from error
    Image.init()
    return Image


def _by_class(found: Listed) -> list[list[str]]:
    """Return the files of each class, or of the whole."""
    kept: dict[int, list[str]] = {}
    for file, label in zip(found.files, found.labels.tolist(), strict=True):
        kept.setdefault(label, []).append(file)
    return list(kept.values())


def _shuffled(listed: list[list[str]], seed: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [random.permutation(listed[i]).tolist() for i in random.permutation(len(listed))]


def _by_turns(sources: Iterable[Iterator[Any]]) -> Iterator[Any]:
    """Yield the next of every source in turn; those that are at their end drop out."""
    end, left = object(), list(sources)
    while left:
        for source in tuple(left):
            found = next(source, end)
            if found is end:
                left.remove(source)
            else:
                yield found


def _read(pillow: Any, file: Path, how: How) -> np.ndarray:
    """Return the picture's pixels, uint8 ``(size, size, channels)``."""
    image, shorter = opened(pillow, file, how.channels), math.floor(how.size / how.crop)
    return centred(pillow, image, how.size, shorter, how.interpolation)


def opened(pillow: Any, file: Path, channels: int) -> Any:
    """Return the picture that a file holds, whole and of so many channels."""
    if not file.is_file():
        raise ValueError("not a regular file")  # a pipe would be waited for
    if file.stat().st_size == 0:
        raise ValueError("empty file")
    with warnings.catch_warnings():
        # What Pillow finds odd in the metadata matters to nobody here; a bomb does.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", pillow.DecompressionBombWarning)
        with pillow.open(file, formats=[name for name in FORMATS if name in pillow.OPEN]) as found:
            return _converted(pillow, found, MODES[channels])


def centred(pillow: Any, image: Any, size: int, shorter: int, interpolation: str) -> np.ndarray:
    """Return the centre of a picture whose shorter side is resized, as ``pixels`` does."""
    width, height = image.size
    scale = [int(shorter * side / min(width, height)) for side in (width, height)]
    most = pillow.MAX_IMAGE_PIXELS
    if most is not None and math.prod(scale) > most:
        raise ValueError(f"{width}x{height} pixels would become {scale[0]}x{scale[1]}")
    image = image.resize(scale, getattr(pillow.Resampling, interpolation.upper()))
    # Halves go to the even number, as in the references.
    left, top = (round((side - size) / 2) for side in scale)
    return pixels(image.crop((left, top, left + size, top + size)))


def pixels(image: Any) -> np.ndarray:
    """Return a picture's pixels, uint8 ``(height, width, channels)``; grey has one channel."""
    found = np.asarray(image, np.uint8)
    return found if found.ndim == 3 else found[..., None]


def _converted(pillow: Any, image: Any, mode: str) -> Any:
    if image.mode.startswith("I"):
        # Pillow would clip all above 255 to white.
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("grey of more than 16 bits, whose white is not known")
        image = pillow.fromarray((deep >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("grey in floating point, whose white is not known")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def reason_of(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not a picture of a known format"
    told = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(told).split()).rstrip(".")


def _nothing(path: str, skipped: dict[str, str]) -> str:
    if not skipped:
        return f"path={path!r} holds no picture: no file ends in {', '.join(sorted(EXTENSIONS))}"
    file, reason = min(skipped.items())
    return (
        f"path={path!r} holds no picture that can be read; skipped {len(skipped)}, "
        f"the first {file!r}: {reason}"
    )
