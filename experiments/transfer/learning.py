"""What is run with networks of transfer, each program compiled once."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from convjax import gradflow, lab, models, train

CHUNK = 64
"""Images that go through a network at once where no gradient is taken."""

CLIP, MOMENTUM = 1.0, 0.9


def with_backbone(fresh: nnx.Module, pretrained: nnx.Module) -> Any:
    """Return the fresh network with all pretrained values but those of the last layer."""
    net, values = nnx.clone(fresh), nnx.to_flat_state(nnx.state(pretrained))
    kept = [(path, value) for path, value in values if path[:2] != ("head", "dense")]
    nnx.update(net, nnx.from_flat_state(kept))
    return net


def with_classifier(net: Any, classifier: nnx.Module) -> Any:
    """Return the network with the values of this last layer."""
    net = nnx.clone(net)
    nnx.update(net["head"]["dense"], nnx.state(classifier))
    return net


def fit(
    net: nnx.Module,
    images: jax.Array,
    labels: jax.Array,
    batches: np.ndarray,
    rate: float,
    steps: int,
    seed: int,
    decay: float | None = None,
) -> Any:
    """Return a network, or a classifier of features, after training by ``falling``.

    With a ``decay`` the rates are those of ``train.layerwise``. ``batches`` says which images there
    are in each, a row for each step and perhaps more rows.
    """
    source, optimiser = Batches(images, labels, batches), falling(rate, steps)
    if decay is not None:
        optimiser = optax.chain(optimiser, train.layerwise(net, decay=decay))
    longest, graphdef = len(batches), nnx.split(net, nnx.Param, ...)[0]
    recipe = train.Recipe(steps=longest, dispatch=longest)
    if (key := (graphdef, longest, decay)) not in _programs:
        _programs[key] = train.make_dispatch(net, source, recipe, optimiser=optimiser)
    state = train.start(net, recipe, optimiser=optimiser)
    # Keys follow from the step's number: those of another seed begin where this one's end.
    state = dataclasses.replace(state, step=jnp.int32(seed * longest))
    inputs = source.inputs(0, longest)
    state, _ = _programs[key](state, source.arrays, inputs, steps)
    return nnx.merge(graphdef, nnx.State(state.params), nnx.State(state.rest))


_programs: dict[Any, Any] = {}


class Batches:
    """A source of batches that are listed: ``order`` says which images there are in each."""

    def __init__(self, images: jax.Array, labels: jax.Array, order: np.ndarray):
        self.arrays, self.order = (images, labels), order
        self.count, self.batch_size = len(images), order.shape[1]

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


@functools.partial(jax.jit, static_argnums=0)
def outputs(graphdef: Any, state: Any, images: jax.Array) -> jax.Array:
    """Return a network's outputs in evaluation."""
    return nnx.merge(graphdef, state)(images, train=False)


@functools.partial(jax.jit, static_argnums=0)
def features(graphdef: Any, state: Any, images: jax.Array) -> jax.Array:
    """Return what a network's classifier gets to see in evaluation."""
    return models.headless(nnx.merge(graphdef, state))(images, train=False)


def evaluated(program: Callable[..., jax.Array], net: nnx.Module, images: jax.Array) -> np.ndarray:
    """Run all images through a network; the last chunk is filled up, to be the same program."""
    found, values = [], nnx.split(net)
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        missing = jnp.zeros((CHUNK - len(part), *images.shape[1:]), images.dtype)
        found.append(np.asarray(program(*values, jnp.concatenate([part, missing])))[: len(part)])
    return np.concatenate(found)


def profile(
    net: nnx.Module, images: jax.Array, labels: jax.Array, *, train: bool
) -> gradflow.Profile:
    """Measure the gradient of the loss on one batch."""
    return _profiler()(*nnx.split(net), images, labels, train).check()


@functools.cache
def _profiler() -> Callable[..., gradflow.Profile]:
    def measure(graphdef, state, images, labels, train):
        net, how = nnx.merge(graphdef, state), {"loss": lab.cross_entropy, "targets": labels}
        return gradflow.profile(net, images, **how, train=train, rngs=nnx.Rngs(0))

    return jax.jit(measure, static_argnums=(0, 4), compiler_options=lab.compiler_options())
