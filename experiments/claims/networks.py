"""Networks of claims: plain and residual twins, at initialization and after training."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from convjax import data, gradflow, lab, models
from convjax.lab.lesions import looked, scores

PLAIN, RESIDUAL = "plain", "residual"
SHORTCUTS = {PLAIN: "none", RESIDUAL: "identity"}
CLIP, MOMENTUM = 1.0, 0.9
# Enough for a mean over images; a lesion runs all of them once for every unit.
LOOKED_AT = 200
# At initialization there is a body alone, on noise: no border, no head, and a large batch.
INITIAL_BATCH, INITIAL_SIZE, INITIAL_WIDTH = 16, 8, 32


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Gradient descent with momentum, behind a clip; losses are taken at so many checks."""

    steps: int
    batch_size: int
    learning_rate: float
    checks: int


def halves() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return two thirds of the digits for training and one for testing, by a fixed permutation.

    The packaged split has other writers in its test images, which would widen every gap.
    """
    images, labels = data.digits()
    order = np.random.default_rng(0).permutation(len(images))
    seen, unseen = np.split(order, [2 * len(order) // 3])
    return (images[seen], labels[seen]), (images[unseen], labels[unseen])


def classifier(twin: str, norm: str, depth: int, width: int) -> lab.Classifier:
    """Return a classifier, one of a pair of twins that differ in the shortcuts alone."""
    return lab.Classifier(norm, SHORTCUTS[twin], width, "relu", "he", "dense", depth)


def at_initialization(twin: str, norm: str, init: str, depth: int, seeds: int) -> np.ndarray:
    """Return ln of the squared gradient along the body over that at its end, (seeds, places).

    A unit Gaussian cotangent comes back from the last unit; the first place is the body's input.
    """

    def one(key: jax.Array) -> jax.Array:
        weights, signal, cotangent = jax.random.split(key, 3)
        net = models.deep_stack(
            depth - 2,
            INITIAL_WIDTH,
            shortcut=SHORTCUTS[twin],
            norm=norm,
            init=init,
            convs_per_unit=lab.Classifier.convs_per_unit,
            padding="CIRCULAR",
            rngs=nnx.Rngs(weights),
        )
        x = jax.random.normal(signal, (INITIAL_BATCH, INITIAL_SIZE, INITIAL_SIZE, INITIAL_WIDTH))
        profile = gradflow.profile(net, x, cotangent=cotangent, train=True)
        first, rest = profile["input"].gradient.log_norm, profile["*"].gradient.log_norm
        return 2 * (jnp.append(first, rest) - rest[-1])

    keys = jax.random.split(jax.random.key(0), seeds)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(keys), np.float64)


CHECKED = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


def fitting(graphdef: nnx.GraphDef, recipe: Recipe) -> Callable[..., Any]:
    """Return ``fit(params, rest, order, seen, unseen) -> (params, rest, losses, checks)``.

    That is the loss of every step, and at every check what ``CHECKED`` names. It is not
    ``lab.Trainer``'s loop, which takes the same steps, as that one's loss rounds otherwise.
    """
    schedule = optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps)
    optimiser = optax.chain(optax.clip_by_global_norm(CLIP), optax.sgd(schedule, momentum=MOMENTUM))

    def loss(params, rest, images, labels):
        net = nnx.merge(graphdef, params, rest, copy=True)
        value = lab.cross_entropy(net(images, train=True), labels)
        return value, nnx.split(net, nnx.Param, ...)[2]

    def fit(params, rest, order, seen, unseen):
        def step(carry, chosen):
            params, rest, state = carry
            batch = (array[chosen] for array in seen)
            (value, rest), grads = jax.value_and_grad(loss, has_aux=True)(params, rest, *batch)
            updates, state = optimiser.update(grads, state, params)
            return (optax.apply_updates(params, updates), rest, state), value

        def interval(carry, order):
            carry, losses = jax.lax.scan(step, carry, order)
            net = nnx.merge(graphdef, *carry[:2], copy=True)
            # Both parts at once: the network is compiled once less.
            count = len(unseen[1])
            images, labels = (
                jnp.concatenate([a[:count], b]) for a, b in zip(seen, unseen, strict=True)
            )
            logits = net(images, train=False).reshape(2, count, -1)
            parts = zip(logits, labels.reshape(2, -1), strict=True)
            found = (value for part in parts for value in scores(*part))
            return carry, (losses, dict(zip(CHECKED, found, strict=True)))

        start = (params, rest, optimiser.init(params))
        (params, rest, _), (losses, checks) = jax.lax.scan(interval, start, order)
        return params, rest, losses.ravel(), checks

    return jax.jit(fit)


def trained(of: lab.Classifier, recipe: Recipe, seeds: int) -> Iterator[dict[str, np.ndarray]]:
    """Train a network seed by seed; yield curves, features and lesions by name."""
    seen, unseen = halves()
    every = lab.Seeds(of.network, *seen, batch_size=recipe.batch_size)
    fit, some = fitting(every.graphdef, recipe), [array[:LOOKED_AT] for array in seen]

    @jax.jit
    def look(params, rest, images, labels):
        return looked(nnx.merge(every.graphdef, params, rest), images, labels)

    for seed in range(seeds):
        order = every.source(seed).inputs(0, recipe.steps)["index"]
        order = order.reshape(recipe.checks, -1, recipe.batch_size)
        initial = nnx.split(every.draw(seed), nnx.Param, ...)[1:]
        *state, losses, checks = fit(*initial, order, seen, unseen)
        found = {"batch_loss": losses, **checks, **look(*state, *some)}
        yield {name: np.asarray(value, np.float64) for name, value in found.items()}
