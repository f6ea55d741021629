"""Why depth needs shortcuts: deeper plain networks train worse, and lean on every single layer.

    python -m experiments degradation

Figure 6 of He et al. 2015 at the size of handwritten digits: networks of 20 and of 56 layers with
batch norm, in three stages, and their plain twins, which have the same parameters, initial values
and batches, and one term less. It is the *training* loss that decides: where it is the deeper
network's that is higher, overfitting is not the cause. Losses are those of the batches, compared at
equal steps: at the end, the mean over the last tenth of them; and over all steps, the area under
the curve. Pass, medians over the seeds: 56 plain layers end above 20, and 56 residual ones do not,
but for 0.01 nats (the digits are easy: both end near zero); by area too, depth costs the plain
network more. Of more than two depths the shallowest and the deepest are compared and drawn; the
table has them all.

Then the trained networks are looked into. Lesions, as Veit et al. 2016: a unit, or a single layer,
is replaced by the identity (at a transition, where the image is halved, subsampled and padded with
zero channels), and nothing is trained again. Pass: without any one layer a plain network is near
chance; without one block that keeps the shape a residual one makes few errors more, and fewer than
without one that changes it. Features: behind every unit, against what entered the first one,
number by number and by centred kernel alignment (Kornblith et al. 2019). Pass: by either, and at
either depth, residual networks keep more, in the mean over depth.

It is the signs that can be expected of digits, not the values of CIFAR. ``--data fashion-mnist
--steps 600`` asks the same of 60,000 pictures of 28x28, in less than one epoch of them; there a
network counts as trained at an accuracy of 0.8.

Takes about three minutes of processor time, and more than ten times as long with Fashion-MNIST. For
a look at it in less than one: ``--depths 8 14 --width 4 --steps 60 --seeds 1``.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from convjax import lab
from experiments.degradation.criteria import judge as judge
from experiments.degradation.figure import draw as draw
from experiments.degradation.figure import table as table
from experiments.degradation.networks import DIGITS, TWINS, Cell, Settings, sets, trained


@dataclasses.dataclass(frozen=True)
class Config(lab.Options, Settings):
    """Options."""

    depths: tuple[int, ...] = (20, 56)
    """Weighted layers, 6n + 2, rising; the first and the last are compared."""


def cells(config: Config) -> list[Cell]:
    """Return what is trained, the deepest first: no processor is left with the longest.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    return [
        lab.cell_of(Cell, config, twin=twin, depth=depth)
        for depth in reversed(config.depths)
        for twin in TWINS
    ]


def check(config: Config) -> None:
    """Refuse what cannot be run, before anything is."""
    for depth in config.depths:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(
                f"depths={list(config.depths)}: {depth} is not 6n + 2, such as 8, 14, 20, 32, 56"
            )
    if len(config.depths) < 2 or sorted(set(config.depths)) != list(config.depths):
        raise ValueError(f"depths={list(config.depths)} must be two or more, and must rise")
    lab.check_least(config, width=1, seeds=1, steps=1, batch_size=2, lesions=2)
    lab.check_positive(config, "learning_rate")
    if config.path is not None and config.data == DIGITS:
        raise ValueError("path: the digits come with scikit-learn; leave it out, or say what data")
    images = len(sets(config)[0][0])
    for option in ("batch_size", "lesions"):
        if (value := getattr(config, option)) > images:
            raise ValueError(f"{option}={value} must be at most {images}, the images of training")


def measure(cell: Cell) -> lab.Columns:
    """Train networks of one kind and return a row for each number.

    ``quantity`` says what it is: "batch_loss", with the step as ``number``; "without_…" and
    "without_layer_…", with the unit or layer that is taken out; "correlation", "cka", "branch",
    with the unit; "whole_…" and "test_accuracy".
    """
    return table_of(cell, trained(cell))


def table_of(cell: Cell, found: Sequence[dict[str, np.ndarray]]) -> lab.Columns:
    """Return the rows of what was found, seed by seed."""
    tables = (
        lab.beside(
            {"value": values, "number": np.arange(len(values))}, seed=seed, quantity=quantity
        )
        for seed, quantities in enumerate(found)
        for quantity, values in quantities.items()
    )
    same = {"data": cell.data, "twin": cell.twin, "depth": cell.depth}
    return lab.beside(lab.joined(list(tables)), **same)
