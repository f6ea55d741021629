"""Norms of one network: at initialization, before every first step, and over training."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import data, gradflow, train
from convjax.lab import Columns, Seeds, Trainer, compiled, joined
from experiments.dynamics.networks import (
    DECAYED,
    HE,
    NORMED,
    ROLES,
    SILENT,
    TRUNK,
    TWIN,
    network,
)

INITIAL, FIRST, TRAINED, SCALED = "birth", "first", "trained", "scaled"
FACTORS = (0.5, 1.0, 2.0)
QUANTITIES = ("loss", "gradient", "update", "weight", "signal")
CLIP = 1.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured, of every network.

    Attributes:
      depth: weighted layers.
      width: channels.
      batch_size: images in a step.
      first: steps of plain gradient descent.
      seeds: networks that take them.
      learning_rate: of both phases.
      steps: of training with momentum.
      runs: networks that take those.
      watch: steps between those of which layers are kept.
      decay: weight decay of the network that has some.
    """

    depth: int
    width: int
    batch_size: int
    first: int
    seeds: int
    learning_rate: float
    steps: int
    runs: int
    watch: int
    decay: float


def measured(name: str, plan: Plan) -> Iterator[Columns]:
    """Yield the tables of one network; of the residual one with batch norm, of its decay too."""
    images, labels = data.digits("train")
    seeds = Seeds(
        lambda rngs: network(name, plan.depth, plan.width, rngs),
        images,
        labels,
        batch_size=plan.batch_size,
    )
    if name in (HE, *SILENT):
        for seed, trunk in enumerate(initial(seeds, images, plan)):
            yield filled(trunk, network=name, phase=INITIAL, seed=seed, factor=1.0)
    trainer = seeds.trainer(first_steps(name, plan))
    for seed in range(plan.seeds):
        found = rows(trainer.fit(seeds.draw(seed), seed)[1])
        yield filled(found, network=name, phase=FIRST, seed=seed, factor=1.0)
    for label in (name, DECAYED) if name == TWIN else (name,):
        trainer = seeds.trainer(training(label, plan))
        for seed in range(plan.runs):
            yield from trained(seeds, trainer, label, seed)


def first_steps(name: str, plan: Plan) -> train.Recipe:
    """Return plain gradient descent, watched at every step; one more, for the last one's norms."""
    return train.Recipe(
        steps=plan.first + 1,
        options={},
        learning_rate=plan.learning_rate,
        schedule="constant",
        weight_decay=0.0,
        clip=None if name in NORMED else CLIP,
        watch=1,
        dispatch=plan.first + 1,
    )


def training(label: str, plan: Plan) -> train.Recipe:
    """Return gradient descent with momentum, at a rate that falls to zero."""
    return train.Recipe(
        steps=plan.steps,
        options={"momentum": 0.9},
        learning_rate=plan.learning_rate,
        weight_decay=plan.decay if label == DECAYED else 0.0,
        clip=None if label in (*NORMED, DECAYED) else CLIP,
        watch=plan.watch,
        dispatch=min(20, plan.steps),
    )


def trained(seeds: Seeds, trainer: Trainer, label: str, seed: int) -> Iterator[Columns]:
    """Yield the table of a training; behind norms, those of steps with other lengths of weights."""
    net, metrics = trainer.fit(seeds.draw(seed), seed)
    same: dict[str, Any] = {"network": label, "seed": seed}
    yield filled(rows(metrics, every=trainer.recipe.watch), phase=TRAINED, factor=1.0, **same)
    for factor in FACTORS if label in (*NORMED, DECAYED) else ():
        found = rows(trainer.fit(scaled(net, factor), seed, steps=1)[1])
        yield filled(found, phase=SCALED, factor=factor, **same)


def scaled(net: Any, factor: float) -> Any:
    """Return the network with the first convolution of every unit multiplied: a norm follows it."""
    net = nnx.clone(net)
    kernel = net["body"].unit.branch["conv1"].kernel
    kernel[...] = kernel[...] * jnp.asarray(factor, kernel[...].dtype)
    return net


def initial(seeds: Seeds, images: np.ndarray, plan: Plan) -> Iterator[Columns]:
    """Yield the trunk of every seed, initially: the norm of an injected cotangent at every unit."""

    def trunk(state, batch, inject):
        net = nnx.merge(seeds.graphdef, state)
        seen = gradflow.profile(net["body"], net["stem"](batch), cotangent=inject, train=True)
        logs = [seen["input"].gradient.log_norm[None], seen["*"].gradient.log_norm]
        return jnp.concatenate(logs)

    look: Any = None
    for seed in range(plan.seeds):
        order = data.batch_indices(len(images), plan.batch_size, seed=seed, step=0)
        given = (
            nnx.state(seeds.draw(seed)),
            images[order],
            jax.random.fold_in(jax.random.key(seed), 1),
        )
        look = look or compiled(trunk, *given)
        logs = np.asarray(look(*given), np.float64)
        found = _table(TRUNK, np.arange(len(logs)), np.zeros(len(logs), int))
        yield found | {"gradient_log_norm": logs}


def rows(metrics: Any, *, every: int = 1) -> Columns:
    """Return what was watched, a row for each step, and parameter or place in the trunk."""
    kept = np.arange(0, len(metrics["loss"]), every)
    layers = metrics["layers"]
    tables = []
    for role, path in ROLES.items():
        if path in layers["gradient"]:
            kinds = {kind: layers[kind][path] for kind in ("gradient", "update", "weight")}
            tables.append(_rows(role, path, kinds, kept))
    tables.append(_rows(TRUNK, "stem", {"signal": layers["signal"]["stem"]}, kept))
    tables.append(_rows(TRUNK, "body/*", {"signal": layers["signal"]["body/*"]}, kept, start=1))
    found = joined(tables)
    return found | {"loss": metrics["loss"][found["step"]].astype(np.float64)}


def _rows(
    role: str, path: str, kinds: dict[str, np.ndarray], kept: np.ndarray, start: int = 0
) -> Columns:
    shape = (len(kept), -1)
    values = {kind: found[kept].reshape(shape).astype(np.float64) for kind, found in kinds.items()}
    step, position = np.indices(next(iter(values.values())).shape)
    made = _table(role, position.ravel() + start, kept[step.ravel()], path)
    return made | {kind: found.ravel() for kind, found in values.items()}


def _table(role: str, position: np.ndarray, step: np.ndarray, path: str = "") -> Columns:
    size = len(position)
    first = position.min() if size else 0
    names = [path.replace("*", str(place - first)) for place in position.tolist()]
    text = {"role": np.full(size, role), "path": np.array(names, str)}
    empty = {name: np.full(size, np.nan) for name in (*QUANTITIES, "gradient_log_norm")}
    return {**text, "position": position, "step": step, **empty}


def filled(table: Columns, **same: Any) -> Columns:
    """Return a table with further columns, each of one value."""
    return {name: np.full(len(table["step"]), value) for name, value in same.items()} | table
