"""A small image classifier of any depth, and the three programs an experiment runs with it."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from convjax import gradflow
from convjax.lab import Classifier as Cell
from convjax.lab import cross_entropy as cross_entropy

CONVS_PER_UNIT = Cell.convs_per_unit
CLASSES = Cell.classes


@dataclasses.dataclass(frozen=True)
class Training:
    """Stochastic gradient descent with momentum, behind a clip of the gradient's norm."""

    learning_rate: float
    momentum: float
    clip: float

    def optimiser(self) -> optax.GradientTransformation:
        """Return the transformation."""
        # Un-normalised residual networks have gradients like 2^27 at birth: no learning rate fits.
        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            optax.sgd(self.learning_rate, momentum=self.momentum),
        )


@dataclasses.dataclass(frozen=True)
class Programs:
    """What is run with one network, compiled: a loop over seeds compiles nothing more.

    Attributes:
      draw: ``draw(key) -> (params, rest)``, the initial values.
      measure: ``measure(params, rest, images, labels) -> Profile``.
      train: ``train(params, rest, images, labels) -> params``, one step for each leading entry;
        None where there is no step.
    """

    draw: Callable[..., Any]
    measure: Callable[..., gradflow.Profile]
    train: Callable[..., Any] | None


def along_trunk(profile: gradflow.Profile) -> gradflow.Profile:
    """Return a profile of the input, the stem and the units as wholes.

    Done under ``jit``, what is left out is not computed: half of the compilation goes.
    """
    bare = {"addition": None, "parameters": {}, "parameter_gradients": {}}
    kept = {
        path: dataclasses.replace(profile[path], **bare) for path in ("input", "stem", "body/*")
    }
    return dataclasses.replace(profile, paths=tuple(kept), units=tuple(kept.values()))


@functools.lru_cache(maxsize=64)
def structure(cell: Cell) -> tuple[nnx.GraphDef, Any, Any]:
    """Return a network's graph, and the shapes of its parameters and of the rest.

    Raises:
      ValueError: the network cannot be built; the message names the argument.
    """
    shapes = nnx.eval_shape(lambda: cell.network(nnx.Rngs(0)))
    graphdef, params, rest = nnx.split(shapes, nnx.Param, ...)
    return graphdef, params, rest


def compile_programs(
    cell: Cell,
    training: Training,
    *,
    batch: tuple[int, ...],
    steps: int,
    seeds: int = 1,
    everything: bool = False,
) -> Programs:
    """Compile what is run with one network, or find what the process has compiled.

    Args:
      cell: the network.
      training: how it is trained.
      batch: shape of a batch of images.
      steps: steps of training in a call of ``train``.
      seeds: how often the programs are going to be called.
      everything: whether the heads and the insides of the units are measured as well.
    """

    def draw(key):
        return nnx.split(cell.network(nnx.Rngs(key)), nnx.Param, ...)[1:]

    key = jax.eval_shape(jax.random.key, 0)
    # Once it is drawn, a network does not tell by which initialiser.
    drawn = dataclasses.replace(cell, init="he")
    return Programs(
        _compiled_once(jax.jit(draw).lower(key)),
        *_measure_and_train(drawn, training, batch, steps, seeds, everything),
    )


@functools.lru_cache(maxsize=4)
def _measure_and_train(
    cell: Cell,
    training: Training,
    batch: tuple[int, ...],
    steps: int,
    seeds: int,
    everything: bool,
) -> tuple[Any, Any]:
    graphdef, params, rest = structure(cell)
    images = jax.ShapeDtypeStruct(batch, jnp.float32)
    labels = jax.ShapeDtypeStruct(batch[:1], jnp.int32)

    def measure(params, rest, images, labels):
        net = nnx.merge(graphdef, params, rest, copy=True)
        profile = gradflow.profile(net, images, loss=cross_entropy, targets=labels, train=True)
        return profile if everything else along_trunk(profile)

    def loss(params, rest, images, labels):
        # The moving averages that this drops are read by nothing: every batch norms itself.
        net = nnx.merge(graphdef, params, rest, copy=True)
        return cross_entropy(net(images, train=True), labels)

    def train(params, rest, images, labels):
        optimiser = training.optimiser()

        def step(carry, batch):
            params, state = carry
            gradients = jax.grad(loss)(params, rest, *batch)
            updates, state = optimiser.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimiser.init(params)), (images, labels))[0][0]

    def many(one):
        return jax.ShapeDtypeStruct((steps, *one.shape), one.dtype)

    size = math.prod(batch[:-1]) * cell.width * cell.depth * seeds
    measuring = jax.jit(measure).lower(params, rest, images, labels)
    measuring = measuring.compile(_options(2 * size))
    if not steps:
        return measuring, None
    steps_of = jax.jit(train).lower(params, rest, many(images), many(labels))
    return measuring, steps_of.compile(_options(3 * steps * size))


def _options(size: int) -> dict[str, Any]:
    """Return compiler options for a program that runs over so many activations in all."""
    # LLVM's optimisation takes about a second, and saves one for about 30 million activations.
    brief = jax.default_backend() == "cpu" and size < 3e7
    return {"xla_backend_optimization_level": 0} if brief else {}


_drawn: dict[str, Any] = {}


def _compiled_once(lowered: jax.stages.Lowered) -> Any:
    """Compile a program, or find the same: plain and residual twins draw by the same one."""
    text = lowered.as_text()
    if text not in _drawn:
        _drawn[text] = lowered.compile(_options(0))
    return _drawn[text]
