"""Plain and residual twins of several depths, trained, then looked into."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
from flax import nnx

from convjax import data, lab, models, train
from convjax.lab import lesions

STAGES = 3
PLAIN, RESIDUAL = "plain", "residual"
TWINS = {PLAIN: "none", RESIDUAL: "identity"}
DIGITS, FASHION = "digits", "fashion-mnist"
TITLES = {DIGITS: "the digits", FASHION: "Fashion-MNIST"}
Pair = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all networks take."""

    data: Literal["digits", "fashion-mnist"] = DIGITS
    """What they learn: handwritten digits of 8x8, or Fashion-MNIST, of 28x28."""
    path: Path | None = None
    """Folder of Fashion-MNIST's four files; without it, where the package dataset-fashion-mnist of
    Debian and Ubuntu puts them."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell(Settings):
    """Networks of one kind, all by the same programs."""

    twin: str
    depth: int

    def __str__(self) -> str:
        return f"{self.twin}, {self.depth} layers"

    def network(self, rngs: nnx.Rngs) -> models.Network:
        """Return He's network for small images, or its plain twin: the same parameters."""
        return models.resnet_cifar(
            self.depth, width=self.width, in_features=1, shortcut=TWINS[self.twin], rngs=rngs
        )


def transitions(units: int) -> list[int]:
    """Return which units change the shape: the first of every stage but the first."""
    return [stage * units // STAGES for stage in range(1, STAGES)]


def sets(settings: Settings) -> tuple[Pair, Pair]:
    """Return what is learned and what is tested on, standardised.

    Raises:
      ValueError: Fashion-MNIST is not there.
    """
    if settings.data == DIGITS:
        return data.digits("train"), data.digits("test")
    train, test = (data.fashion_mnist(settings.path, split) for split in ("train", "test"))
    mean, std = (np.asarray(of, np.float32) for of in data.moments(train[0]))

    def standardised(images: np.ndarray, labels: np.ndarray) -> Pair:
        return (images / np.float32(255) - mean) / std, labels

    return standardised(*train), standardised(*test)


def trained(cell: Cell) -> list[dict[str, np.ndarray]]:
    """Train seed by seed; return the losses of all steps, features and lesions by name."""
    (images, labels), unseen = sets(cell)
    seen = images[: cell.lesions], labels[: cell.lesions]
    seeds = lab.Seeds(cell.network, images, labels, batch_size=cell.batch_size)
    trainer = seeds.trainer(
        train.Recipe(
            steps=cell.steps, learning_rate=cell.learning_rate, dispatch=min(20, cell.steps)
        )
    )

    def look(net, seen, unseen):
        found = lesions.looked(net, *seen, layers=True)
        accuracy = lesions.scores(net(unseen[0], train=False), unseen[1])[1]
        return found | {"test_accuracy": accuracy[None]}

    look = seeds.program(look, seen, unseen, level=None)
    results = []
    for seed in range(cell.seeds):
        net, metrics = trainer.fit(seeds.draw(seed), seed)
        found = {"batch_loss": metrics["loss"], **look(net, seen, unseen)}
        results.append({name: np.asarray(value, np.float64) for name, value in found.items()})
    return results
