"""One seed: a network pretrained, and the three ways of learning the target classes from it."""

from collections.abc import Iterator
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
    task = read(run.settings)
    trial = Trial(run, task, jnp.asarray(task.shifted(run.shift, border=run.border)))
    fresh = maker(run.settings, len(task.target), task.images.shape[-1])(
        rngs=nnx.Rngs(FRESH + run.seed)
    )
    if run.settings.weights is None:
        net, accuracy = trial.pretrained()
        yield {"kind": "pretrained", "accuracy": accuracy}
    else:
        net = loaded(run.settings.weights, fresh)
    transferred = learning.with_backbone(fresh, net)
    for budget in run.settings.budgets:
        few = task.few(budget, seed=run.seed)
        order = trial.batches(few, run.settings.steps)
        for method in METHODS:
            start = fresh if method == SCRATCH else transferred
            end = trial.trained(method, start, few, order)
            same = {"method": method, "budget": budget}
            yield same | {"kind": "accuracy", **trial.accuracies(end, few)}
            for row in trial.layers(method, start, end, order[0]):
                yield same | {"kind": "layer", **row}


def loaded(weights: Path, net: nnx.Module) -> Any:
    """Return a network with the values of a file, whose classifier need not fit."""
    net = nnx.clone(net)
    models.load_weights(net, weights, allow="head/dense/*")
    return net


class Trial:
    """What one seed learns.

    Args:
      run: how to train, and the seed of examples, order and classifier.
      task: classes and images.
      images: the task's, shifted.
    """

    def __init__(self, run: Run, task: tasks.Task, images: Any):
        self.run, self.how, self.task, self.images = run, run.settings, task, images
        self.labels = jnp.asarray(task.numbered(task.target))
        self.test = task.pool(task.target, test=True)

    def batches(self, pool: np.ndarray, steps: int) -> np.ndarray:
        """Return the images of every batch; all trainings are one program, as long as any."""
        longest = max(self.how.steps, 0 if self.how.weights else self.how.pretrain_steps)
        size = self.how.batch_size
        return tasks.batches(pool, steps=steps, size=size, longest=longest, seed=self.run.seed)

    def pretrained(self) -> tuple[Any, float]:
        """Return a network trained on the source classes, and its test accuracy."""
        task, steps = self.task, self.how.pretrain_steps
        net = maker(self.how, len(task.source), self.images.shape[-1])(rngs=nnx.Rngs(self.run.seed))
        labels = task.numbered(task.source)
        order = self.batches(task.pool(task.source), steps)
        how: dict[str, Any] = {"rate": self.how.pretrain_rate, "steps": steps}
        net = learning.fit(net, self.images, jnp.asarray(labels), order, **how, seed=self.run.seed)
        test = task.pool(task.source, test=True)
        found = learning.evaluated(learning.outputs, net, self.images[test]).argmax(-1)
        return net, float((found == labels[test]).mean())

    def trained(self, method: str, start: Any, few: np.ndarray, order: np.ndarray) -> Any:
        """Return the network that a way ends with."""
        how = self.how
        rate = {SCRATCH: how.learning_rate, FROZEN: how.head_rate, TUNED: how.tuning_rate}[method]
        given: dict[str, Any] = {"rate": rate, "steps": how.steps, "seed": self.run.seed}
        if method != FROZEN:
            return learning.fit(start, self.images, self.labels, order, **given)
        found = learning.evaluated(learning.features, start, self.images[few])
        features = np.zeros((len(self.images), found.shape[-1]), found.dtype)
        features[few] = found
        classifier = start["head"]["dense"]
        classifier = learning.fit(classifier, jnp.asarray(features), self.labels, order, **given)
        return learning.with_classifier(start, classifier)

    def accuracies(self, end: Any, few: np.ndarray) -> dict[str, float]:
        """Return the shares of test images, and of the examples, that are named rightly."""
        seen = np.concatenate([self.test, few])
        named = learning.evaluated(learning.outputs, end, self.images[seen]).argmax(-1)
        right, count = named == np.asarray(self.labels)[seen], len(self.test)
        return {
            "accuracy": float(right[:count].mean()),
            "train_accuracy": float(right[count:].mean()),
        }

    def layers(
        self, method: str, start: Any, end: Any, first: np.ndarray
    ) -> Iterator[dict[str, Any]]:
        """Yield every layer's gradient at the first batch, and how far it went in the end."""
        batch, frozen = (self.images[first], self.labels[first]), method == FROZEN
        measured = lab.layers(learning.profile(start, *batch, train=not frozen))
        ratios = gradflow.update_ratios(start, end).by_unit()
        gone = dict(zip(ratios.paths, ratios.log_ratio.tolist(), strict=True))
        for i, path in enumerate(measured["path"].tolist()):
            found = {name: float(measured[name][i]) for name in MEASURED}
            if frozen and path != "head/dense":
                found["parameter_gradient_log_norm"] = np.nan  # it is computed, and not used
            yield {"position": i, "path": path, "log_movement": gone[path], **found}
