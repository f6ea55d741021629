"""image_folder: a folder of pictures as arrays, cut to size as the references do at evaluation."""

import dataclasses
import itertools
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convjax._check import refuse

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")

# Pillow looks at what a file holds, not at its name: without a list, a .jpg that holds PostScript
# would be handed to Ghostscript.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "JPEG2000": (".jp2", ".j2k"),
    "AVIF": (".avif",),
}
EXTENSIONS = frozenset(extension for each in FORMATS.values() for extension in each)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFolder:
    """Pictures of a folder, in the order of their paths.

    Attributes:
      images: float32 ``(N, size, size, 3)``, standardised.
      labels: int32 ``(N,)``, places in ``classes``; None where the folder has no class folders.
      classes: names of the class folders, sorted; a folder without image files is none.
      files: path of each picture, relative to the folder, with ``/``.
      skipped: path and reason of each file that was no picture to be read.
    """

    images: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    files: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Say how many there are, and name what was skipped."""
        count, size = len(self.images), self.images.shape[1]
        of = f" of {len(self.classes)} classes" if self.classes else ""
        lines = [f"{count} images{of}, {size}x{size}; {len(self.skipped)} skipped"]
        return "\n".join([*lines, *(f"  {file}: {reason}" for file, reason in self.skipped)])


def image_folder(
    path: str | os.PathLike,
    *,
    size: int,
    crop: float = 0.875,
    interpolation: str = "bicubic",
    mean: Sequence[float],
    std: Sequence[float],
    limit: int | None = None,
    seed: int = 0,
) -> ImageFolder:
    """Return the pictures of a folder, prepared as pretrained weights were evaluated.

    The shorter side is resized to ``floor(size / crop)`` by Pillow, with antialiasing; the centre
    is cut out; brightness is scaled to [0, 1] and standardised by ``mean`` and ``std``: what timm
    and torchvision do. As there, an orientation noted in EXIF is not followed, because published
    accuracies are those of pictures as stored; and alpha is dropped, with the colour beneath it
    kept. Grey, palette and CMYK pictures become RGB; of 16 bits the upper 8 count. Of an animation
    the first frame is taken.

    A file with the extension of an image that cannot be read (truncated, empty, of another kind, or
    so many pixels that Pillow takes it for a decompression bomb) is skipped and named in the
    result. Hidden files and other extensions are passed over.

    Args:
      path: a folder of class folders, as ImageNet's, or a folder of pictures. Beside class folders,
        a loose picture counts as skipped.
      size: height and width of the result, in pixels.
      crop: share of the resized shorter side that is kept.
      interpolation: ``"nearest"``, ``"box"``, ``"bilinear"``, ``"hamming"``, ``"bicubic"`` or
        ``"lanczos"``.
      mean: of the channels red, green, blue, in [0, 1].
      std: of the channels, likewise; ``models.preprocessing(name)`` knows these for a network.
      limit: most pictures to read, as evenly from the classes as there are; None reads all.
      seed: of the draw, where there is a limit.

    Returns:
      The ``ImageFolder``; the same files give the same arrays in the same order.

    Raises:
      ValueError: no such folder, no picture that can be read, an argument out of its range.
      ImportError: Pillow is not installed.

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
    check_cut(size, crop, interpolation, mean, std, limit)
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"path={str(path)!r} is not a folder; give one that holds pictures")
    pillow = load_pillow()
    classes, listed, loose = listed_images(root)
    skipped = dict.fromkeys(loose, "outside the class folders")

    def readable(names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        for file in names:
            try:
                found = _read(pillow, root / file, size, math.floor(size / crop), interpolation)
            except Exception as error:  # a broken file breaks a decoder in any way there is
                skipped[file] = reason_of(error)
            else:
                yield file, found

    drawn = listed if limit is None else _shuffled(listed, seed)
    pixels = dict(itertools.islice(_by_turns(map(readable, drawn)), limit))
    if not pixels:
        raise ValueError(_nothing(str(path), skipped))
    files = tuple(sorted(pixels))
    images = np.stack([pixels[file] for file in files]).astype(np.float32)
    images /= np.float32(255)
    images -= np.asarray(mean, np.float32)
    images /= np.asarray(std, np.float32)
    places = [classes.index(file.partition("/")[0]) for file in files] if classes else None
    labels = None if places is None else np.array(places, np.int32)
    return ImageFolder(images, labels, classes, files, tuple(sorted(skipped.items())))


def check_cut(
    size: int,
    crop: float,
    interpolation: str,
    mean: Sequence[float],
    std: Sequence[float],
    limit: int | None,
) -> None:
    if size < 1:
        raise ValueError(f"size={size} must be at least 1")
    if not 0 < crop <= 1:
        raise ValueError(f"crop={crop} must be above 0 and at most 1")
    if interpolation not in INTERPOLATIONS:
        refuse("interpolation", interpolation, INTERPOLATIONS)
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not np.isfinite(values).all():
            raise ValueError(f"{name}={values!r} must be three numbers, for red, green and blue")
    if min(std) <= 0:
        raise ValueError(f"std={std!r} must be positive")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} must be at least 1, or None for all")


def load_pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "images are read by Pillow, which is missing: pip install convjax[experiments]"
        ) from error
    Image.init()
    return Image


def listed_images(root: Path) -> tuple[tuple[str, ...], list[list[str]], list[str]]:
    """Return the classes, the files of each (or of the whole), and the files beside them."""
    below: dict[str, list[str]] = {}
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        if not folder.name.startswith(".") and (found := sorted(_images_below(root, folder))):
            below[folder.name] = found
    loose = sorted(e.name for e in root.iterdir() if _is_image(e.name) and not e.is_dir())
    if below:
        return tuple(below), list(below.values()), loose
    return (), [loose], []


def _images_below(root: Path, folder: Path) -> Iterator[str]:
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if _is_image(name):
                yield Path(here, name).relative_to(root).as_posix()


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS


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


def _read(pillow: Any, file: Path, size: int, shorter: int, interpolation: str) -> np.ndarray:
    """Return the picture's pixels, uint8 ``(size, size, 3)``."""
    return centred(pillow, opened_rgb(pillow, file), size, shorter, interpolation)


def opened_rgb(pillow: Any, file: Path) -> Any:
    """Return the picture that a file holds, whole and in colour."""
    if not file.is_file():
        raise ValueError("not a regular file")  # a pipe would be waited for
    if file.stat().st_size == 0:
        raise ValueError("empty file")
    with warnings.catch_warnings():
        # What Pillow finds odd in the metadata matters to nobody here; a bomb does.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", pillow.DecompressionBombWarning)
        with pillow.open(file, formats=[name for name in FORMATS if name in pillow.OPEN]) as opened:
            return _as_rgb(pillow, opened)


def centred(pillow: Any, image: Any, size: int, shorter: int, interpolation: str) -> np.ndarray:
    """Return the centre of a picture whose shorter side is resized, uint8 ``(size, size, 3)``."""
    width, height = image.size
    scale = [int(shorter * side / min(width, height)) for side in (width, height)]
    most = pillow.MAX_IMAGE_PIXELS
    if most is not None and math.prod(scale) > most:
        raise ValueError(f"{width}x{height} pixels would become {scale[0]}x{scale[1]}")
    image = image.resize(scale, getattr(pillow.Resampling, interpolation.upper()))
    # Halves go to the even number, as in the references.
    left, top = (round((side - size) / 2) for side in scale)
    return np.asarray(image.crop((left, top, left + size, top + size)), np.uint8)


def _as_rgb(pillow: Any, image: Any) -> Any:
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
    return image.convert("RGB")


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
