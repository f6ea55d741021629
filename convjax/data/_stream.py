"""stream: batches of pictures from a folder too large for memory, read by worker processes."""

import dataclasses
import gc
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax._check import refuse
from convjax.data._augment import Augment
from convjax.data._batches import check_order
from convjax.data._images import check_cut, listed_images, load_pillow
from convjax.data._pictures import InOrder, Pictures, Steps, load_grain, reader
from convjax.data._resident import places, standard, standardised


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
    """

    count: int
    batch_size: int
    classes: tuple[str, ...]
    augment: Augment
    arrays: dict[str, Any]
    pictures: Pictures
    workers: int
    _reader: Any = dataclasses.field(default=None, init=False, repr=False)
    _next: int = dataclasses.field(default=0, init=False, repr=False)

    @property
    def about(self) -> dict[str, Any]:
        """What a run that is resumed must find again, beside ``arrays``.

        Files are told by names below the folder, sizes and labels: the folder may be copied or
        moved. A file that was overwritten by another of the same size is not noticed.
        """
        pictures = self.pictures
        cut = {"size": pictures.size, "crop": pictures.crop, "flip": pictures.flip}
        cut |= {"interpolation": pictures.interpolation, "classes": list(self.classes)}
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
          ``images``, uint8 ``(steps, batch_size, size, size, 3)``, ``labels`` and ``place``, and
          with mixup the ``partner_images`` and ``partner_labels`` of the mirrored places.

        Raises:
          ValueError: a file that cannot be read as a picture, named.
        """
        if steps < 1 or first < 0:
            raise ValueError(f"steps={steps} must be at least 1 and first={first} not negative")
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
            for images, labels in found:
                # Copies: what workers hand over is memory shared with them.
                images, labels = np.array(images), np.array(labels)
                yield standardised(jnp.asarray(images), self.arrays), jnp.asarray(labels)
        finally:
            found.close()
            if self.workers:
                gc.collect()  # the end of grain's iteration keeps the last of it in a cycle

    def _collected(self, steps: int) -> dict[str, np.ndarray]:
        shape = (steps, self.batch_size)
        size = self.pictures.size
        images = np.empty((*shape, size, size, 3), np.uint8)
        labels = np.empty(shape, np.int32)
        try:
            for at in range(steps):
                images[at], labels[at] = next(self._reader)
        except BaseException:
            self.close()
            raise
        return {"images": images, "labels": labels}

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
    augment: Augment | None = None,
    classes: Sequence[str] | None = None,
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
      mean: of the channels red, green, blue, in [0, 1].
      std: of the channels, likewise.
      seed: of order, cuts and flips.
      workers: how many processes read; 0 reads in this one, when asked.
      crop: two shares of a picture's area between which that of a random cut lies, of an aspect
        between 3/4 and 4/3; or one number, the share of the resized shorter side that is kept of
        the centre, as ``image_folder`` does.
      flip: whether every random cut is mirrored with probability one half; one of the centre never
        is.
      interpolation: as for ``image_folder``.
      augment: what changes the images besides, within the step.
      classes: names of the class folders in the order of their labels, such as those of the folder
        trained on; None sorts what is there.

    Returns:
      The ``Stream``, for ``train.fit``.

    Raises:
      ValueError: no class folders, an empty or unknown one, or an argument out of range.
      ImportError: grain or Pillow is not installed.

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
    crop = _checked_crop(crop)
    check_cut(size, 1.0 if isinstance(crop, tuple) else crop, interpolation, mean, std, None)
    if workers < 0:
        raise ValueError(f"workers={workers} must not be negative")
    root = Path(folder)
    names, files, labels = _labelled(root, classes)
    check_order(len(files), batch_size, seed)
    return Stream(
        count=len(files),
        batch_size=batch_size,
        classes=names,
        augment=augment or Augment(),
        arrays=standard(np.dtype(np.uint8), (size, size, 3), mean, std),
        pictures=Pictures(root, files, labels, batch_size, seed, size, crop, flip, interpolation),
        workers=workers,
    )


def _checked_crop(crop: Sequence[float] | float) -> tuple[float, float] | float:
    if not isinstance(crop, Sequence):
        return crop
    if len(crop) != 2 or not 0 < crop[0] <= crop[1] <= 1:
        raise ValueError(f"crop={crop!r} must be two shares of area, 0 < low <= high <= 1")
    return crop[0], crop[1]


def _labelled(
    root: Path, classes: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    """Return the classes, the files below the folder, and their labels."""
    if not root.is_dir():
        raise ValueError(f"folder={str(root)!r} is not a folder; give one that holds class folders")
    found, listed, _ = listed_images(root)
    if not found:
        raise ValueError(f"folder={str(root)!r} holds no class folders with pictures in them")
    splits = sorted({"train", "val", "test"} & set(found))
    if splits and set(splits) == set(found):
        raise ValueError(f"folder={str(root)!r} holds {' and '.join(splits)}; give one of them")
    visible = sorted(e.name for e in root.iterdir() if e.is_dir() and not e.name.startswith("."))
    empty = [name for name in visible if name not in found]
    if empty:
        raise ValueError(f"folder={str(root / empty[0])!r} is a class without a picture")
    names = found if classes is None else tuple(classes)
    if len(set(names)) != len(names):
        raise ValueError(f"classes={names!r} must be different")
    for name in found:
        if name not in names:
            refuse("class folder", name, names)
    files = tuple(file for each in listed for file in each)
    labels = [names.index(name) for name in found]
    return names, files, np.repeat(np.array(labels, np.int32), [len(each) for each in listed])
