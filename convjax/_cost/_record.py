"""What cost returns: a record for every unit, to be picked, tabulated and printed."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from convjax import _check
from convjax._cost import _table
from convjax._cost._unit import UnitCost
from convjax._readable import ROWS, WIDTH, Readable, Table, as_text, whole


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cost(Readable):
    """The cost of a network on one batch.

    Attributes:
      paths: every unit's path, children before parents, as ``gradflow.profile`` has them. ``*``
        stands for every unit of a ``Repeat``.
      units: what each costs, in the same order; under a ``*`` that of one unit of the repeat.
      input_shape: shape of the batch.
      dtype: dtype of the batch.
      unknown: paths of leaves whose type has not registered a ``price``: their parameters, bytes
        and shapes are counted, their arithmetic is not.
      mode: how a network that was read is called, in words; "" of any other.
    """

    paths: tuple[str, ...]
    units: tuple[UnitCost, ...]
    input_shape: tuple[int, ...]
    dtype: Any
    unknown: tuple[str, ...]
    mode: str = ""

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

    def text(
        self, depth: int | None = None, *, width: int | None = WIDTH, rows: int | None = ROWS
    ) -> str:
        """Return the table to be read, as ``print(cost)`` shows it; it says what it leaves out.

        Args:
          depth: how far down units are listed, 1 for those of the network itself; None for all.
          width: columns of text at most; None for as many as it takes.
          rows: rows at most; None for all.

        Raises:
          ValueError: a depth below one, a width below 40, or fewer than four rows.
        """
        depth = None if depth is None else _check.integer("depth", depth, 1)
        return as_text(self._as_table(depth), width, rows)

    def __repr__(self) -> str:
        return f"Cost({self._batch}: {_table.totals(self.total)})"

    @property
    def _batch(self) -> str:
        return "x".join(map(str, self.input_shape))

    def _as_table(self, depth: int | None = None) -> Table:
        called = f", called as {self.mode}" if self.mode else ""
        below = [
            f"forward pass of a batch {self._batch}, {self.dtype}{called}: "
            f"{_table.totals(self.total)}; FLOP: two for each multiply-add"
        ]
        if self.unknown:
            names = ", ".join(map(whole, self.unknown))
            below.append(f"without the arithmetic of what has no price: {names}")
        deep = math.inf if depth is None else depth
        return _table.as_table(self.paths, self.units, deep, below)
