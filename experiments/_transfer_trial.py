"""One seed of transfer: the three ways of learning the target classes from a few examples."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax.lab import layers
from experiments import _transfer_learning as learning
from experiments import _transfer_task as tasks
from experiments._transfer_learning import Learner, Values

SCRATCH, FROZEN, TUNED = "from scratch", "frozen features", "fine-tuning"
METHODS = (SCRATCH, FROZEN, TUNED)
FRESH = 1000
"""Added to a seed where a network is drawn that has nothing to do with the pretrained one."""
MEASURED = (
    "activation_log_norm",
    "gradient_log_norm",
    "parameter_log_norm",
    "parameter_gradient_log_norm",
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How every way trains.

    Attributes:
      steps: how many.
      longest: of all trainings of the run, so that all are one program.
      batch_size: images in a step.
      rates: the learning rate of each way.
    """

    steps: int
    longest: int
    batch_size: int
    rates: Mapping[str, float]


class Trial:
    """What one seed begins with, and what it finds.

    Args:
      task: classes and images.
      images: the task's, where they are computed with.
      learner: the network for the target classes.
      pretrained: its values after pretraining; the classifier among them is not used.
      recipe: how to train.
      seed: of the draws of examples, order and classifier.
    """

    def __init__(
        self,
        task: tasks.Task,
        images: jax.Array,
        learner: Learner,
        pretrained: Values,
        recipe: Recipe,
        seed: int,
    ):
        self.task, self.images, self.learner = task, images, learner
        self.recipe, self.seed = recipe, seed
        self.labels = jnp.asarray(task.numbered(task.target))
        self.test = task.pool(task.target, test=True)
        fresh = learner.draw(FRESH + seed)
        transferred = learning.with_backbone(fresh, pretrained)
        self.start = {SCRATCH: fresh, FROZEN: transferred, TUNED: transferred}

    def rows(self, budget: int) -> Iterator[dict[str, Any]]:
        """Yield what each way finds with so many examples of each class."""
        few = self.task.few(budget, seed=self.seed)
        recipe = self.recipe
        order = tasks.batches(
            few,
            steps=recipe.steps,
            size=recipe.batch_size,
            longest=recipe.longest,
            seed=self.seed,
        )
        for method in METHODS:
            same = {"method": method, "budget": budget}
            end = self.trained(method, few, order)
            yield same | {"kind": "accuracy", **self.accuracies(end, few)}
            for row in self.layers(method, order[0], end):
                yield same | {"kind": "layer", **row}

    def trained(self, method: str, few: np.ndarray, order: np.ndarray) -> Values:
        """Return the values that a way ends with."""
        start = self.start[method]
        how: dict[str, Any] = {"rate": self.recipe.rates[method], "steps": self.recipe.steps}
        if method != FROZEN:
            of = self.learner.graphdef
            return learning.fit(of, start, self.images, self.labels, order, **how, seed=self.seed)
        found = self.learner.features(start, self.images[few])
        features = np.zeros((len(self.images), found.shape[-1]), found.dtype)
        features[few] = found
        classifier, values = self.learner.classifier(start)
        data = (jnp.asarray(features), self.labels, order)
        values = learning.fit(classifier, values, *data, **how, seed=self.seed)
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
        rows = layers(profile)
        for i, path in enumerate(rows["path"].tolist()):
            found = {name: float(rows[name][i]) for name in MEASURED}
            if method == FROZEN and path != "/".join(learning.CLASSIFIER):
                found["parameter_gradient_log_norm"] = np.nan  # it is computed here, not given
            yield {"position": i, "path": path, "log_movement": gone[path], **found}
