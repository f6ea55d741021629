"""The networks of convolution-audit, and what was measured of each kind."""

import dataclasses
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from flax import nnx

from convjax import gradflow, models, nn
from convjax.lab import Columns, by_kind, compiler_options

PADDING, DEPTHWISE, JACOBIAN = "padding", "depthwise", "jacobian"
LINEAR, RELU = "linear", "relu"
FAN_OUT, GENERIC = "fan_out", "JAX's fan_out"
GAUSSIAN, ORTHOGONAL = "gaussian", "orthogonal"
MEASURES = ("log_zeros", "log_circular", "mean_square", "relative_variance")

KERNELS: dict[str, Any] = {
    FAN_OUT: nn.initializers.VarianceScaling(1.0, "fan_out"),
    GENERIC: jax.nn.initializers.variance_scaling(1.0, "fan_out", "normal"),
    GAUSSIAN: nn.initializers.VarianceScaling(2.0),
    ORTHOGONAL: nn.initializers.DeltaOrthogonal(2**0.5),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of network.

    Attributes:
      part: PADDING, DEPTHWISE or JACOBIAN.
      kind: the activation (LINEAR, RELU), or what draws the kernels, a name in KERNELS.
      size: places along each of two axes.
      width: channels.
      layers: how many.
      images: how many go through each network; their gradients are measured together.
    """

    part: str
    kind: str
    size: int
    width: int
    layers: int
    images: int

    def __str__(self) -> str:
        return f"{self.part}, {self.kind}, {self.size}x{self.size}, {self.layers} layers"

    def signal(self, key: jax.Array) -> jax.Array:
        """Draw what goes in."""
        return jax.random.normal(key, (self.images, self.size, self.size, self.width))

    def network(self, padding: str, rngs: nnx.Rngs) -> nn.Repeat:
        """Draw one; whatever the padding, its kernels are the same."""
        if self.part == DEPTHWISE:

            def unit(rngs: nnx.Rngs) -> nn.Chain:
                separable = nn.separable_conv(
                    self.width,
                    self.width,
                    (3, 3),
                    padding=padding,
                    use_bias=False,
                    kernel_init=KERNELS[self.kind],
                    pointwise_init="he",
                    rngs=rngs,
                )
                return nn.Chain(relu=nn.Activation("relu"), separable=separable)

            return nn.Repeat(unit, self.layers, rngs=rngs)
        return models.deep_stack(
            self.layers,
            self.width,
            shortcut="none",
            convs_per_unit=1,
            activation="linear" if self.kind == LINEAR else "relu",
            init=KERNELS.get(self.kind, "lecun" if self.kind == LINEAR else "he"),
            padding=padding,
            rngs=rngs,
        )


def drawn(cell: Cell, key: jax.Array) -> nn.Repeat:
    """Draw one with circular padding by a compiled program: call by call it would take longer."""
    structure, program = _program(cell)
    return nnx.merge(structure, program(key))


@lru_cache
def _program(cell: Cell) -> tuple[Any, Any]:
    def make(key: jax.Array) -> nn.Repeat:
        return cell.network("CIRCULAR", nnx.Rngs(key))

    key = jax.random.key(0)
    structure, _ = nnx.split(nnx.eval_shape(make, key))
    draw = jax.jit(lambda key: nnx.split(make(key))[1])
    return structure, draw.lower(key).compile(compiler_options(2))


def shares(cell: Cell) -> np.ndarray:
    """Return what zero padding should leave of the gradient's energy, by layers back."""
    oracles = gradflow.oracles
    of = oracles.separable_gain if cell.part == DEPTHWISE else oracles.padding_gain
    return np.array([of(cell.size, layers) for layers in range(cell.layers + 1)])


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the networks of one kind did, by layers travelled back, starting at none.

    Attributes:
      cell: the kind.
      share: mean of |g|^2 / |g_L|^2 with zero padding; the circular twin, whose mean is 1, is its
        control variate.
      error: its standard error. Both are NaN where the twin's mean is not 1.
      circular: mean of |g|^2 / |g_L|^2 with circular padding.
      circular_error: its standard error.
    """

    cell: Cell
    share: np.ndarray
    error: np.ndarray
    circular: np.ndarray
    circular_error: np.ndarray


def summaries(columns: Columns, part: str) -> list[Summary]:
    """Return a summary for every kind of network of PADDING or DEPTHWISE."""
    return [
        _summary(cell, np.exp(zeros[:, ::-1]), np.exp(circular[:, ::-1]))
        for cell, (zeros, circular) in by_kind(columns, Cell, "log_zeros", "log_circular")
        if cell.part == part
    ]


def deepest(rows: list[Summary]) -> list[Summary]:
    """Return those of the most layers."""
    most = max(row.cell.layers for row in rows)
    return [row for row in rows if row.cell.layers == most]


def _summary(cell: Cell, zeros: np.ndarray, circular: np.ndarray) -> Summary:
    # What a network has more than others for its kernels' sake, its circular twin has as well.
    apart = circular - circular.mean(0)
    slope = (apart * zeros).sum(0) / np.maximum((apart**2).sum(0), 1e-300)
    known = np.nan if cell.kind == GENERIC else 1.0
    share = zeros - slope * (circular - known)
    count = np.sqrt(len(zeros))
    return Summary(
        cell,
        share.mean(0),
        share.std(0, ddof=1) / count,
        circular.mean(0),
        circular.std(0, ddof=1) / count,
    )


def fan_bug(columns: Columns) -> dict[str, float]:
    """Return by how much a layer's gain is off, for each way of drawing depthwise kernels.

    With circular padding the gain of a layer should be 1. A generic fan-out initialiser takes a
    depthwise kernel ``(3, 3, 1, C)`` for one with 9 C fans out where it has 9, and makes it 1/C.
    """
    return {
        row.cell.kind: float(row.circular[-1] ** (1 / row.cell.layers))
        for row in summaries(columns, DEPTHWISE)
    }
