"""The networks of shattering, and how alike gradients are in each."""

import dataclasses
import math

import jax
import numpy as np
from flax import nnx

from convjax import gradflow, nn
from convjax.lab import Columns, Ensemble, by_kind

PAIR, LINE = "pair", "line"
# What a layer leaves of the correlation, if inputs stay orthogonal.
ORTHOGONAL = {"plain": 1 / 2, "centred": 1 / 2, "residual": 3 / 4}
# Layers in a branch of the networks that lines go through.
CONVS = 2


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of network, and what went through it.

    Attributes:
      probe: PAIR or LINE.
      kind: "plain", "centred" or "residual"; those that lines go through have batch norm.
      depth: layers.
      width: features of every layer.
    """

    probe: str
    kind: str
    depth: int
    width: int

    @property
    def label(self) -> str:
        """What the cell is called beside others of its depth."""
        return self.kind if self.probe == PAIR else f"{self.kind}, batch norm"

    def __str__(self) -> str:
        return f"{self.label}, {self.depth} layers"

    @property
    def expected(self) -> float:
        """What the correlation of a pair should be."""
        return gradflow.oracles.gradient_correlation(self.depth, self.kind)

    @property
    def orthogonal(self) -> float:
        """What it would be if the inputs stayed orthogonal."""
        return ORTHOGONAL[self.kind] ** self.depth

    def network(self, rngs: nnx.Rngs) -> nn.Repeat:
        """Draw one."""
        convs = CONVS if self.probe == LINE else 1
        function, init = (centred, "lecun") if self.kind == "centred" else ("relu", "he")

        def unit(rngs: nnx.Rngs) -> nn.Residual:
            branch: dict[str, nnx.Module] = {}
            for i in range(1, convs + 1):
                if self.probe == LINE:
                    branch[f"norm{i}"] = nn.BatchNorm(self.width, rngs=rngs)
                branch[f"activation{i}"] = nn.Activation(function)
                branch[f"dense{i}"] = nn.Dense(
                    self.width, self.width, kernel_init=init, use_bias=False, rngs=rngs
                )
            shortcut = "identity" if self.kind == "residual" else "none"
            return nn.Residual(nn.Chain(branch), shortcut)

        return nn.Repeat(unit, self.depth // convs, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class Probed(Ensemble):
    """Networks of one kind, and how many cotangents come back: a cell of the study.

    Attributes:
      samples: cotangents for each network; its examples are orthogonal inputs, or those on a line.
    """

    samples: int = 1

    def __str__(self) -> str:
        return f"{self.kind.probe}: {self.kind}"


def centred(x: jax.Array) -> jax.Array:
    """Return the ReLU of a unit Gaussian, less its mean, in units of its standard deviation."""
    deviation = math.sqrt(gradflow.oracles.CENTRED / 2)
    return (jax.nn.relu(x) - 1 / math.sqrt(2 * math.pi)) / deviation


def of(columns: Columns, probe: str) -> dict[Cell, np.ndarray]:
    """Return the correlations of every kind of network, a row for each network."""
    found = by_kind(columns, Cell, "correlation")
    return {cell: values for cell, (values,) in found if cell.probe == probe}
