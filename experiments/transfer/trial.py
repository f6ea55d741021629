"""One seed: a network pretrained, and the three ways of learning the target classes from it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import lab, models
from experiments.transfer import learning
from experiments.transfer import task as tasks
from experiments.transfer.learning import Learner, Values
from experiments.transfer.settings import Run, learner, read

SCRATCH, FROZEN, TUNED = "from scratch", "frozen features", "fine-tuning"
METHODS = (SCRATCH, FROZEN, TUNED)
FRESH = 1000
"""Added to the seed of a network that has nothing to do with the pretrained one."""
MEASURED = (
    "activation_log_norm",
    "gradient_log_norm",
    "parameter_log_norm",
    "parameter_gradient_log_norm",
)
EMPTY = {"kind": "", "method": "", "budget": 0, "position": -1, "path": ""}
EMPTY |= dict.fromkeys(("accuracy", "train_accuracy", *MEASURED, "log_movement"), np.nan)


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
    trial = Trial(task, images, target, values, run)
    for budget in run.budgets:
        yield from trial.rows(budget)


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
        longest=run.longest,
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


class Trial:
    """What one seed begins with, and what it finds.

    Args:
      task: classes and images.
      images: the task's, where they are computed with.
      learner: the network for the target classes.
      pretrained: its values after pretraining; the classifier among them is not used.
      run: how to train, and the seed of examples, order and classifier.
    """

    def __init__(
        self,
        task: tasks.Task,
        images: jax.Array,
        learner: Learner,
        pretrained: Values,
        run: Run,
    ):
        self.task, self.images, self.learner = task, images, learner
        self.run = run
        self.labels = jnp.asarray(task.numbered(task.target))
        self.test = task.pool(task.target, test=True)
        fresh = learner.draw(FRESH + run.seed)
        transferred = learning.with_backbone(fresh, pretrained)
        self.start = {SCRATCH: fresh, FROZEN: transferred, TUNED: transferred}

    def rows(self, budget: int) -> Iterator[dict[str, Any]]:
        """Yield what each way finds with ``budget`` examples of each class."""
        run = self.run
        few = self.task.few(budget, seed=run.seed)
        order = tasks.batches(
            few, steps=run.steps, size=run.batch_size, longest=run.longest, seed=run.seed
        )
        for method in METHODS:
            same = {"method": method, "budget": budget}
            end = self.trained(method, few, order)
            yield same | {"kind": "accuracy", **self.accuracies(end, few)}
            for row in self.layers(method, order[0], end):
                yield same | {"kind": "layer", **row}

    def trained(self, method: str, few: np.ndarray, order: np.ndarray) -> Values:
        """Return the values that a way ends with."""
        start, run = self.start[method], self.run
        rates = {SCRATCH: run.learning_rate, FROZEN: run.head_rate, TUNED: run.tuning_rate}
        how: dict[str, Any] = {"rate": rates[method], "steps": run.steps, "seed": run.seed}
        if method != FROZEN:
            of = self.learner.graphdef
            return learning.fit(of, start, self.images, self.labels, order, **how)
        found = self.learner.features(start, self.images[few])
        features = np.zeros((len(self.images), found.shape[-1]), found.dtype)
        features[few] = found
        classifier, values = self.learner.classifier(start)
        data = (jnp.asarray(features), self.labels, order)
        values = learning.fit(classifier, values, *data, **how)
        return learning.with_classifier(start, values)

    def accuracies(self, end: Values, few: np.ndarray) -> dict[str, float]:
        """Return the shares of test images, and of the examples, that are named rightly."""
        seen = np.concatenate([self.test, few])
        named = self.learner.scores(end, self.images[seen]).argmax(-1)
        right = named == np.asarray(self.labels)[seen]
        count = len(self.test)
        return {
            "accuracy": float(right[:count].mean()),
            "train_accuracy": float(right[count:].mean()),
        }

    def layers(self, method: str, first: np.ndarray, end: Values) -> Iterator[dict[str, Any]]:
        """Yield every layer's gradient at the first batch, and how far it went in the end."""
        start = self.start[method]
        images, labels = self.images[first], self.labels[first]
        profile = self.learner.profile(start, images, labels, train=method != FROZEN)
        gone = learning.moved(self.learner.network(start), self.learner.network(end))
        measured = lab.layers(profile)
        for i, path in enumerate(measured["path"].tolist()):
            found = {name: float(measured[name][i]) for name in MEASURED}
            if method == FROZEN and path != "/".join(learning.CLASSIFIER):
                found["parameter_gradient_log_norm"] = np.nan  # it is computed, and not used
            yield {"position": i, "path": path, "log_movement": gone[path], **found}
