"""What dynamics measures of one network: at birth, before every first step, and over training."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import data, gradflow, train
from convjax.lab import Columns, Seeds, Trainer, compiled
from experiments._dynamics_networks import (
    DECAYED,
    HE,
    NORMED,
    ROLES,
    SILENT,
    TRUNK,
    TWIN,
    network,
)

BIRTH, FIRST, TRAINED, SCALED = "birth", "first", "trained", "scaled"
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
        for seed, trunk in enumerate(born(seeds, images, plan)):
            yield {"network": np.full(len(trunk["step"]), name)} | _of(BIRTH, seed, trunk)
    trainer = seeds.trainer(first_steps(name, plan))
    for seed in range(plan.seeds):
        found = rows(trainer.fit(seeds.draw(seed), seed)[1])
        yield {"network": np.full(len(found["step"]), name)} | _of(FIRST, seed, found)
    for label in (name, DECAYED) if name == TWIN else (name,):
        trainer = seeds.trainer(training(label, plan))
        for seed in range(plan.runs):
            for one in _trained(seeds, trainer, label, seed):
                yield {"network": np.full(len(one["step"]), label)} | one


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


def _trained(seeds: Seeds, trainer: Trainer, label: str, seed: int) -> Iterator[Columns]:
    net, metrics = trainer.fit(seeds.draw(seed), seed)
    yield _of(TRAINED, seed, rows(metrics, every=trainer.recipe.watch))
    if label not in (*NORMED, DECAYED):
        return
    for factor in FACTORS:
        found = rows(trainer.fit(scaled(net, factor), seed, steps=1)[1])
        yield _of(SCALED, seed, found) | {"factor": np.full(len(found["step"]), factor)}


def scaled(net: Any, factor: float) -> Any:
    """Return the network with the first convolution of every unit multiplied: a norm follows it."""
    net = nnx.clone(net)
    kernel = net["body"].unit.branch["conv1"].kernel
    kernel[...] = kernel[...] * jnp.asarray(factor, kernel[...].dtype)
    return net


def born(seeds: Seeds, images: np.ndarray, plan: Plan) -> Iterator[Columns]:
    """Yield the trunk of every seed at birth: the norm of an injected cotangent at every unit."""

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
    joined = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    joined["loss"] = metrics["loss"][joined["step"]].astype(np.float64)
    return joined


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


def _of(phase: str, seed: int, table: Columns) -> Columns:
    size = len(table["step"])
    same = {"phase": np.full(size, phase), "seed": np.full(size, seed), "factor": np.ones(size)}
    return same | table
