"""What is transferred to what, and how: the options, the images, the network."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from convjax import data, lab, models
from experiments.transfer import task as tasks

NETWORK, WIDTH = "resnet20_cifar", 8
FASHION, OF_FASHION = "fashion-mnist", 300


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
    """Folder of class folders."""
    data: Literal["digits", "fashion-mnist"] = "digits"
    """Without such a folder, what is learned. Fashion-MNIST's pictures become a network's: larger,
    and in three equal channels."""
    path: Path | None = None
    """Folder of Fashion-MNIST's four files; without it, where the package dataset-fashion-mnist of
    Debian and Ubuntu puts them."""
    per_class: int | None = None
    """Images of every class that take part, chosen at random; without it, 300 of Fashion-MNIST,
    and all of anything else."""
    size: int | None = None
    """Height and width of the images; without it, what models.preprocessing says. Digits are left
    as they are."""
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
    stage_decay: float | None = None
    """Fine-tunes once more, where the rate of each stage is that of the stage behind it times this,
    as train.layerwise has it; without it, that way is left out."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One network that is pretrained, and all that is transferred from it: a cell of the study."""

    settings: Settings
    contents: str
    """Hash of the user's pictures and weights, as they were when the study began."""
    border: int
    """Pixels around the images: the study's largest shift, so that all are one program."""
    shift: int
    seed: int

    def __str__(self) -> str:
        return f"shift {self.shift}, seed {self.seed}"


# Seeds follow each other in one process, and see the same pictures.
@functools.lru_cache(maxsize=1)
def read(settings: Settings) -> tasks.Task:
    """Return the images, and the classes divided; refuse those that cannot be."""
    per_class, classes = settings.per_class, tuple(map(str, range(10)))
    if settings.images is not None:
        how: dict[str, Any] = {"reference": settings.reference, "size": settings.size}
        found = lab.pictures(settings.images, settings.network, **how)
        images, labels, classes = found.images, found.labels, found.classes
        if labels is None:
            raise ValueError(f"{str(settings.images)!r} has no class folders.")
    elif settings.data == FASHION:
        images, labels = data.fashion_mnist(settings.path)
        per_class = per_class or OF_FASHION
    else:
        images, labels = data.digits()
    if per_class is not None:
        of = [np.random.default_rng([2, i]).permutation(np.flatnonzero(labels == i))
              for i in range(len(classes))]  # fmt: skip
        kept = np.sort(np.concatenate([one[:per_class] for one in of]))
        images, labels = images[kept], labels[kept]
    if images.dtype == np.uint8:
        images = enlarged(images, settings)
    for option in ("pretrain_classes", "target_classes"):
        if getattr(settings, option):
            lab.check_known(settings, **{option: classes})
    source = None if settings.weights else settings.pretrain_classes
    return tasks.make(images, labels, classes, source=source, target=settings.target_classes)


def enlarged(images: np.ndarray, settings: Settings) -> np.ndarray:
    """Return grey bytes as a network's pictures: of its size, in three channels, standardised."""
    how = models.preprocessing(settings.network, reference=settings.reference)
    size = settings.size or how.size
    shape = (len(images), size, size, 1)
    grey = jax.image.resize(images.astype(np.float32) / 255, shape, "cubic")
    found = np.clip(grey, 0, 1) - np.asarray(how.mean, np.float32)
    found /= np.asarray(how.std, np.float32)
    return found if how.order == "RGB" else found[..., ::-1]


def contents(settings: Settings, task: tasks.Task) -> str:
    """Return a hash of the user's pictures and weights; a path does not tell of their changes."""
    if settings.images is None and settings.data != FASHION and settings.weights is None:
        return ""
    found = hashlib.sha256(np.ascontiguousarray(task.images).tobytes() + task.labels.tobytes())
    if settings.weights is not None:
        found.update(settings.weights.read_bytes())
    return found.hexdigest()[:16]


def maker(settings: Settings, classes: int, channels: int) -> Callable[..., Any]:
    """Return what makes the network with an output for each of ``classes``, of any ``rngs``."""
    options: dict[str, Any] = {"num_classes": classes, "in_features": channels}
    if settings.reference != "torch":
        options["reference"] = settings.reference
    width = settings.width
    if width is None and settings.network == NETWORK and settings.weights is None:
        width = WIDTH
    if width is not None:
        options["width"] = int(width) if float(width).is_integer() else width
    return functools.partial(models.create, settings.network, **options)
