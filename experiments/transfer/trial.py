"""One seed: a network pretrained, and the three ways of learning the target classes from it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import gradflow, lab, models
from experiments.transfer import learning
from experiments.transfer import task as tasks
from experiments.transfer.settings import Run, maker, read

SCRATCH, FROZEN, TUNED = "from scratch", "frozen features", "fine-tuning"
STAGED = "fine-tuning, rates by stage"
METHODS = (SCRATCH, FROZEN, TUNED, STAGED)
Row = dict[str, Any]

FRESH = 1000
"""Added to the seed of a network that has nothing to do with the pretrained one."""
SIGNALS = ("activation", "gradient", "parameter", "parameter_gradient")
MEASURED = tuple(f"{signal}_log_norm" for signal in SIGNALS)
ENDS = tuple(f"{signal}_log_norm" for signal in ("gradient", "parameter_gradient"))
"""What is measured again when training has ended, as ``end_…``."""
EMPTY = {"kind": "", "method": "", "budget": 0, "position": -1, "path": ""}
EMPTY |= dict.fromkeys(("accuracy", "train_accuracy", *MEASURED, "log_movement"), np.nan)
EMPTY |= {f"end_{name}": np.nan for name in ENDS}


def rows(run: Run) -> Iterator[Row]:
    """Yield what pretraining came to, and every way with every number of examples."""
    how, task = run.settings, read(run.settings)
    images = jnp.asarray(task.shifted(run.shift, border=run.border))
    target = Lesson(run, images, task.target)
    fresh = target.make(rngs=nnx.Rngs(FRESH + run.seed))
    if how.weights is None:
        source = Lesson(run, images, task.source)
        order = source.batches(task.pool(task.source), how.pretrain_steps)
        net = source.make(rngs=nnx.Rngs(run.seed))
        net = source.fit(net, images, order, how.pretrain_rate, how.pretrain_steps)
        yield {"kind": "pretrained", "accuracy": source.accuracy(net, source.test)}
    else:
        net = loaded(how.weights, fresh)
    transferred = learning.with_backbone(fresh, net)
    features = jnp.asarray(learning.evaluated(learning.features, transferred, images))
    methods = METHODS[: 3 if how.stage_decay is None else 4]
    for budget in how.budgets:
        few = task.few(budget, seed=run.seed)
        order = target.batches(few, how.steps)
        for method in methods:
            start = fresh if method == SCRATCH else transferred
            same, parts = {"method": method, "budget": budget}, (target.test, few)
            if method == FROZEN:
                head = start["head"]["dense"]
                head = target.fit(head, features, order, how.head_rate, how.steps)
                end = learning.with_classifier(start, head)
                test, train = (target.right(head(features[of]), of) for of in parts)
            else:
                rate = how.learning_rate if method == SCRATCH else how.tuning_rate
                decay = how.stage_decay if method == STAGED else None
                end = target.fit(start, images, order, rate, how.steps, decay)
                test, train = (target.accuracy(end, of) for of in parts)
            yield same | {"kind": "accuracy", "accuracy": test, "train_accuracy": train}
            batch = images[order[0]], target.labels[order[0]]
            for row in layers(start, end, *batch, frozen=method == FROZEN):
                yield same | {"kind": "layer", **row}


def loaded(weights: Path, net: nnx.Module) -> Any:
    """Return a network with the values of a file, whose classifier need not fit."""
    net = nnx.clone(net)
    models.load_weights(net, weights, allow="head/dense/*")
    return net


class Lesson:
    """Some of a task's classes, as one seed learns them."""

    def __init__(self, run: Run, images: Any, classes: Sequence[int]):
        task = read(run.settings)
        self.run, self.images = run, images
        self.labels = jnp.asarray(task.numbered(classes))
        self.test = task.pool(classes, test=True)
        self.make = maker(run.settings, len(classes), images.shape[-1])

    def batches(self, pool: np.ndarray, steps: int) -> np.ndarray:
        """Return the images of every batch; all trainings are one program, as long as any."""
        how = self.run.settings
        longest = max(how.steps, 0 if how.weights else how.pretrain_steps)
        return tasks.batches(pool, steps, how.batch_size, longest, self.run.seed)

    def fit(
        self,
        net: Any,
        images: Any,
        order: np.ndarray,
        rate: float,
        steps: int,
        decay: float | None = None,
    ) -> Any:
        """Return the network after training; its images may be features."""
        return learning.fit(net, images, self.labels, order, rate, steps, self.run.seed, decay)

    def accuracy(self, net: Any, which: np.ndarray) -> float:
        """Return the share of images that are named rightly."""
        return self.right(learning.evaluated(learning.outputs, net, self.images[which]), which)

    def right(self, logits: Any, which: np.ndarray) -> float:
        """Return the share of logits that name their images rightly."""
        return float((np.argmax(logits, -1) == np.asarray(self.labels)[which]).mean())


def layers(start: Any, end: Any, images: Any, labels: Any, frozen: bool) -> Iterator[Row]:
    """Yield every layer's gradient at the first batch, before and after, and how far it went."""
    before, after = (
        lab.layers(learning.profile(net, images, labels, train=not frozen)) for net in (start, end)
    )
    ratios = gradflow.update_ratios(start, end).by_unit()
    gone = dict(zip(ratios.paths, ratios.log_ratio.tolist(), strict=True))
    for i, path in enumerate(before["path"].tolist()):
        found = {name: float(before[name][i]) for name in MEASURED}
        found |= {f"end_{name}": float(after[name][i]) for name in ENDS}
        if frozen and path != "head/dense":  # these are computed, and not used
            found |= dict.fromkeys(
                ("parameter_gradient_log_norm", "end_parameter_gradient_log_norm"), np.nan
            )
        yield {"position": i, "path": path, "log_movement": gone[path], **found}
