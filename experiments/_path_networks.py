"""The networks of path-lengths, and along which paths their gradients came."""

import dataclasses
import math

import numpy as np
from flax import nnx

from convjax import gradflow, models
from convjax.lab import Columns, by_kind

SCALE, BIAS = 0.5, -2.0
CARRY = 1 / (1 + math.exp(BIAS))
# The share of the first units whose growth is left out.
LEFT_OUT = 3


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of network.

    Attributes:
      norm: "none" or "batch".
      shortcut: "identity", "scaled", "gated" or "none".
      convs: layers in a branch.
      branch_scale: factor on every branch.
      depth: units, one after the other.
      width: features of every layer.
      batch_size: examples.
    """

    norm: str
    shortcut: str
    convs: int
    branch_scale: float
    depth: int
    width: int
    batch_size: int

    @property
    def label(self) -> str:
        """What the cell is called beside others."""
        if self.norm == "none":
            return f"no norm, s = {'1' if self.branch_scale == 1 else 'L^-1/2'}"
        beside = {"scaled": f"shortcut {SCALE}", "gated": "gated", "none": "no shortcut"}
        return beside.get(self.shortcut, f"batch norm, m = {self.convs}")

    def __str__(self) -> str:
        return f"{self.label}, {self.depth} units"

    @property
    def has_paths(self) -> bool:
        """Whether there is a choice between branch and shortcut."""
        return self.shortcut != "none"

    @property
    def is_variant(self) -> bool:
        """Whether it is one of the four shortcuts that are compared."""
        return self.norm == "batch" and self.convs == 2

    @property
    def at_rest(self) -> bool:
        """Whether every unit gives the trunk as much variance as it takes."""
        return self.norm == "batch" and self.shortcut != "identity"

    @property
    def held(self) -> bool:
        """Whether its theory is exact for wide layers and large batches."""
        return self.shortcut != "gated"

    @property
    def carry(self) -> float:
        """The factor of the shortcut."""
        return {"identity": 1.0, "scaled": SCALE, "gated": CARRY, "none": 0.0}[self.shortcut]

    @property
    def start(self) -> float:
        """The variance of the input: that at which the trunk is at rest, where there is one."""
        if not self.at_rest:
            return 1.0
        opened = 1 - self.carry if self.shortcut == "gated" else 1.0
        return opened**2 * gradflow.oracles.CENTRED / (1 - self.carry**2)

    @property
    def unit_gains(self) -> np.ndarray:
        """What theory says of every unit's gain, input side first."""
        if self.norm == "none":
            gain = gradflow.oracles.residual_gain(1, self.branch_scale, 1.0)
        elif self.at_rest:
            gain = gradflow.oracles.scaled_shortcut_gain(self.carry, self.convs)
        else:
            return gradflow.oracles.batch_norm_residual_gain(self.depth, self.convs, self.start)
        return np.full(self.depth, gain)

    @property
    def gains(self) -> np.ndarray:
        """What it says of every branch's gain over that of its shortcut."""
        return self.unit_gains / self.carry**2 - 1

    @property
    def growth(self) -> float:
        """What it says of the growth of |g|^2 per unit, without the first units."""
        return float(np.exp(np.log(self.unit_gains[self.depth // LEFT_OUT :]).mean()))

    def network(self, rngs: nnx.Rngs) -> nnx.Module:
        """Draw one."""
        return models.deep_stack(
            self.depth * self.convs,
            self.width,
            shortcut=self.shortcut,
            shortcut_scale=SCALE,
            branch_scale=self.branch_scale,
            norm=self.norm,
            convs_per_unit=self.convs,
            kernel_size=(1, 1),
            rngs=rngs,
        )


def kinds(depth: int, width: int, batch_size: int) -> list[Cell]:
    """Return every kind of network of a depth."""
    found = [
        ("none", "identity", 1, 1.0),
        ("none", "identity", 1, depth**-0.5),
        ("batch", "identity", 1, 1.0),
        ("batch", "identity", 2, 1.0),
        ("batch", "scaled", 2, 1.0),
        ("batch", "gated", 2, 1.0),
        ("batch", "none", 2, 1.0),
    ]
    return [
        Cell(norm, shortcut, convs, scale, depth, width, batch_size)
        for norm, shortcut, convs, scale in found
    ]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the networks of one kind did; arrays have a row for each network.

    Attributes:
      cell: the kind.
      shares: share of the energy that came along paths of each length.
      logs: ln(|g_l|^2 / |g_L|^2), input first.
      coherence: energy of the gradient over the sum of the energies by length.
    """

    cell: Cell
    shares: np.ndarray
    logs: np.ndarray
    coherence: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Mean length in every network, weighted by energy."""
        return self.shares @ np.arange(self.shares.shape[1])

    @property
    def log_skip_shares(self) -> np.ndarray:
        """Logarithm of the share that came through no branch, in every network."""
        return np.log(self.shares[:, 0])

    @property
    def growth(self) -> np.ndarray:
        """Growth of |g|^2 per unit in every network, without the first units."""
        first = self.cell.depth // LEFT_OUT
        return np.exp((self.logs[:, first] - self.logs[:, -1]) / (self.cell.depth - first))


def summaries(columns: Columns) -> list[Summary]:
    """Return a summary for every kind of network, in the order of the columns."""
    names = ("log_energy", "log_ratio", "coherence")
    return [
        Summary(cell, _shares(energies), logs, coherence[:, 0])
        for cell, (energies, logs, coherence) in by_kind(columns, Cell, *names)
    ]


def _shares(log_energies: np.ndarray) -> np.ndarray:
    return np.exp(log_energies - np.logaddexp.reduce(log_energies, axis=1, keepdims=True))
