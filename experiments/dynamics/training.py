"""Norms of one network: at initialization, before every first step, and over training."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import data, gradflow, lab, nn, train
from convjax.lab import Columns
from experiments.dynamics import networks
from experiments.dynamics.networks import DECAYED, NORMED, ROLES, TRUNK

INITIAL, FIRST, TRAINED, SCALED = "birth", "first", "trained", "scaled"
FACTORS = (0.5, 1.0, 2.0)
WATCHED = ("gradient", "update", "weight")
QUANTITIES = (*WATCHED, "loss", "signal", "gradient_log_norm")
CLIP = 1.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is measured, of every network."""

    width: int = 16
    """Channels."""
    batch_size: int = 32
    """Images in a batch; each step has a batch of its own."""
    first: int = 10
    """First steps, of gradient descent without momentum, at least 2."""
    learning_rate: float = 0.1
    """Of the first steps, and of the first one of training."""
    seeds: int = 5
    """How many take the first steps; each has initial values and an order of data of its own."""
    steps: int = 150
    """Steps of training with momentum, from the initial values."""
    runs: int = 3
    """How many train: the first of the seeds."""
    watch: int = 5
    """Steps of training between those of which layers are kept."""
    decay: float = 0.01
    """Weight decay of the residual network with batch norm that is trained a second time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell(Settings):
    """Networks of one kind and depth."""

    network: str
    depth: int

    def __str__(self) -> str:
        return f"{self.network}, {self.depth} layers"

    def make(self, rngs: nnx.Rngs) -> nn.Chain:
        """Return the network."""
        return networks.network(self.network, self.depth, self.width, rngs)


def measured(cell: Cell) -> Iterator[Columns]:
    """Yield the tables of one network; of the residual one with batch norm, of its decay too."""
    seeds = lab.Seeds(cell.make, *data.digits("train"), batch_size=cell.batch_size)
    if cell.network in (networks.HE, *networks.SILENT):
        yield from initial(seeds, cell)
    trainer = seeds.trainer(first_steps(cell))
    for seed in range(cell.seeds):
        found = trainer.fit(seeds.draw(seed), seed)[1]
        yield rows(found, network=cell.network, phase=FIRST, seed=seed)
    for label in (cell.network, DECAYED) if cell.network == networks.TWIN else (cell.network,):
        trainer = seeds.trainer(training(label, cell))
        for seed in range(cell.runs):
            net, found = trainer.fit(seeds.draw(seed), seed)
            yield rows(found, every=cell.watch, network=label, phase=TRAINED, seed=seed)
            for factor in FACTORS if label in NORMED else ():
                found = trainer.fit(scaled(net, factor), seed, steps=1)[1]
                yield rows(found, network=label, phase=SCALED, seed=seed, factor=factor)


def first_steps(cell: Cell) -> train.Recipe:
    """Return plain gradient descent, watched at every step; one more, for the last one's norms."""
    how = {"schedule": "constant", "watch": 1, "dispatch": cell.first + 1}
    return _recipe(cell, cell.network, steps=cell.first + 1, options={}, **how)


def training(label: str, cell: Cell) -> train.Recipe:
    """Return gradient descent with momentum, at a rate that falls to zero."""
    how = {"watch": cell.watch, "dispatch": min(20, cell.steps)}
    return _recipe(cell, label, steps=cell.steps, options={"momentum": 0.9}, **how)


def _recipe(cell: Cell, label: str, **how: Any) -> train.Recipe:
    decay, clip = cell.decay if label == DECAYED else 0.0, None if label in NORMED else CLIP
    return train.Recipe(learning_rate=cell.learning_rate, weight_decay=decay, clip=clip, **how)


def scaled(net: Any, factor: float) -> Any:
    """Return the network with the first convolution of every unit multiplied: a norm follows it."""
    net = nnx.clone(net)
    kernel = net["body"].unit.branch["conv1"].kernel
    kernel[...] = kernel[...] * jnp.asarray(factor, kernel[...].dtype)
    return net


def initial(seeds: lab.Seeds, cell: Cell) -> Iterator[Columns]:
    """Yield the trunk of every seed, initially: the norm of an injected cotangent at every unit."""

    def trunk(net, images, inject):
        seen = gradflow.profile(net["body"], net["stem"](images), cotangent=inject, train=True)
        logs = [seen["input"].gradient.log_norm[None], seen["*"].gradient.log_norm]
        return jnp.concatenate(logs)

    look = seeds.program(trunk, seeds.batch(0)[0], jax.random.key(0))
    for seed in range(cell.seeds):
        key = jax.random.fold_in(jax.random.key(seed), 1)
        logs = look(seeds.draw(seed), seeds.batch(seed)[0], key)
        found = _table(TRUNK, "", np.arange(1), {"gradient_log_norm": logs})
        yield lab.beside(found, network=cell.network, phase=INITIAL, seed=seed, factor=1.0)


def rows(metrics: Any, *, every: int = 1, factor: float = 1.0, **same: Any) -> Columns:
    """Return what was watched, a row for each step kept, and parameter or place in the trunk."""
    kept = np.arange(0, len(metrics["loss"]), every)
    layers = metrics["layers"]
    tables = [
        _table(role, path, kept, {kind: layers[kind][path][kept] for kind in WATCHED})
        for role, path in ROLES.items()
        if path in layers["gradient"]
    ]
    for start, path in enumerate(("stem", "body/*")):
        tables.append(_table(TRUNK, path, kept, {"signal": layers["signal"][path][kept]}, start))
    found = lab.beside(lab.joined(tables), factor=factor, **same)
    return found | {"loss": metrics["loss"][found["step"]].astype(np.float64)}


def _table(
    role: str, path: str, steps: np.ndarray, values: dict[str, Any], start: int = 0
) -> Columns:
    """Return a row for each step and place; ``position`` counts places from ``start``."""
    shape = (len(steps), -1)
    values = {k: np.asarray(found, np.float64).reshape(shape) for k, found in values.items()}
    step, place = (index.ravel() for index in np.indices(next(iter(values.values())).shape))
    names = np.array([path.replace("*", str(i)) for i in place.tolist()])
    table = lab.beside({"step": steps[step], "position": place + start, "path": names}, role=role)
    table |= lab.beside(table, **dict.fromkeys(QUANTITIES, np.nan))
    return table | {kind: found.ravel() for kind, found in values.items()}
