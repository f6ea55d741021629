"""How much does transfer learning spare, and what does it do to the gradient of every layer?

    python -m experiments transfer

A residual network is pretrained on some classes (digits 0 to 4) and transferred to the others with
few examples of each, in three ways:

- from scratch: the same network, freshly drawn; nothing is transferred.
- frozen features: the pretrained network in evaluation mode, whose features are computed once; a
  new classifier is trained on them.
- fine-tuning: all weights are trained, from the pretrained ones and the same new classifier.

The digits come twice: in the middle of an empty border, where two examples tell much of a class;
and anywhere in it, where few examples do not tell that the place means nothing, and pretraining
does. Every seed pretrains a network of its own and draws examples of its own; the three ways share
the examples, the batches, the number of steps and the classifier's first values. Momentum behind a
clip, at a rate that falls to zero as a cosine; no augmentation. The rates are the best on average
of 0.03, 0.1 and 0.3 for each way, found by such runs; three times as many steps change an accuracy
by 0.05 at the most. A third of every class is for testing.
--images takes any folder of class folders, --weights a file of weights in place of pretraining.

Measured: test accuracy; ``gradflow.profile`` on the first batch, before the first step, with batch
statistics where the network is trained and running statistics where it is frozen; and how far each
layer has gone in the end, |dW| / |W|, to which a way's rate contributes. Layers are the leaves with
a kernel. Under frozen features the profile tells what gradient would come to a layer's output; its
parameters are given none.

Sentences of course texts get a verdict each, by one rule. A number is taken from every seed under
each condition; it speaks for the sentence, or against it, where its mean is beyond two standard
errors and most seeds have its sign. A sentence holds if all conditions speak for it; in some, if
some do; fails if none does and one speaks against it; and is not decided here if none speaks.

Pass: pretraining has learned its classes (0.9 of their test images); both ways that train the whole
network fit their examples (0.95 of them, by running statistics, at the worst); and with the fewest
examples, furthest off the centre, fine-tuning beats training from scratch by more than two standard
errors. The last is the question itself: where it fails, transfer learning did not help.

Takes about a minute and a half on two cores. For a look at it in half a minute:
``--seeds 2 --shifts 2 --budgets 2 5``.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import data, models
from experiments import _cli, _outcome
from experiments import _transfer_learning as learning
from experiments import _transfer_task as tasks
from experiments._ahead import ahead
from experiments._inspect_images import pictures
from experiments._outcome import Columns, Experiment
from experiments._progress import Ticker
from experiments._transfer_learning import Learner, Values
from experiments._transfer_shown import draw, judge, table
from experiments._transfer_trial import FROZEN, MEASURED, SCRATCH, TUNED, Recipe, Trial

NETWORK, WIDTH = "resnet20_cifar", 8
DIGITS_SHIFTS = (0, 2)


@dataclasses.dataclass(frozen=True)
class Config(_cli.Options):
    """Options."""

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
    shifts: tuple[int, ...] = ()
    """How far off the centre, in pixels, images may lie, in a border as wide as the largest; one
    network is pretrained for each. Without it, 0 and 2 for the digits, 0 for a folder."""
    seeds: int = 6
    """How many: each pretrains, and draws examples and a classifier, of its own; at least 2."""
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
    out: Path = Path("results/transfer")
    """Folder for the table and the figure; it is made if it is not there."""


def measure(config: Config) -> Columns:
    """Return one row for every accuracy and for every layer, of every way, budget and seed.

    ``kind`` says which: "pretrained", a seed's ``accuracy`` on the classes pretrained on;
    "accuracy" on the target's test images, beside ``train_accuracy`` on the examples; "layer", the
    logarithms of the first step's gradients and of the way that the weights went. What does not
    apply is NaN, the gradient of a frozen parameter too.

    Raises:
      ValueError: an option that cannot be done, weights that do not fit, a folder without images.
    """
    check(config)
    task = read(config)
    tasks.check_examples(task, config.budgets)
    shifts = config.shifts or ((0,) if config.images else DIGITS_SHIFTS)
    runs = list(itertools.product(shifts, range(config.seeds)))
    run = runner(config, task, max(shifts))
    rows: list[dict[str, Any]] = []
    with Ticker(len(runs)) as ticker:
        ticker.begin("compiling")
        # The first run compiles for all; two at once would compile everything twice.
        first = (runs[0], run(*runs[0]))
        for (shift, seed), found in itertools.chain([first], ahead(lambda of: run(*of), runs[1:])):
            rows += [EMPTY | row | {"shift": shift, "seed": seed} for row in found]
            ticker.finish(f"shift {shift}, seed {seed}")
    return _outcome.stack(rows)


_NUMBERS = (
    "accuracy",
    "train_accuracy",
    *MEASURED,
    "log_movement",
)
EMPTY = {"kind": "", "method": "", "budget": 0, "position": -1, "path": ""}
EMPTY |= dict.fromkeys(_NUMBERS, np.nan)


def check(config: Config) -> None:
    """Refuse what cannot be done, before anything is read."""
    for option, least in (("seeds", 2), ("pretrain_steps", 1), ("steps", 1), ("batch_size", 2)):
        if getattr(config, option) < least:
            raise _cli.UsageError(
                f"{option} = {getattr(config, option)} is too small; it must be at least {least}."
            )
    for option in ("pretrain_rate", "learning_rate", "tuning_rate", "head_rate"):
        if not getattr(config, option) > 0:
            raise _cli.UsageError(f"{option} = {getattr(config, option)} must be positive.")
    if min(config.shifts, default=0) < 0 or len(set(config.shifts)) < len(config.shifts):
        raise _cli.UsageError(f"shifts = {list(config.shifts)} must be at least 0, none twice.")
    budgets = config.budgets
    if not budgets or min(budgets) < 1 or list(budgets) != sorted(set(budgets)):
        raise _cli.UsageError(f"budgets = {list(budgets)} must be positive and rising.")
    if config.weights is not None and config.pretrain_classes:
        raise _cli.UsageError("weights takes the place of pretraining: leave out pretrain_classes.")


def read(config: Config) -> tasks.Task:
    """Return the images, and the classes divided."""
    if config.images is None:
        images, labels = data.digits()
        classes = tuple(map(str, range(10)))
    else:
        found = pictures(
            config.images, config.network, reference=config.reference, size=config.size
        )
        images, labels, classes = found.images, found.labels, found.classes
        if labels is None:
            raise _cli.UsageError(f"{str(config.images)!r} has no class folders.")
    source = None if config.weights else config.pretrain_classes
    return tasks.make(images, labels, classes, source=source, target=config.target_classes)


def learner(config: Config, classes: int, channels: int) -> Learner:
    """Return the network with so many outputs."""
    options: dict[str, Any] = {"num_classes": classes, "in_features": channels}
    if config.reference != "torch":
        options["reference"] = config.reference
    width = config.width
    if width is None and config.network == NETWORK and config.weights is None:
        width = WIDTH
    if width is not None:
        options["width"] = int(width) if float(width).is_integer() else width
    return Learner(lambda rngs: models.create(config.network, rngs=rngs, **options))


def runner(
    config: Config, task: tasks.Task, border: int
) -> Callable[[int, int], list[dict[str, Any]]]:
    """Return ``run(shift, seed)``: pretraining, and every way with every number of examples."""
    target = learner(config, len(task.target), task.images.shape[-1])
    given = None if config.weights is None else loaded(config.weights, target)

    def run(shift: int, seed: int) -> list[dict[str, Any]]:
        images = jnp.asarray(task.shifted(shift, border=border))
        if given is not None:
            values, rows = given, []
        else:
            values, accuracy = pretrained(config, task, images, seed)
            rows = [{"kind": "pretrained", "accuracy": accuracy}]
        trial = Trial(task, images, target, values, recipe(config), seed)
        return rows + [row for budget in config.budgets for row in trial.rows(budget)]

    return run


def recipe(config: Config) -> Recipe:
    """Return how every way trains."""
    rates = (config.learning_rate, config.head_rate, config.tuning_rate)
    return Recipe(
        steps=config.steps,
        longest=longest(config),
        batch_size=config.batch_size,
        rates=dict(zip((SCRATCH, FROZEN, TUNED), rates, strict=True)),
    )


def longest(config: Config) -> int:
    """Return the most steps of any training."""
    return max(config.steps, 0 if config.weights else config.pretrain_steps)


def loaded(weights: Path, target: Learner) -> Values:
    """Return the values of a file; its classifier, if it fits at all, is not used later."""
    net = target.network(target.draw(0))
    models.load_weights(net, weights, allow="head/dense/*")
    _, params, rest = nnx.split(net, nnx.Param, ...)
    return params, rest


def pretrained(config: Config, task: tasks.Task, images: Any, seed: int) -> tuple[Values, float]:
    """Return the values of a network trained on the source classes, and its test accuracy."""
    source = learner(config, len(task.source), images.shape[-1])
    labels = task.numbered(task.source)
    order = tasks.batches(
        task.pool(task.source),
        steps=config.pretrain_steps,
        size=config.batch_size,
        longest=longest(config),
        seed=seed,
    )
    values = learning.fit(
        source.graphdef,
        source.draw(seed),
        images,
        jnp.asarray(labels),
        order,
        rate=config.pretrain_rate,
        steps=config.pretrain_steps,
        seed=seed,
    )
    test = task.pool(task.source, test=True)
    found = source.scores(values, images[test]).argmax(-1)
    return values, float((found == labels[test]).mean())


EXPERIMENT = Experiment("transfer", __doc__ or "", Config, measure, judge, draw, table)


def main(argv: Sequence[str]) -> int:
    """Run the experiment from the command line and return the exit code."""
    return _outcome.run(EXPERIMENT, argv)
