"""Pictures: how the files of one step become arrays, as a function of seed and step alone."""

import dataclasses
import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from convjax._check import MissingPackageError
from convjax.data._batches import batch_indices
from convjax.data._images import centred, load_pillow, opened, pixels, reason_of

ASPECTS = (3 / 4, 4 / 3)
ATTEMPTS = 10
# Keeps the generators of cuts apart from those of the epochs' permutations.
CUTS = 1
# Files whose sizes one thread asks for at once.
STATS = 1000
# Files that may be unreadable one behind the other where they are skipped.
IN_A_ROW = 64
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Images, labels, and which was skipped at each place, or -1."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Files, labels and the way they are cut: all that a worker has to know.

    Attributes:
      root: the folder.
      files: paths below it.
      labels: int32, of each file.
      batch_size: examples in a batch.
      seed: of order, cuts and flips.
      size: height and width of the result.
      crop: shares of area for a random cut, or the share of the side for one of the centre.
      flip: whether random cuts are mirrored by chance.
      interpolation: by which pixels are resized.
      order: of the channels, ``"RGB"`` or ``"BGR"``.
      unreadable: what becomes of a picture that cannot be read: ``"stop"`` or ``"skip"``.
      channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    """

    root: Path
    files: tuple[str, ...]
    labels: np.ndarray
    batch_size: int
    seed: int
    size: int
    crop: tuple[float, float] | float
    flip: bool
    interpolation: str
    order: str = "RGB"
    unreadable: str = "stop"
    channels: int = 3

    def read(self, step: int) -> Batch:
        """Return the images, uint8 ``(batch_size, size, size, channels)``, and labels of one step.

        In the place of a picture that is skipped stands the next one in the folder that can be
        read. The third array says which was skipped at each place, by its number, or -1.
        """
        chosen = batch_indices(len(self.files), self.batch_size, seed=self.seed, step=step)
        return self._of(chosen, step * self.batch_size)

    def read_in_order(self, part: int) -> Batch:
        """Return the next images and labels of the folder itself, at most ``batch_size``.

        The third array is as that of ``read``, whose places are to be left out here.
        """
        begin = part * self.batch_size
        return self._of(np.arange(begin, min(begin + self.batch_size, len(self.files))), begin)

    def digest(self) -> str:
        """Return a digest of the files' names, sizes and labels."""
        with ThreadPoolExecutor(16) as pool:  # a file system across a network answers many at once
            parts = range(0, len(self.files), STATS)
            sizes = [size for part in pool.map(self._sizes, parts) for size in part]
        found = hashlib.sha256(np.ascontiguousarray(self.labels, np.int32).tobytes())
        found.update(np.array(sizes, np.int64).tobytes())
        found.update("\0".join(self.files).encode(errors="surrogateescape"))
        return found.hexdigest()[:16]

    def _sizes(self, begin: int) -> list[int]:
        root = str(self.root)
        part = self.files[begin : begin + STATS]
        try:
            return [os.stat(f"{root}/{file}").st_size for file in part]
        except OSError as error:
            raise ValueError(f"file={error.filename!r} cannot be read: {error.strerror}") from error

    def reason(self, example: int) -> str:
        """Say why a picture cannot be read; nothing, where it can be by now."""
        try:
            opened(load_pillow(), self.root / self.files[example], self.channels)
        except Exception as error:  # as below
            return reason_of(error)
        return "it could not be cut, or not be read at first"

    def _of(self, chosen: np.ndarray, position: int) -> Batch:
        images = np.empty((len(chosen), self.size, self.size, self.channels), np.uint8)
        labels, skipped = self.labels[chosen], np.full(len(chosen), -1, np.int64)
        pillow = load_pillow()
        for place, example in enumerate(chosen.tolist()):
            taken, cut = self._readable(pillow, example, position + place)
            images[place], labels[place] = cut, self.labels[taken]
            if taken != example:
                skipped[place] = example
        return images if self.order == "RGB" else images[..., ::-1], labels, skipped

    def _readable(self, pillow: Any, example: int, position: int) -> tuple[int, np.ndarray]:
        """Return the first picture from one on that can be read, and its pixels."""
        most = 1 if self.unreadable == "stop" else min(IN_A_ROW, len(self.files))
        first: Exception | None = None
        for further in range(most):
            place = (example + further) % len(self.files)
            try:
                return place, self._cut(pillow, self.root / self.files[place], position)
            except Exception as error:  # a broken file breaks a decoder in any way there is
                first = first or error
        also = f", nor can the {most - 1} files behind it" if most > 1 else ""
        file, reason = self.root / self.files[example], reason_of(first or ValueError())
        raise ValueError(
            f"file={str(file)!r} cannot be read as a picture{also}: {reason}"
        ) from first

    def _cut(self, pillow: Any, file: Path, position: int) -> np.ndarray:
        image = opened(pillow, file, self.channels)
        if not isinstance(self.crop, tuple):
            shorter = math.floor(self.size / self.crop)
            return centred(pillow, image, self.size, shorter, self.interpolation)
        random = np.random.default_rng([self.seed, CUTS, position])
        width, height = image.size
        box = random_box(random, width, height, self.crop)
        resampling = getattr(pillow.Resampling, self.interpolation.upper())
        cut = pixels(image.resize((self.size, self.size), resampling, box))
        return cut[:, ::-1] if self.flip and random.random() < 0.5 else cut


def random_box(
    random: np.random.Generator, width: int, height: int, shares: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a cut of random area, aspect and place."""
    low, high = shares
    for _ in range(ATTEMPTS):
        area = width * height * random.uniform(low, high)
        aspect = math.exp(random.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = random.integers([width - wide + 1, height - tall + 1]).tolist()
            return left, top, left + wide, top + tall
    # A long picture: the middle of it, as much as an allowed aspect lets in.
    wide = min(width, max(1, round(height * ASPECTS[1])))
    tall = min(height, max(1, round(width / ASPECTS[0])))
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


class Steps:
    """The batches of the steps from one on, as grain's random access wants them."""

    def __init__(self, pictures: Pictures, first: int):
        self.pictures, self.first = pictures, first

    def __len__(self) -> int:
        """Return how many steps there are: as many as a run can count."""
        return 2**31 - 1 - self.first

    def __getitem__(self, place: int) -> Batch:
        """Return images, labels and what was skipped of one of them."""
        return self.pictures.read(self.first + place)


class InOrder:
    """The whole folder once, in parts, for grain's random access."""

    def __init__(self, pictures: Pictures):
        self.pictures = pictures

    def __len__(self) -> int:
        """Return how many parts there are."""
        return -(-len(self.pictures.files) // self.pictures.batch_size)

    def __getitem__(self, place: int) -> Batch:
        """Return images, labels and what was skipped of one of them."""
        return self.pictures.read_in_order(place)


def load_grain() -> Any:
    """Return the module, or say what to install."""
    try:
        import grain
    except ImportError as error:
        raise MissingPackageError(
            "pictures are streamed by grain, which is missing: pip install convjax[grain]"
        ) from error
    return grain


def reader(batches: Steps | InOrder, workers: int, ahead: int) -> Any:
    """Return an iterator over batches; workers keep ``ahead`` of them ready."""
    grain = load_grain()
    # A batch is one element: workers hand it over whole, through shared memory.
    inline = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    found = grain.MapDataset.source(batches).to_iter_dataset(inline)
    if workers:
        _settle_flags()
        each = max(1, math.ceil(ahead / workers))
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=each)
        found = found.mp_prefetch(options)
    return iter(found)


def _settle_flags() -> None:
    """Let grain read its flags in a program that does not parse its command line by absl."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
