"""Why depth needs shortcuts: deeper plain networks train worse, and lean on every single layer.

    python -m experiments degradation

Figure 6 of He et al. 2015 at the size of handwritten digits: networks of 20 and of 56 layers with
batch norm, in three stages, and their plain twins, which have the same parameters, initial values
and batches, and one term less. It is the *training* loss that decides: where it is the deeper
network's that is higher, overfitting is not the cause. Losses are those of the batches, compared at
equal steps: at the end, the mean over the last tenth of them; and over all steps, the area under
the curve. Pass, medians over the seeds: 56 plain layers end above 20, and 56 residual ones do not,
but for 0.01 nats (the digits are easy: both end near zero); by area too, depth costs the plain
network more. Of more than two depths it is the shallowest and the deepest that are compared and
drawn; the table has them all.

Then the trained networks are looked into. Lesions, as Veit et al. 2016: a unit, or a single layer,
is replaced by the identity (at a transition, where the image is halved, subsampled and padded with
zero channels), and nothing is trained again. Pass: without any one layer a plain network is near
chance; without one block that keeps the shape a residual one makes few errors more, and fewer than
without one that changes it. Features: behind every unit, against what entered the first one,
number by number and by centred kernel alignment (Kornblith et al. 2019). Pass: by either, and at
either depth, residual networks keep more, in the mean over depth.

It is the signs that can be expected of digits, not the values of CIFAR.

Takes about three minutes of processor time. For a look at it in less than one:
``--depths 8 14 --width 4 --steps 60 --seeds 1``.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from convjax import data, lab, train
from convjax.lab import Columns, stack
from experiments.degradation.criteria import judge as judge
from experiments.degradation.figure import draw as draw
from experiments.degradation.figure import table as table
from experiments.degradation.networks import TWINS, trained


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options."""

    depths: tuple[int, ...] = (20, 56)
    """Weighted layers, 6n + 2, rising; the first and the last are compared."""
    width: int = 8
    """Channels of the first stage; they double with every stage."""
    seeds: int = 3
    """Networks of each kind."""
    steps: int = 300
    """Of training."""
    batch_size: int = 64
    """Images in a step."""
    learning_rate: float = 0.05
    """Of the first step; it falls to zero as a cosine. Momentum 0.9, weight decay 1e-4."""
    lesions: int = 200
    """Images of training on which the trained networks are looked into."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """Networks of one kind, all by the same programs; see ``Config``."""

    twin: str
    depth: int
    width: int
    seeds: int
    steps: int
    batch_size: int
    learning_rate: float
    lesions: int

    def __str__(self) -> str:
        return f"{self.twin}, {self.depth} layers"


def cells(config: Config) -> list[Cell]:
    """Return what is trained, the deepest first: no processor is left with the longest.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    given: dict[str, Any] = {
        field.name: getattr(config, field.name, None) for field in dataclasses.fields(Cell)
    }
    return [
        Cell(**given | {"twin": twin, "depth": depth})
        for depth in reversed(config.depths)
        for twin in TWINS
    ]


def measure(cell: Cell) -> Columns:
    """Train networks of one kind and return a row for each number.

    ``quantity`` says what it is: "batch_loss", with the step as ``number``; "without_…" and
    "without_layer_…", with the unit or layer that is taken out; "correlation", "cka", "branch",
    with the unit; "whole_…" and "test_accuracy".
    """
    recipe = train.Recipe(
        steps=cell.steps, learning_rate=cell.learning_rate, dispatch=min(20, cell.steps)
    )
    found = trained(
        cell.twin,
        cell.depth,
        cell.width,
        recipe,
        batch_size=cell.batch_size,
        seeds=cell.seeds,
        lesions=cell.lesions,
    )
    return stack(list(rows(cell, found)))


def rows(cell: Cell, found: Sequence[dict[str, np.ndarray]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each number that was found, seed by seed."""
    for seed, quantities in enumerate(found):
        for quantity, values in quantities.items():
            same = {"twin": cell.twin, "depth": cell.depth, "seed": seed, "quantity": quantity}
            for number, value in enumerate(values.tolist()):
                yield same | {"number": number, "value": value}


def check(config: Config) -> None:
    """Refuse what cannot be run, before anything is."""
    for depth in config.depths:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(
                f"depths={list(config.depths)}: {depth} is not 6n + 2, such as 8, 14, 20, 32, 56"
            )
    if len(config.depths) < 2 or sorted(set(config.depths)) != list(config.depths):
        raise ValueError(f"depths={list(config.depths)} must be two or more, and must rise")
    images = len(data.digits("train")[0])
    ranges = {
        "width": (1, None),
        "seeds": (1, None),
        "steps": (1, None),
        "batch_size": (2, images),
        "lesions": (2, images),
    }
    for option, (low, high) in ranges.items():
        value = getattr(config, option)
        if value < low or (high is not None and value > high):
            most = "" if high is None else f" and at most {high}, the images of training"
            raise ValueError(f"{option}={value} must be at least {low}{most}")
    if not config.learning_rate > 0:
        raise ValueError(f"learning_rate={config.learning_rate} must be positive")
