"""What cost returns: a record for every unit, to be picked, tabulated and printed."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from convjax import _check
from convjax._cost import _table
from convjax._cost._unit import UnitCost


@dataclasses.dataclass(frozen=True, eq=False)
class Cost:
    """The cost of a network on one batch.

    Attributes:
      paths: every unit's path, children before parents, as ``gradflow.profile`` has them. ``*``
        stands for every unit of a ``Repeat``.
      units: what each costs, in the same order; under a ``*`` that of one unit of the repeat.
      input_shape: shape of the batch.
      dtype: dtype of the batch.
      unknown: paths of leaves whose type has not registered a ``price``: their parameters, bytes
        and shapes are counted, their arithmetic is not.
    """

    paths: tuple[str, ...]
    units: tuple[UnitCost, ...]
    input_shape: tuple[int, ...]
    dtype: Any
    unknown: tuple[str, ...]

    @property
    def total(self) -> UnitCost:
        """The network as a whole: ``cost[""]``."""
        return self.units[-1]

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the whole network, for the whole batch."""
        return self.total.multiply_adds

    @property
    def flops(self) -> int:
        """Floating-point operations of the whole network."""
        return self.total.flops

    @property
    def parameters(self) -> int:
        """Trained numbers of the whole network."""
        return self.total.parameters

    @property
    def activation_bytes(self) -> int:
        """Bytes of all arrays that a forward pass makes."""
        return self.total.activation_bytes

    @property
    def traffic_bytes(self) -> int:
        """Bytes read and written by a forward pass in which nothing is fused."""
        return self.total.traffic_bytes

    @property
    def intensity(self) -> float:
        """Arithmetic intensity of the whole network, flops per byte."""
        return self.total.intensity

    def __getitem__(self, path: str) -> UnitCost:
        """Return the unit at a path; a number in place of a ``*`` picks one unit of a repeat."""
        _check.instance("path", path, str, "a unit's path, such as 'stage1/0'")
        if path in self.paths:
            return self.units[self.paths.index(path)]
        for pattern, unit in self.items():
            index = _table.places(pattern, unit.repeats, path)
            if index is not None:
                return dataclasses.replace(unit, receptive_field=unit.receptive_field[index])
        raise KeyError(f"{path!r} is not in the network; its paths are {', '.join(self.paths)}")

    def items(self) -> Iterator[tuple[str, UnitCost]]:
        """Yield ``(path, unit)``."""
        return zip(self.paths, self.units, strict=True)

    def table(self) -> dict[str, np.ndarray]:
        """Return columns, one row per unit in the order of ``gradflow.Profile.table``.

        Repeats are written out. Beside the attributes of ``UnitCost``, by their names, there are
        ``path`` and ``intensity``. ``output_shape`` is text such as ``"8x32x32x16"``; of
        ``receptive_field`` and ``stride`` there is a column for each axis, from
        ``receptive_field_0`` on. Rows of which ``leaf`` holds add up to the network, but for the
        additions and concatenations between them.
        """
        return _table.columns(self.paths, self.units)

    def text(self, depth: int | None = None) -> str:
        """Return the table to be read, as ``print(cost)`` shows it.

        Args:
          depth: how far down units are listed, 1 for those of the network itself; None for all.

        Raises:
          ValueError: a depth below one.
        """
        depth = None if depth is None else _check.integer("depth", depth, 1)
        table = _table.to_text(self.paths, self.units, math.inf if depth is None else depth)
        batch = "x".join(map(str, self.input_shape))
        lines = [
            table,
            f"forward pass of a batch {batch}, {self.dtype}; FLOP: two for each multiply-add",
        ]
        if "*" in table:
            lines.append("*: each of the repeated units; field: that of the last")
        if self.unknown:
            names = ", ".join(path or "(the whole)" for path in self.unknown)
            lines.append(f"without the arithmetic of what has no price: {names}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()
