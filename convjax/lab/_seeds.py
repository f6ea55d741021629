"""Seeds: networks of one structure, trained from any number of seeds; a program compiles once."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from convjax import data, train
from convjax.lab._compile import compiled, compiler_options


class Seeds:
    """Networks of one structure on one set of images.

    Args:
      make: returns the network, of any source of initial values.
      images: of training.
      labels: theirs.
      batch_size: images in a step.

    Example:
      >>> from convjax import data, lab, nn, train
      >>> def make(rngs):
      ...     return nn.Chain(pool=nn.GlobalPool("avg"), dense=nn.Dense(1, 10, rngs=rngs))
      >>> seeds = lab.Seeds(make, *data.digits("train"), batch_size=16)
      >>> trainer = seeds.trainer(train.Recipe(steps=2, learning_rate=0.1, dispatch=2))
      >>> [len(trainer.fit(seeds.draw(seed), seed)[1]["loss"]) for seed in (0, 1)]
      [2, 2]
    """

    def __init__(
        self,
        make: Callable[[nnx.Rngs], Any],
        images: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int,
    ):
        def source(seed: int) -> Any:
            return data.resident(images, labels, batch_size=batch_size, seed=seed)

        self.source = source
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.graphdef, self._shapes = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
        key = jax.eval_shape(jax.random.key, 0)
        self._draw = compiled(lambda key: nnx.split(make(nnx.Rngs(key)))[1], key)

    def draw(self, seed: int) -> Any:
        """Return the network of a seed, at initialization."""
        return nnx.merge(self.graphdef, self._draw(jax.random.key(seed)))

    def batch(self, seed: int, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the images and labels of one step, in the order of a seed; the first step is 0."""
        order = data.batch_indices(len(self.images), self.batch_size, seed=seed, step=step)
        return self.images[order], self.labels[order]

    def program(
        self, function: Callable[..., Any], *arguments: Any, level: int | None = 0
    ) -> Callable[..., Any]:
        """Compile what is measured of networks of this structure.

        Args:
          function: ``function(net, *arguments)``.
          *arguments: arrays of the shapes that it will be called with, or their shapes.
          level: of LLVM's effort, as in ``compiled``.

        Returns:
          The compiled function; it is called in the same way.
        """

        def split(state, *arguments):
            return function(nnx.merge(self.graphdef, state), *arguments)

        run = compiled(split, self._shapes, *arguments, level=level)
        return lambda net, *arguments: run(nnx.state(net), *arguments)

    def trainer(self, recipe: train.Recipe, *, level: int | None = None) -> "Trainer":
        """Compile what trains by a recipe; for the level see ``compiler_options``."""
        return Trainer(self, recipe, level)


class Trainer:
    """Trains networks of one structure by one recipe; compiled when it is made.

    Args:
      seeds: of whose structure the networks are.
      recipe: how they are trained.
      level: of LLVM's effort, as in ``compiler_options``.

    Example:
      >>> from convjax import lab
      >>> def train_all(seeds, recipe, count):
      ...     trainer = lab.Trainer(seeds, recipe)
      ...     return [trainer.fit(seeds.draw(seed), seed)[1]["loss"] for seed in range(count)]
    """

    def __init__(self, seeds: Seeds, recipe: train.Recipe, level: int | None = None):
        self.seeds, self.recipe = seeds, recipe
        net, source = seeds.draw(0), seeds.source(0)
        given = (train.start(net, recipe), source.arrays, source.inputs(0, recipe.dispatch), 0)
        dispatch: Any = train.make_dispatch(net, source, recipe)
        self.dispatch = dispatch.lower(*given).compile(compiler_options(level))

    def fit(
        self, net: Any, seed: int, *, steps: int | None = None, first: int = 0
    ) -> tuple[Any, dict[str, Any]]:
        """Train a network.

        Args:
          net: the network, as it is at first; it is not changed.
          seed: of the order of the images.
          steps: how many, at least 1; None takes the recipe's.
          first: batches of that order that are passed over.

        Returns:
          The trained network, and the metrics of ``train.make_step`` with the steps for first axis.
        """
        stage, found = (net, {}), []
        for stage in self.stages(net, seed, steps=steps, first=first):
            found.append(stage[1])
        return stage[0], jax.tree.map(lambda *parts: np.concatenate(parts), *found)

    def stages(
        self, net: Any, seed: int, *, steps: int | None = None, first: int = 0
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Train a network as ``fit`` does, and stop every ``recipe.dispatch`` steps.

        Args:
          net: as in ``fit``.
          seed: as in ``fit``.
          steps: as in ``fit``.
          first: as in ``fit``.

        Yields:
          The network, which lasts until the next is asked for, and the metrics of the steps since
          the last.

        Example:
          >>> def curve(trainer, seed, score):  # what the network scores after every dispatch
          ...     start = trainer.seeds.draw(seed)
          ...     return [score(net) for net, _ in trainer.stages(start, seed)]
        """
        recipe, source = self.recipe, self.seeds.source(seed)
        graphdef, state = nnx.split(net, nnx.Param, ...)[0], train.start(net, recipe)
        steps = recipe.steps if steps is None else steps
        for done in range(0, steps, recipe.dispatch):
            count = min(recipe.dispatch, steps - done)
            inputs = source.inputs(first + done, recipe.dispatch)
            state, metrics = self.dispatch(state, source.arrays, inputs, count)
            now = nnx.merge(graphdef, nnx.State(state.params), nnx.State(state.rest))
            yield now, jax.tree.map(lambda a, n=count: np.asarray(a[:n]), metrics)
