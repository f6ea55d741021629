"""How the gradient fades or explodes across depth, in plain and residual networks.

    python -m experiments gradient-norms

Handwritten digits go through networks of several depths with and without shortcuts, without norm
and with batch norm; the norm of the loss's gradient is measured at the output of every unit, at
birth and after a few steps of training. Prints a table; writes every number to
``gradient_norms.parquet`` and one figure to ``gradient_norms.png`` and ``.svg``.

Pass, in the deepest networks: at birth the gradient of plain ones fades, that of residual ones
without norm and of plain ones with batch norm explodes, all three as exponentials rather than power
laws, for most seeds; with shortcuts and batch norm it grows as a power law, and by less than with
either alone; and ten steps of training take growth from residual networks without norm. Judged are
ReLU networks of He's initialisation and dense convolutions, from 40 layers and 8 channels: narrower
or shallower ones scatter too much to tell one law from the other. No tolerance is needed: what is
told apart differs by a sign, by the better of two fits or, at 110 layers, by orders of magnitude.

Takes about a minute of processor time, more than half of it compilation. For a look at it in a few
seconds: ``--depths 8 --seeds 1 --steps 1``, too shallow to be judged.
"""

import dataclasses
import itertools
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from rich.table import Table

from convjax import data, lab, plots
from convjax.lab import Columns, joined
from experiments._classifier import (
    CONVS_PER_UNIT,
    Cell,
    Programs,
    Training,
    compile_programs,
    structure,
)
from experiments._growth_judged import judge as judge
from experiments._growth_table import summaries, to_table

AXES = tuple(field.name for field in dataclasses.fields(Cell))


draw = plots.gradient_norms


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options; those that take several values span a grid."""

    depths: tuple[int, ...] = (8, 20, 56, 110)
    """Weighted layers: a stem, pairs of 3x3 convolutions, a dense head; so even numbers from 6."""
    widths: tuple[int, ...] = (8,)
    """Channels."""
    norms: tuple[str, ...] = ("none", "batch")
    """Norms: none, batch, group, layer."""
    shortcuts: tuple[str, ...] = ("none", "identity")
    """Shortcuts: none (the plain network), identity (the residual one), scaled, gated."""
    activations: tuple[str, ...] = ("relu",)
    """Activations: relu, tanh, gelu, and others that convjax.nn.ACTIVATIONS names."""
    inits: tuple[str, ...] = ("he",)
    """Initialisers of the kernels: he, lecun, glorot, and others of convjax.nn.initializers."""
    convs: tuple[Literal["dense", "separable"], ...] = ("dense",)
    """Convolutions of the stack."""
    seeds: int = 3
    """How many: 0, 1, …; each draws initial values and an order of the data of its own."""
    steps: int = 10
    """Steps of training between the first measurement and the second; 0 leaves that one out."""
    data: Literal["digits", "gaussian"] = "digits"
    """Handwritten digits of 8x8 pixels, or noise of that shape with random labels."""
    batch_size: int = 32
    """Images in a batch, in measuring and in training."""
    learning_rate: float = 0.1
    """Of stochastic gradient descent."""
    momentum: float = 0.9
    """Of the same."""
    clip: float = 1.0
    """Largest norm of the gradient of all parameters in a step of training."""
    everything: bool = False
    """Measure inside the units and in the head too, and parameters; takes about twice as long."""
    out: Path = Path("results/gradient-norms")
    """Folder for the table and the figure; it is made if it is not there."""


@dataclasses.dataclass(frozen=True)
class Networks:
    """Networks of one kind, what they see and how they are trained: a cell of the study.

    Attributes:
      kind: the network.
      training: how it is trained.
      seeds: how many: 0, 1, …
      steps: of training.
      data: "digits" or "gaussian".
      batch_size: images in a batch.
      everything: whether the heads and the insides of the units are measured as well.
    """

    kind: Cell
    training: Training
    seeds: int
    steps: int
    data: str
    batch_size: int
    everything: bool

    def __str__(self) -> str:
        kind = self.kind
        usual = {"activation": "relu", "init": "he", "conv": "dense"}
        more = [f"{k}={getattr(kind, k)}" for k, v in usual.items() if getattr(kind, k) != v]
        named = [f"{k}={getattr(kind, k)}" for k in ("norm", "shortcut", "width", "depth")]
        return " ".join(named + more)

    def examples(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all images, and their labels."""
        return {"digits": data.digits, "gaussian": data.gaussian}[self.data]()

    def batches(self, seed: int, count: int) -> np.ndarray:
        """Return the indices of the batch to measure on, and of those to train on."""
        size, steps = self.batch_size, range(self.steps + 1)
        return np.stack([data.batch_indices(count, size, seed=seed, step=step) for step in steps])


def cells(config: Config) -> list[Networks]:
    """Return every kind of network of the grid.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    values = itertools.product(*(getattr(config, f"{axis}s") for axis in AXES))
    training = Training(config.learning_rate, config.momentum, config.clip)
    same = (config.seeds, config.steps, config.data, config.batch_size, config.everything)
    found = [Networks(Cell(*one), training, *same) for one in values]
    for one in found:
        structure(one.kind)
    found[0].batches(0, len(found[0].examples()[0]))
    return found


def check(config: Config) -> None:
    """Refuse what cannot be done."""
    for axis in AXES:
        name, value = f"{axis}s", getattr(config, f"{axis}s")
        if not value:
            raise ValueError(f"{name} is empty; give at least one value.")
        if len(set(value)) < len(value):
            raise ValueError(f"{name} = {list(value)} names one value twice.")
    for option, least in (("seeds", 1), ("steps", 0), ("batch_size", 1), ("momentum", 0)):
        if getattr(config, option) < least:
            raise ValueError(
                f"{option} = {getattr(config, option)} is too small; it must be at least {least}."
            )
    for option in ("learning_rate", "clip"):
        if not getattr(config, option) > 0:
            raise ValueError(f"{option} = {getattr(config, option)} must be positive.")
    if min(config.widths) < 1:
        raise ValueError(f"widths = {list(config.widths)} must be at least 1.")
    for depth in config.depths:
        _check_depth(depth)


def _check_depth(depth: int) -> None:
    # Two positions on the trunk make a line that says nothing: the least stack has two units.
    least = 2 + 2 * CONVS_PER_UNIT
    if depth >= least and (depth - 2) % CONVS_PER_UNIT == 0:
        return
    below = max(least, 2 + (depth - 2) // CONVS_PER_UNIT * CONVS_PER_UNIT)
    near = f"{below} or {below + CONVS_PER_UNIT}" if depth > least else f"{least}"
    raise ValueError(
        f"depth {depth} cannot be built: a stem, units of {CONVS_PER_UNIT} convolutions (at least "
        f"two units) and a dense head make {least}, {least + CONVS_PER_UNIT}, "
        f"{least + 2 * CONVS_PER_UNIT}, …; the nearest would be {near}."
    )


def group(networks: Networks) -> Hashable:
    """Return the same for networks that one process measures by the same programs."""
    return dataclasses.replace(networks, kind=dataclasses.replace(networks.kind, init=""))


def measure(networks: Networks) -> Columns:
    """Return the gradient at every place of every seed's network, at birth and after training."""
    images, labels = networks.examples()
    programs = compile_programs(
        networks.kind,
        networks.training,
        batch=(networks.batch_size, *images.shape[1:]),
        steps=networks.steps,
        seeds=networks.seeds,
        everything=networks.everything,
    )
    tables = []
    for seed in range(networks.seeds):
        order = networks.batches(seed, len(images))
        tables += measured(networks, programs, seed, images[order], labels[order])
    return joined(tables)


def measured(
    networks: Networks, programs: Programs, seed: int, images: np.ndarray, labels: np.ndarray
) -> Iterator[Columns]:
    """Yield one seed's tables, at birth and after training.

    The first batch is measured on, the others are trained on: both measurements see one batch,
    which no step has seen.
    """
    params, rest = programs.draw(jax.random.key(seed))
    for step in sorted({0, networks.steps}):
        if step and programs.train is not None:
            params = programs.train(params, rest, images[1:], labels[1:])
        profile = programs.measure(params, rest, images[0], labels[0])
        try:
            failure = ""
            profile.check()
        except ValueError as error:
            failure = str(error)
        table = profile.table()
        constants = {
            **dataclasses.asdict(networks.kind),
            "seed": seed,
            "step": step,
            "data": networks.data,
            "batch_size": networks.batch_size,
            **dataclasses.asdict(networks.training),
            "loss": float(profile.loss),
            "failure": failure,
        }
        rows = len(table["path"])
        filled = {name: np.full(rows, value) for name, value in constants.items()}
        positions = _positions(table["path"], networks.kind.units)
        yield {**filled, "position": positions, **table}


def _positions(paths: np.ndarray, units: int) -> np.ndarray:
    """Number the places of the trunk: the stem's output 0, then the units'; all else is -1."""
    trunk = {"stem": 0} | {f"body/{i}": i + 1 for i in range(units)}
    return np.array([trunk.get(path, -1) for path in paths.tolist()])


def table(columns: Columns) -> Table:
    """Return the growth of every network's gradient, at birth and after training."""
    varied = [axis for axis in AXES if len(set(columns[axis].tolist())) > 1]
    by = [axis for axis in AXES if axis in {"norm", "shortcut", "depth", *varied}] + ["step"]
    return to_table(summaries(columns, by, layers_per_unit=CONVS_PER_UNIT), by)
