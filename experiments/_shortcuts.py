"""The networks of skip-and-scale, what theory says of each kind, and what each kind did."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from flax import nnx

from convjax import gradflow, nn
from convjax.lab import Columns, by_kind

ONE, TWO = "ReLU, W", "W, ReLU, W"
GAINS = {ONE: 1.0, TWO: 2.0}
SCALES: dict[str, Callable[[int], float]] = {
    "1": lambda units: 1.0,
    "L^-1/2": lambda units: units**-0.5,
    "1/L": lambda units: 1 / units,
    "0": lambda units: 0.0,
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of network.

    Attributes:
      branch: ONE or TWO.
      shortcut: "identity" or "none".
      scale: a name in SCALES.
      units: how many.
      width: features of every layer.
    """

    branch: str
    shortcut: str
    scale: str
    units: int
    width: int

    @property
    def factor(self) -> float:
        """The factor on every branch."""
        return SCALES[self.scale](self.units)

    def __str__(self) -> str:
        return f"{self.branch}, {self.label}, {self.units} units"

    @property
    def label(self) -> str:
        """What the cell is called beside others of its branch."""
        return f"scale {self.scale}" if self.shortcut == "identity" else "no shortcut"

    def network(self, rngs: nnx.Rngs) -> nn.Repeat:
        """Draw one."""

        def dense(rngs: nnx.Rngs) -> nn.Dense:
            return nn.Dense(self.width, self.width, kernel_init="he", use_bias=False, rngs=rngs)

        def unit(rngs: nnx.Rngs) -> nn.Residual:
            before = {} if self.branch == ONE else {"first": dense(rngs)}
            branch = nn.Chain({**before, "relu": nn.Activation("relu"), "last": dense(rngs)})
            return nn.Residual(branch, self.shortcut, scale=self.factor)

        return nn.Repeat(unit, self.units, rngs=rngs)


def expected(cell: Cell) -> float:
    """Return what the mean of |g_0|^2 / |g_L|^2 should be."""
    gain = GAINS[cell.branch]
    if cell.shortcut == "none":
        return (cell.factor**2 * gain) ** cell.units
    wide = gradflow.oracles.residual_gain(cell.units, cell.factor, gain)
    narrow = finite_width(cell.units, cell.factor, cell.width) if cell.branch == ONE else 1.0
    return wide * narrow


def finite_width(units: int, scale: float, width: int) -> float:
    """Return the factor by which ``x + scale * W relu(x)`` exceeds the gain of wide networks.

    Formula: ``1 + 2 / (pi n) * (s^2 / (1 + s^2))^2 * sum_m (L - m) (arcsin r_m + r_m sqrt(1 -
    r_m^2))`` for m = 1 … L - 1, with ``r_m = (1 + s^2)^(-m/2)``, the correlation of a trunk's
    feature with what it was m units before. To first order in 1/n, derived here: feature i and its
    derivative change the covariance that all weights of a unit see, by 2/n of their own squares and
    product where the gate is open; what that does to the gate of i itself, units later, is a
    Gaussian integral.

    Args:
      units: residual units of He's initialisation, their input Gaussian.
      scale: factor on every branch.
      width: features.
    """
    back = np.arange(1, units)
    r = (1 + scale**2) ** (-back / 2)
    gates = np.arcsin(r) + r * np.sqrt(1 - r**2)
    strength = 2 / (math.pi * width) * (scale**2 / (1 + scale**2)) ** 2
    return 1 + strength * float((units - back) @ gates)


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the networks of one kind did.

    Attributes:
      cell: the kind.
      mean: of |g_l|^2 / |g_L|^2, by units travelled back, starting at none.
      error: its standard error.
      typical: geometric mean at the input.
      worst: at the input, the largest distance of any network from 1.
    """

    cell: Cell
    mean: np.ndarray
    error: np.ndarray
    typical: float
    worst: float

    @property
    def expected(self) -> float:
        """What the mean at the input should be."""
        return expected(self.cell)

    @property
    def away(self) -> float:
        """How many standard errors the mean at the input is away from theory's."""
        distance = float(self.mean[-1] - self.expected)
        return distance / max(float(self.error[-1]), 1e-300)


def summaries(columns: Columns) -> list[Summary]:
    """Return a summary for every kind of network, in the order of the columns."""
    return [_summary(cell, logs) for cell, (logs,) in by_kind(columns, Cell, "log_ratio")]


def _summary(cell: Cell, logs: np.ndarray) -> Summary:
    ratios = np.exp(logs[:, ::-1])
    return Summary(
        cell,
        ratios.mean(0),
        ratios.std(0, ddof=1) / math.sqrt(len(ratios)),
        float(np.exp(logs[:, 0].mean())),
        float(np.abs(ratios[:, -1] - 1).max()),
    )
