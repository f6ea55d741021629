"""What is transferred to what, and how: the options, the images, the network."""

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from convjax import data, models
from convjax.lab import pictures
from experiments.transfer import task as tasks
from experiments.transfer.learning import Learner

NETWORK, WIDTH = "resnet20_cifar", 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is transferred to what, and how it is trained."""

    network: str = NETWORK
    """A name that models.list() knows."""
    reference: Literal["torch", "keras"] = "torch"
    """Whose details it follows: timm's and torchvision's, or Keras's, as a .h5 file needs."""
    width: float | None = None
    """Its width, as models.create takes it; without it, the name's own, but 8 channels for the
    resnet20_cifar that is pretrained here."""
    images: Path | None = None
    """Folder of class folders; without it, the digits."""
    size: int | None = None
    """Height and width of the folder's images; without it, what models.preprocessing says."""
    weights: Path | None = None
    """File of weights for the network, in place of pretraining."""
    pretrain_classes: tuple[str, ...] = ()
    """Classes to pretrain on; without it, the first half, or those that are no target."""
    target_classes: tuple[str, ...] = ()
    """Classes to transfer to; without it, all others."""
    budgets: tuple[int, ...] = (2, 5, 20)
    """Examples of every target class to learn from, rising."""
    pretrain_steps: int = 200
    """Of pretraining."""
    steps: int = 100
    """Of each training on the target classes."""
    batch_size: int = 16
    """Images in a step; of fewer examples some are in it more than once."""
    pretrain_rate: float = 0.1
    """Learning rate of pretraining."""
    learning_rate: float = 0.3
    """Of training from scratch."""
    tuning_rate: float = 0.1
    """Of fine-tuning."""
    head_rate: float = 0.3
    """Of a classifier on frozen features."""

    @property
    def longest(self) -> int:
        """The most steps of any training: all are one program."""
        return max(self.steps, 0 if self.weights else self.pretrain_steps)


@dataclasses.dataclass(frozen=True)
class Run(Settings):
    """One network that is pretrained, and all that is transferred from it: a cell of the study.

    Attributes:
      shift: pixels by which images may lie off the centre.
      border: pixels around them, the largest shift of the study, so that all are one program.
      seed: of all initial values, examples and orders.
      contents: hash of the user's pictures and weights, as they were when the study began.
    """

    shift: int = 0
    border: int = 0
    seed: int = 0
    contents: str = ""

    def __str__(self) -> str:
        return f"shift {self.shift}, seed {self.seed}"


def read(settings: Settings) -> tasks.Task:
    """Return the images, and the classes divided.

    Raises:
      ValueError: a folder without class folders, classes that cannot be divided so.
    """
    images = (settings.images, settings.network, settings.reference, settings.size)
    source = None if settings.weights else settings.pretrain_classes
    return _read(*images, source, settings.target_classes)


# Seeds follow each other in one process, and see the same pictures.
@functools.lru_cache(maxsize=1)
def _read(
    folder: Path | None,
    network: str,
    reference: str,
    size: int | None,
    source: tuple[str, ...] | None,
    target: tuple[str, ...],
) -> tasks.Task:
    if folder is None:
        images, labels = data.digits()
        classes = tuple(map(str, range(10)))
    else:
        found = pictures(folder, network, reference=reference, size=size)
        images, labels, classes = found.images, found.labels, found.classes
        if labels is None:
            raise ValueError(f"{str(folder)!r} has no class folders.")
    return tasks.make(images, labels, classes, source=source, target=target)


def contents(settings: Settings, task: tasks.Task) -> str:
    """Return a hash of the user's pictures and weights; a path does not tell of their changes."""
    if settings.images is None and settings.weights is None:
        return ""
    found = hashlib.sha256(np.ascontiguousarray(task.images).tobytes() + task.labels.tobytes())
    if settings.weights is not None:
        found.update(settings.weights.read_bytes())
    return found.hexdigest()[:16]


def learner(settings: Settings, classes: int, channels: int) -> Learner:
    """Return the network with an output for each of ``classes``."""
    options: dict[str, Any] = {"num_classes": classes, "in_features": channels}
    if settings.reference != "torch":
        options["reference"] = settings.reference
    width = settings.width
    if width is None and settings.network == NETWORK and settings.weights is None:
        width = WIDTH
    if width is not None:
        options["width"] = int(width) if float(width).is_integer() else width
    return _learner(settings.network, tuple(options.items()))


@functools.lru_cache(maxsize=4)
def _learner(network: str, options: tuple[tuple[str, Any], ...]) -> Learner:
    return Learner(lambda rngs: models.create(network, rngs=rngs, **dict(options)))
