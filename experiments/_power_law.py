"""The networks of residual-power-law, and what gradient and variance did along their trunks."""

import dataclasses

import numpy as np
from flax import nnx

from convjax import gradflow, models, nn
from convjax.lab import Columns, by_kind

GAUSSIAN, DIGITS = "gaussian", "digits"
LEFT_OUT = 8
LEAST_UNITS = LEFT_OUT


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of network.

    Attributes:
      data: GAUSSIAN or DIGITS.
      convs: convolutions in a branch.
      shortcut: "identity" or "none".
      units: how many.
      width: channels.
      batch_size: examples.
      depth: units of the networks on GAUSSIAN that it is shown beside.
    """

    data: str
    convs: int
    shortcut: str
    units: int
    width: int
    batch_size: int
    depth: int

    def __str__(self) -> str:
        return f"{self.data}, {self.label}, {self.units} units"

    @property
    def label(self) -> str:
        """What the cell is called beside others on the same data."""
        kind = "residual" if self.shortcut == "identity" else "plain"
        return f"{kind}, m = {self.convs}"

    def network(self, rngs: nnx.Rngs) -> nn.Repeat:
        """Draw one."""
        window = 1 if self.data == GAUSSIAN else 3
        return models.deep_stack(
            self.units * self.convs,
            self.width,
            shortcut=self.shortcut,
            norm="batch",
            convs_per_unit=self.convs,
            kernel_size=(window, window),
            padding="CIRCULAR",
            rngs=rngs,
        )


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the networks of one kind did; arrays have a row for each network, input first.

    Attributes:
      cell: the kind.
      logs: ln(|g_l|^2 / |g_L|^2).
      variances: v_l.
      fits: exponential and power law through ln|g_l|.
    """

    cell: Cell
    logs: np.ndarray
    variances: np.ndarray
    fits: list[gradflow.Growth]

    @property
    def theory_variance(self) -> np.ndarray:
        """What v_l should be, from the mean that was measured at the input on."""
        start = float(self.variances[:, 0].mean())
        return gradflow.oracles.batch_norm_residual_variance(self.cell.units, start)

    @property
    def theory_logs(self) -> np.ndarray:
        """What ln(|g_l|^2 / |g_L|^2) should be."""
        start, cell = float(self.variances[:, 0].mean()), self.cell
        if cell.shortcut == "none":
            gain = gradflow.oracles.batch_norm_gain(cell.batch_size) ** cell.convs
            gains = np.full(cell.units, gain)
        else:
            gains = gradflow.oracles.batch_norm_residual_gain(cell.units, cell.convs, start)
        return np.append(np.cumsum(np.log(gains)[::-1])[::-1], 0.0)

    @property
    def exponents(self) -> np.ndarray:
        """The exponent of every network."""
        return np.array([self.exponent(logs) for logs in self.logs])

    @property
    def theory_exponent(self) -> float:
        """The exponent along which theory's own gains go, so early."""
        return self.exponent(self.theory_logs)

    def exponent(self, logs: np.ndarray) -> float:
        """Return the fall of ln|g_l|^2 per unit of ln v_l, without the first eighth."""
        kept = slice(self.cell.units // LEFT_OUT, None)
        return -float(np.polyfit(np.log(self.theory_variance)[kept], logs[kept], 1)[0])

    @property
    def slopes(self) -> np.ndarray:
        """The growth of v_l per unit, of every network."""
        position = np.arange(self.cell.units + 1)
        return np.array([np.polyfit(position, v, 1)[0] for v in self.variances])


def summaries(columns: Columns) -> list[Summary]:
    """Return a summary for every kind of network, in the order of the columns."""
    return [
        Summary(cell, logs, variances, [gradflow.growth(row / 2) for row in logs])
        for cell, (logs, variances) in by_kind(columns, Cell, "log_ratio", "variance")
    ]
