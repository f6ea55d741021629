"""What claims measures, cell by cell: parts of separable, networks untrained and trained."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from convjax import lab
from experiments.claims.networks import CHECKED, Recipe, at_initialization, classifier, trained
from experiments.separable.parts import Counts, Exact, Times, Training

Row = dict[str, Any]
KINDS = {"batch_loss": "step"} | dict.fromkeys(CHECKED, "curve")


def row(kind: str, name: str, quantity: str, value: float, **where: Any) -> Row:
    """Return one row; what does not apply to it is 0 or empty."""
    axes = dict.fromkeys(("size", "channels", "kernel_size", "depth", "number", "seed"), 0)
    texts = {"norm": "", "verdict": ""}
    same = {"kind": kind, "name": name, "quantity": quantity, "value": float(value)}
    return same | axes | texts | where


@dataclasses.dataclass(frozen=True)
class Convolutions:
    """A part of separable."""

    part: Counts | Exact | Times | Training

    def __str__(self) -> str:
        return f"convolutions: {self.part}"

    def rows(self) -> Iterator[Row]:
        """Yield the part's rows."""
        for found in self.part.rows():
            yield row(found.pop("topic"), **found)


@dataclasses.dataclass(frozen=True)
class Initial:
    """Deep stacks at initialization, by an initializer."""

    twin: str
    norm: str
    depth: int
    init: str
    seeds: int

    def __str__(self) -> str:
        return f"{self.twin}, norm {self.norm}, {self.depth} layers, at initialization, {self.init}"

    def rows(self) -> Iterator[Row]:
        """Yield ln of the squared gradient at every place, over that at the end."""
        logs = at_initialization(self.twin, self.norm, self.init, self.depth, self.seeds)
        yield from _rows("birth", self, self.init, logs)


@dataclasses.dataclass(frozen=True)
class Taught:
    """Classifiers that are trained, then looked into."""

    twin: str
    norm: str
    depth: int
    width: int
    recipe: Recipe
    seeds: int

    def __str__(self) -> str:
        return f"{self.twin}, norm {self.norm}, {self.depth} layers, trained"

    def rows(self) -> Iterator[Row]:
        """Yield curves, features and lesions."""
        kind = classifier(self.twin, self.norm, self.depth, self.width)
        every = lab.stack(list(trained(kind, self.recipe, self.seeds)))
        for name, values in every.items():
            yield from _rows(KINDS.get(name, "looked"), self, name, values)


def _rows(kind: str, of: Initial | Taught, quantity: str, values: np.ndarray) -> Iterator[Row]:
    where = {"norm": of.norm, "depth": of.depth}
    for (seed, number), value in np.ndenumerate(values):
        yield row(kind, of.twin, quantity, value, seed=seed, number=number, **where)
