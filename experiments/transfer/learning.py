"""Networks of transfer, and the programs that are run with them, each compiled once."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from convjax import gradflow, lab, models, train

CLASSIFIER = ("head", "dense")
CHUNK = 64
"""Images that go through a network at once where no gradient is taken."""

CLIP, MOMENTUM = 1.0, 0.9

Values = tuple[Any, Any]
"""Parameters, and all else (statistics)."""


class Learner:
    """One kind of network, and what is run with it.

    Args:
      make: ``make(rngs) -> network``.
    """

    def __init__(self, make: Callable[[nnx.Rngs], Any]):
        self.make = make
        self.abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
        self.graphdef, *_ = nnx.split(self.abstract, nnx.Param, ...)

    def draw(self, seed: int) -> Values:
        """Return the initial values of a seed."""
        _, params, rest = nnx.split(self.make(nnx.Rngs(seed)), nnx.Param, ...)
        return params, rest

    def network(self, values: Values) -> Any:
        """Return the network with these values."""
        return nnx.merge(self.graphdef, *values, copy=True)

    def classifier(self, values: Values) -> tuple[nnx.GraphDef, Values]:
        """Return the last layer by itself."""
        graphdef, *own = nnx.split(self.network(values)["head"]["dense"], nnx.Param, ...)
        return graphdef, (own[0], own[1])

    def scores(self, values: Values, images: jax.Array) -> np.ndarray:
        """Return the outputs in evaluation, one row for each image."""
        return scores(self.graphdef, values, images)

    def features(self, values: Values, images: jax.Array) -> np.ndarray:
        """Return what the classifier gets to see in evaluation."""
        return _by_chunks(functools.partial(_features, self.graphdef, *values), images)

    def profile(
        self, values: Values, images: jax.Array, labels: jax.Array, *, train: bool
    ) -> gradflow.Profile:
        """Measure the gradient of the loss on one batch."""
        return _measure()(self.graphdef, *values, images, labels, train).check()


def with_backbone(values: Values, pretrained: Values) -> Values:
    """Return pretrained values with the last layer of others."""
    params = nnx.to_flat_state(values[0])
    old = dict(nnx.to_flat_state(pretrained[0]))
    n = len(CLASSIFIER)
    own = [(path, leaf if path[:n] == CLASSIFIER else old[path]) for path, leaf in params]
    return nnx.from_flat_state(own), pretrained[1]


def with_classifier(values: Values, classifier: Values) -> Values:
    """Return values with another last layer."""
    last = dict(nnx.to_flat_state(classifier[0]))
    params = nnx.to_flat_state(values[0])
    n = len(CLASSIFIER)
    new = [(path, last[path[n:]] if path[:n] == CLASSIFIER else leaf) for path, leaf in params]
    return nnx.from_flat_state(new), values[1]


def fit(
    graphdef: nnx.GraphDef,
    values: Values,
    images: jax.Array,
    labels: jax.Array,
    batches: np.ndarray,
    *,
    rate: float,
    steps: int,
    seed: int,
) -> Values:
    """Train a network by clipped gradients with momentum, at a rate that falls to zero.

    Args:
      graphdef: its structure; of a whole network, or of a classifier whose images are features.
      values: what it begins with.
      images: all images.
      labels: their classes.
      batches: which images there are in each batch, a row for each step and perhaps more rows.
      rate: the learning rate of the first step.
      steps: how many.
      seed: of dropout.
    """
    net = nnx.merge(graphdef, *values, copy=True)
    source, optimiser = Batches(images, labels, batches), falling(rate, steps)
    longest = len(batches)
    recipe = train.Recipe(steps=longest, dispatch=longest)
    if (graphdef, longest) not in _programs:
        program = train.make_dispatch(net, source, recipe, optimiser=optimiser)
        _programs[graphdef, longest] = program
    state = train.start(net, recipe, optimiser=optimiser)
    # Keys follow from the step's number: those of another seed begin where this one's end.
    state = dataclasses.replace(state, step=jnp.int32(seed * longest))
    inputs = source.inputs(0, longest)
    state, _ = _programs[graphdef, longest](state, source.arrays, inputs, steps)
    trained = nnx.merge(graphdef, nnx.State(state.params), nnx.State(state.rest))
    _, params, rest = nnx.split(trained, nnx.Param, ...)
    return params, rest


_programs: dict[Any, Any] = {}


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """A source of batches that are listed: ``order`` says which images there are in each."""

    images: jax.Array
    labels: jax.Array
    order: np.ndarray

    @property
    def count(self) -> int:
        """Images in the data."""
        return len(self.images)

    @property
    def batch_size(self) -> int:
        """Images in a batch."""
        return self.order.shape[1]

    @property
    def arrays(self) -> tuple[jax.Array, jax.Array]:
        """What stays on the device."""
        return self.images, self.labels

    def inputs(self, first: int, steps: int) -> np.ndarray:
        """Return which images there are in these steps."""
        return self.order[first : first + steps]

    def batch(self, arrays: Any, inputs: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return one step's images and labels."""
        images, labels = arrays
        return images[inputs], labels[inputs]


def falling(rate: float, steps: int) -> optax.GradientTransformation:
    """Return clipped gradients with momentum, at a rate that falls to zero as a cosine.

    Rate and steps are no constants but part of the state: every training is the same program.
    """

    def init(params: Any) -> dict[str, jax.Array]:
        return {"rate": jnp.float32(rate), "steps": jnp.int32(steps), "count": jnp.int32(0)}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        now = state["rate"] * 0.5 * (1 + jnp.cos(jnp.pi * state["count"] / state["steps"]))
        updates = jax.tree.map(lambda u: -(now * u).astype(u.dtype), updates)
        return updates, state | {"count": state["count"] + 1}

    clipped, momentum = optax.clip_by_global_norm(CLIP), optax.trace(MOMENTUM)
    return optax.chain(clipped, momentum, optax.GradientTransformation(init, update))


def scores(graphdef: nnx.GraphDef, values: Values, images: jax.Array) -> np.ndarray:
    """Return the outputs in evaluation, one row for each image, or each row of features."""
    return _by_chunks(functools.partial(_outputs, graphdef, *values), images)


@functools.partial(jax.jit, static_argnums=0)
def _outputs(graphdef, params, rest, images):
    return nnx.merge(graphdef, params, rest, copy=True)(images, train=False)


@functools.partial(jax.jit, static_argnums=0)
def _features(graphdef, params, rest, images):
    return models.headless(nnx.merge(graphdef, params, rest, copy=True))(images, train=False)


@functools.cache
def _measure() -> Callable[..., gradflow.Profile]:
    def measure(graphdef, params, rest, images, labels, train):
        net = nnx.merge(graphdef, params, rest, copy=True)
        return gradflow.profile(
            net, images, loss=lab.cross_entropy, targets=labels, train=train, rngs=nnx.Rngs(0)
        )

    return jax.jit(measure, static_argnums=(0, 5), compiler_options=lab.compiler_options())


def _by_chunks(run: Callable[[jax.Array], jax.Array], images: jax.Array) -> np.ndarray:
    """Run all images through in chunks; the last one is filled up, to be the same program."""
    found = []
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        missing = jnp.zeros((CHUNK - len(part), *images.shape[1:]), images.dtype)
        found.append(np.asarray(run(jnp.concatenate([part, missing])))[: len(part)])
    return np.concatenate(found)


def moved(before: nnx.Module, after: nnx.Module) -> Mapping[str, float]:
    """Return ln of |dW| / |W| of every leaf with parameters, by its path."""
    ratios = gradflow.update_ratios(before, after).by_unit()
    return dict(zip(ratios.paths, ratios.log_ratio.tolist(), strict=True))
