"""What a cost holds of one unit."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class UnitCost:
    """What one unit costs, everything inside it included; ``cost`` says how each is counted.

    Attributes:
      kind: the node's type, or an activation's name.
      output_shape: shape of its output, ``(N, *spatial, C)``.
      multiply_adds: multiply-adds of its convolutions and matrix products.
      flops: floating-point operations, two for a multiply-add.
      parameters: trained numbers; those that units share count once.
      activation_bytes: arrays made, each of which the backward pass may want again.
      traffic_bytes: bytes read and written if nothing is fused.
      receptive_field: places of the network's input, along each of its spatial axes, that one
        place of the output sees. Infinity: all, however large the image. NaN: unknown. Inside a
        ``Repeat`` there is one leading axis for each repeat.
      stride: input places between the fields of neighbouring outputs, along each axis; infinity
        where there are no neighbours.
      leaf: whether it has no units inside.
    """

    kind: str
    output_shape: tuple[int, ...]
    multiply_adds: int
    flops: int
    parameters: int
    activation_bytes: int
    traffic_bytes: int
    receptive_field: np.ndarray
    stride: tuple[float, ...]
    leaf: bool

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, flops per byte of traffic; 0 where nothing moves."""
        return self.flops / self.traffic_bytes if self.traffic_bytes else 0.0

    @property
    def repeats(self) -> tuple[int, ...]:
        """Lengths of the repeats around the unit, outermost first."""
        return self.receptive_field.shape[:-1]
