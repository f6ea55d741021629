"""stream: batches of pictures from a folder too large for memory, read by worker processes."""

import dataclasses
import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax._check import choice, flag, instance, integer, numbers
from convjax.data._augment import Augment, checked_augment
from convjax.data._batches import LARGEST, TOGETHER, check_order
from convjax.data._folder import checked_names, listed
from convjax.data._images import RGB, checked_how, load_pillow
from convjax.data._pictures import InOrder, Pictures, Steps, load_grain, reader
from convjax.data._resident import places, standard, standardised

UNREADABLE = ("stop", "skip")


@dataclasses.dataclass(eq=False)
class Stream:
    """Batches of pictures, read ahead by worker processes; ``stream`` makes one.

    Close it when it is done with, or use it in a ``with``: its workers end then.

    Attributes:
      count: pictures in the folder.
      batch_size: examples in a batch, over all devices.
      classes: names of the class folders; labels are places in them.
      augment: what changes the images at random within the step.
      arrays: what standardises the images.
      pictures: files, labels, and how they are cut.
      workers: how many processes read.
      skipped: path and reason of each picture that lies outside the class folders, of each link
        that was not followed, and of each picture that could not be read so far.
      others: extension of the files that were passed over, and how many there were.
    """

    count: int
    batch_size: int
    classes: tuple[str, ...]
    augment: Augment
    arrays: dict[str, Any]
    pictures: Pictures
    workers: int
    skipped: tuple[tuple[str, str], ...] = ()
    others: tuple[tuple[str, int], ...] = ()
    _reader: Any = dataclasses.field(default=None, init=False, repr=False)
    _next: int = dataclasses.field(default=0, init=False, repr=False)

    def __post_init__(self):
        instance("pictures", self.pictures, Pictures, "the pictures of data.stream")
        self.count = integer("count", self.count, 1, LARGEST)
        self.batch_size, _ = check_order(self.count, self.batch_size, self.pictures.seed)
        self.classes = checked_names(self.classes)
        self.augment = checked_augment(self.augment)
        instance("arrays", self.arrays, Mapping, "a mapping from names to arrays")
        self.workers = integer("workers", self.workers, 0, 2**10)

    @property
    def about(self) -> dict[str, Any]:
        """What a run that is resumed must find again, beside ``arrays``.

        Files are told by names below the folder, sizes and labels: the folder may be copied or
        moved. A file that was overwritten by another of the same size is not noticed.
        """
        pictures = self.pictures
        cut = {"size": pictures.size, "crop": pictures.crop, "flip": pictures.flip}
        cut |= {"interpolation": pictures.interpolation, "classes": list(self.classes)}
        cut["order"] = pictures.order
        if pictures.unreadable != "stop":
            cut["unreadable"] = pictures.unreadable
        if pictures.channels != RGB:
            cut["channels"] = pictures.channels
        cut |= {"files": pictures.digest(), "augment": dataclasses.asdict(self.augment)}
        return {"seed": pictures.seed, **cut}

    def __enter__(self) -> "Stream":
        """Return the stream itself."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the workers, and wait until they have ended; ``inputs`` would start new ones."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def inputs(self, first: int, steps: int) -> dict[str, np.ndarray]:
        """Return the pictures of ``steps`` steps from ``first`` on, as bytes.

        Where ``first`` is the step that comes next, they have been read ahead. Any other step is
        as right, and starts the workers anew.

        Args:
          first: the first step.
          steps: how many.

        Returns:
          ``images``, uint8 ``(steps, batch_size, size, size, channels)``, ``labels`` and ``place``,
          and with mixup the ``partner_images`` and ``partner_labels`` of the mirrored places.

        Raises:
          ValueError: a file that cannot be read as a picture, named; with ``unreadable="skip"`` too
            many of them in a row.
        """
        first, steps = (
            integer("first", first, 0, LARGEST // 2),
            integer("steps", steps, 1, TOGETHER),
        )
        if self._reader is None or first != self._next:
            self.close()
            self._reader = reader(Steps(self.pictures, first), self.workers, steps)
        found = self._collected(steps)
        self._next = first + steps
        found["place"] = places(steps, self.batch_size)
        if self.augment.mixup:
            found["partner_images"] = found["images"][:, ::-1]
            found["partner_labels"] = found["labels"][:, ::-1]
        return found

    def once(self) -> Iterator[tuple[jax.Array, jax.Array]]:
        """Yield every picture once, in the order of the files: ``train.fit``'s ``test=``.

        They are standardised and not augmented; the last batch holds what is left.

        Yields:
          Images, float32, and labels, int32.
        """
        found = reader(InOrder(self.pictures), self.workers, 2)
        try:
            for images, labels, skipped in found:
                # Copies: what workers hand over is memory shared with them.
                kept = self._note(skipped) < 0
                images, labels = np.array(images)[kept], np.array(labels)[kept]
                if not len(labels):
                    continue
                yield standardised(jnp.asarray(images), self.arrays), jnp.asarray(labels)
        finally:
            found.close()
            if self.workers:
                gc.collect()  # the end of grain's iteration keeps the last of it in a cycle

    def _collected(self, steps: int) -> dict[str, np.ndarray]:
        shape = (steps, self.batch_size)
        size = self.pictures.size
        images = np.empty((*shape, size, size, self.pictures.channels), np.uint8)
        labels = np.empty(shape, np.int32)
        try:
            for at in range(steps):
                images[at], labels[at], skipped = next(self._reader)
                self._note(skipped)
        except BaseException:
            self.close()
            raise
        return {"images": images, "labels": labels}

    def _note(self, skipped: np.ndarray) -> np.ndarray:
        """Keep name and reason of what was skipped, and return the same numbers."""
        skipped = np.array(skipped)
        known = dict(self.skipped)
        for example in np.unique(skipped[skipped >= 0]).tolist():
            if (file := self.pictures.files[example]) not in known:
                known[file] = self.pictures.reason(example)
        if len(known) != len(self.skipped):
            self.skipped = tuple(sorted(known.items()))
        return skipped

    def batch(self, arrays: Any, inputs: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return one step's images and labels; pure, to be traced inside the compiled step.

        Args:
          arrays: the attribute of that name.
          inputs: one step's slice of ``inputs``, or a share of it.
          key: of the step.

        Returns:
          Images, float32, and labels, int32 ``(N,)``; with mixup probabilities ``(N, classes)``.
        """
        place = inputs["place"]

        def taken(images, place):
            return self.augment(standardised(images, arrays), key, place)

        images = taken(inputs["images"], place)
        if not self.augment.mixup:
            return images, inputs["labels"]
        partners = taken(inputs["partner_images"], self.batch_size - 1 - place)
        own, other = (
            jax.nn.one_hot(inputs[name], len(self.classes), dtype=jnp.float32)
            for name in ("labels", "partner_labels")
        )
        return self.augment.mix((images, own), (partners, other), key, place)


def stream(
    folder: str | os.PathLike,
    *,
    batch_size: int,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
    workers: int = 0,
    crop: Sequence[float] | float = (0.08, 1.0),
    flip: bool = True,
    interpolation: str = "bilinear",
    order: str = "RGB",
    channels: int = 3,
    augment: Augment | None = None,
    classes: Sequence[str] | None = None,
    allow_empty: bool = False,
    unreadable: str = "stop",
) -> Stream:
    """Return a source of batches from a folder of class folders, as ImageNet's ``train``.

    The order of the pictures is that of ``batch_indices``; where a picture is cut and whether it is
    flipped follows from the seed and its position in the run. So any step can be asked for, and the
    number of workers changes nothing. Pictures travel to the device as bytes.

    Workers are new Python processes, which import the main script: it needs the usual
    ``if __name__ == "__main__":``. They read ahead as many steps as the first ``inputs`` asks for.

    Args:
      folder: holds one folder of pictures for every class.
      batch_size: examples in a batch, over all devices.
      size: height and width of the images, in pixels.
      mean: of the channels, in [0, 1], as for ``image_folder``.
      std: of the channels, likewise.
      seed: of order, cuts and flips.
      workers: how many processes read; 0 reads in this one, when asked.
      crop: two shares of a picture's area between which that of a random cut lies, of an aspect
        between 3/4 and 4/3; or one number, the share of the resized shorter side that is kept of
        the centre, as ``image_folder`` does.
      flip: whether every random cut is mirrored with probability one half; one of the centre never
        is.
      interpolation: as for ``image_folder``.
      order: as for ``image_folder``.
      channels: as for ``image_folder``.
      augment: what changes the images besides, within the step.
      classes: names of the class folders in the order of their labels, such as those of the folder
        trained on; None sorts what is there.
      allow_empty: whether a class folder may hold no picture; its label is then kept for it.
      unreadable: what a picture does that cannot be read: ``"stop"``, or ``"skip"``: the next one
        in the folder takes its place in the batch (``once`` leaves it out), and its name and the
        reason are in the stream's ``skipped``.

    Returns:
      The ``Stream``, for ``train.fit``.

    Raises:
      FileNotFoundError: no such folder; and a ValueError.
      ImportError: grain or Pillow is not installed; and a ValueError.
      ValueError: no class folders, an empty or unknown one, or an argument out of range.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from convjax import data
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for i, name in enumerate(("cat", "dog")):
      ...         pathlib.Path(folder, name).mkdir()
      ...         Image.new("RGB", (40, 30), (200 * i, 0, 0)).save(f"{folder}/{name}/1.png")
      ...     settings = {"batch_size": 2, "size": 16, "mean": (0.5,) * 3, "std": (0.5,) * 3}
      ...     with data.stream(folder, **settings) as source:
      ...         inputs = source.inputs(first=7, steps=1)
      >>> inputs["images"][0, :, 0, 0, 0].tolist() == [200 * i for i in inputs["labels"][0]]
      True

    Reference: Szegedy et al., arXiv:1409.4842 (random cuts); grain, github.com/google/grain.
    """
    load_grain()
    load_pillow()
    shares = _shares(crop)
    how = checked_how(
        size, crop if shares is None else 1, interpolation, mean, std, order, channels
    )
    flip = flag("flip", flip)
    found = listed("folder", folder, classes, allow_empty)
    if not found.classes or not found.files:
        raise ValueError(f"folder={str(found.root)!r} holds no class folders with pictures in them")
    batch_size, seed = check_order(len(found.files), batch_size, seed)
    shape = (how.size, how.size, how.channels)
    turn = slice(None) if order == "RGB" else slice(None, None, -1)
    return Stream(
        count=len(found.files),
        batch_size=batch_size,
        classes=found.classes,
        augment=checked_augment(augment),
        arrays=standard(np.dtype(np.uint8), shape, how.mean[turn], how.std[turn]),
        pictures=Pictures(
            found.root,
            found.files,
            found.labels,
            batch_size,
            seed,
            how.size,
            how.crop if shares is None else shares,
            flip,
            how.interpolation,
            how.order,
            choice("unreadable", unreadable, UNREADABLE),
            how.channels,
        ),
        workers=workers,
        skipped=tuple(sorted(found.skipped.items())),
        others=tuple(sorted(found.others.items())),
    )


def _shares(crop: Any) -> tuple[float, float] | None:
    """Return two shares of area, or None where there are not two of them but one number."""
    several = isinstance(crop, Sequence) or (isinstance(crop, np.ndarray) and crop.ndim > 0)
    if isinstance(crop, str | bytes) or not several:
        return None
    found = numbers("crop", crop)
    if len(found) != 2 or not 0 < found[0] <= found[1] <= 1:
        raise ValueError(f"crop={found!r} must be two shares of area, 0 < low <= high <= 1")
    return found
