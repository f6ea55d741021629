"""One run of transfer: a network pretrained, and every way of transferring it, by one seed."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import data, models
from convjax.lab import pictures
from experiments import _transfer_learning as learning
from experiments import _transfer_task as tasks
from experiments._transfer_learning import Learner, Values
from experiments._transfer_trial import FROZEN, MEASURED, SCRATCH, TUNED, Recipe, Trial

NETWORK, WIDTH = "resnet20_cifar", 8
EMPTY = {"kind": "", "method": "", "budget": 0, "position": -1, "path": ""}
EMPTY |= dict.fromkeys(("accuracy", "train_accuracy", *MEASURED, "log_movement"), np.nan)


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


@dataclasses.dataclass(frozen=True)
class Run(Settings):
    """One network that is pretrained, and all that is transferred from it: a cell of the study.

    Attributes:
      shift: pixels by which images may lie off the centre.
      border: pixels around them, the largest shift of the study, so that all are one program.
      seed: of everything that is drawn.
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
    """Return a hash of what is the user's own; a path does not tell whether it has changed."""
    if settings.images is None and settings.weights is None:
        return ""
    found = hashlib.sha256(np.ascontiguousarray(task.images).tobytes() + task.labels.tobytes())
    if settings.weights is not None:
        found.update(settings.weights.read_bytes())
    return found.hexdigest()[:16]


def learner(settings: Settings, classes: int, channels: int) -> Learner:
    """Return the network with so many outputs."""
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


def rows(run: Run) -> Iterator[dict[str, Any]]:
    """Yield what pretraining came to, and every way with every number of examples."""
    task = read(run)
    target = learner(run, len(task.target), task.images.shape[-1])
    images = jnp.asarray(task.shifted(run.shift, border=run.border))
    if run.weights is None:
        values, accuracy = pretrained(run, task, images)
        yield {"kind": "pretrained", "accuracy": accuracy}
    else:
        values = loaded(run.weights, target)
    trial = Trial(task, images, target, values, recipe(run), run.seed)
    for budget in run.budgets:
        yield from trial.rows(budget)


def recipe(settings: Settings) -> Recipe:
    """Return how every way trains."""
    rates = (settings.learning_rate, settings.head_rate, settings.tuning_rate)
    return Recipe(
        steps=settings.steps,
        longest=longest(settings),
        batch_size=settings.batch_size,
        rates=dict(zip((SCRATCH, FROZEN, TUNED), rates, strict=True)),
    )


def longest(settings: Settings) -> int:
    """Return the most steps of any training."""
    return max(settings.steps, 0 if settings.weights else settings.pretrain_steps)


def loaded(weights: Path, target: Learner) -> Values:
    """Return the values of a file; its classifier, if it fits at all, is not used later."""
    net = target.network(target.draw(0))
    models.load_weights(net, weights, allow="head/dense/*")
    _, params, rest = nnx.split(net, nnx.Param, ...)
    return params, rest


def pretrained(run: Run, task: tasks.Task, images: Any) -> tuple[Values, float]:
    """Return the values of a network trained on the source classes, and its test accuracy."""
    source = learner(run, len(task.source), images.shape[-1])
    labels = task.numbered(task.source)
    order = tasks.batches(
        task.pool(task.source),
        steps=run.pretrain_steps,
        size=run.batch_size,
        longest=longest(run),
        seed=run.seed,
    )
    values = learning.fit(
        source.graphdef,
        source.draw(run.seed),
        images,
        jnp.asarray(labels),
        order,
        rate=run.pretrain_rate,
        steps=run.pretrain_steps,
        seed=run.seed,
    )
    test = task.pool(task.source, test=True)
    found = source.scores(values, images[test]).argmax(-1)
    return values, float((found == labels[test]).mean())
