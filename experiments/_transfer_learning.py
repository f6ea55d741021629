"""Networks of transfer, and the programs that are run with them, each compiled once."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from convjax import gradflow, models
from experiments._classifier import cross_entropy

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
        """Return fresh values."""
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


def brief() -> dict[str, Any]:
    """Return compiler options for what runs a few times only."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}


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
    return _fit(graphdef, *values, images, labels, batches, steps, rate, jax.random.key(seed))


@functools.partial(jax.jit, static_argnums=0)
def _fit(graphdef, params, rest, images, labels, batches, steps, rate, key):
    optimiser = optax.chain(optax.clip_by_global_norm(CLIP), optax.trace(MOMENTUM))

    def loss(params, rest, chosen, key):
        net = nnx.merge(graphdef, params, rest, copy=True)
        outputs = net(images[chosen], train=True, rngs=nnx.Rngs(key))
        return cross_entropy(outputs, labels[chosen]), nnx.split(net, nnx.Param, ...)[2]

    # The number of steps is no constant, so that every training is the same program.
    def step(i, carry):
        params, rest, state = carry
        grads, rest = jax.grad(loss, has_aux=True)(
            params, rest, batches[i], jax.random.fold_in(key, i)
        )
        updates, state = optimiser.update(grads, state, params)
        now = rate * 0.5 * (1 + jnp.cos(jnp.pi * i / steps))
        params = jax.tree.map(lambda w, u: w - (now * u).astype(w.dtype), params, updates)
        return params, rest, state

    return jax.lax.fori_loop(0, steps, step, (params, rest, optimiser.init(params)))[:2]


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
            net, images, loss=cross_entropy, targets=labels, train=train, rngs=nnx.Rngs(0)
        )

    return jax.jit(measure, static_argnums=(0, 5), compiler_options=brief())


def _by_chunks(run: Callable[[jax.Array], jax.Array], images: jax.Array) -> np.ndarray:
    """Run all images through, so many at a time; the last are filled up, to be the same program."""
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
