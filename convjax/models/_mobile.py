"""The inverted residual unit and its relatives, and the tables that they are repeated by."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flax import nnx

from convjax import nn
from convjax.models._style import Dilated, Style, divisible, skipped


class Row(NamedTuple):
    """One unit, as the papers' tables give it.

    Attributes:
      features: channels out.
      strides: of the depthwise convolution.
      expansion: channels between over channels in; 0 where no 1x1 convolution comes first.
      side: of the depthwise window, or of the full one of a fused unit; 0 for none.
      squeeze: whether there is squeeze-and-excitation.
      activation: a name, or "" for the network's.
      kind: ``"inverted"``; ``"fused"``: one full convolution in the place of the 1x1 and the
        depthwise one, and of all three where nothing is expanded (EfficientNetV2); ``"universal"``:
        the depthwise convolution may also stand first, or nowhere (MobileNetV4).
      start: side of the depthwise window that comes first in a universal unit; 0 for none.
      skip: whether a unit that keeps its shape has a shortcut.
    """

    features: int
    strides: int = 1
    expansion: float = 0
    side: int = 3
    squeeze: bool = False
    activation: str = ""
    kind: str = "inverted"
    start: int = 0
    skip: bool = True


Table = Sequence[Sequence[Row]]


def repeated(row: Row, units: int) -> tuple[Row, ...]:
    """Return a stage of equal units, of which the first strides."""
    return (row, *(row._replace(strides=1),) * (units - 1))


def scaled(table: Table, wide: Callable[[int], int]) -> list[list[Row]]:
    """Return a table of which every row's features are those that ``wide`` makes of them."""
    return [[row._replace(features=wide(row.features)) for row in rows] for rows in table]


def deepened(units: int, depth: float) -> int:
    """Scale a number of units up, as the EfficientNets do."""
    return math.ceil(units * depth)


@dataclasses.dataclass(frozen=True)
class MobileUnit:
    """What all units of one network share.

    Attributes:
      style: of the layers.
      last: what the last 1x1 convolution is called.
      activated: whether an activation follows the sum.
      strided_padding: of the depthwise convolutions that stride; None for the style's.
      squeeze_middle: whether the squeeze is to a quarter of the channels between, in eights, and
        not of those in.
      squeeze_activation: inside squeeze-and-excitation; "" for the network's.
      gate: of squeeze-and-excitation.
    """

    style: Style
    last: str = "project"
    activated: bool = False
    strided_padding: Any = None
    squeeze_middle: bool = False
    squeeze_activation: str = ""
    gate: str = "sigmoid"

    def __call__(
        self, features: int, row: Row, strides: int, dilation: int, rate: float
    ) -> nn.Residual:
        """Return one unit.

        Args:
          features: channels in.
          row: the rest of its shape.
          strides: of the depthwise convolution, which may not be the row's.
          dilation: of the depthwise convolution.
          rate: of stochastic depth, where the unit keeps its shape.
        """
        branch = getattr(self, f"_{row.kind}")(features, row, strides, dilation)
        after = self.style.act() if self.activated else None
        if strides != 1 or features != row.features or not row.skip:
            return nn.Residual(nn.Chain(branch), "none", activation=after)
        beside = self.style.beside(features)
        return nn.Residual(nn.Chain({**branch, **skipped(rate)}), beside, activation=after)

    def _fused(self, features: int, row: Row, strides: int, dilation: int) -> dict[str, nnx.Module]:
        how: dict[str, Any] = {"dilation": dilation, "activation": row.activation or True}
        if not row.expansion:
            return self.style.step((features, row.features), row.side, strides, **how)
        middle = divisible(features * row.expansion)
        return {
            "expand": self.style.unit((features, middle), row.side, strides, **how),
            self.last: self.style.unit((middle, row.features), activation=False),
        }

    def _universal(
        self, features: int, row: Row, strides: int, dilation: int
    ) -> dict[str, nnx.Module]:
        unit = self.style.unit
        middle = divisible(features * row.expansion)
        # Of two depthwise convolutions the second strides.
        first = 1 if row.side else strides
        parts: dict[str, nnx.Module] = {}
        if row.start:
            how: dict[str, Any] = {"groups": features, "dilation": dilation, "activation": False}
            parts["start"] = unit((features, features), row.start, first, **how)
        parts["expand"] = unit((features, middle))
        if row.side:
            how = {"groups": middle, "dilation": dilation}
            parts["depthwise"] = unit((middle, middle), row.side, strides, **how)
        return {**parts, self.last: unit((middle, row.features), activation=False)}

    def _inverted(
        self, features: int, row: Row, strides: int, dilation: int
    ) -> dict[str, nnx.Module]:
        unit = self.style.unit
        activation = row.activation or True
        middle = divisible(features * row.expansion) if row.expansion else features
        parts: dict[str, nnx.Module] = {}
        if row.expansion:
            parts["expand"] = unit((features, middle), activation=activation)
        parts["depthwise"] = unit(
            (middle, middle),
            row.side,
            strides,
            groups=middle,
            dilation=dilation,
            padding=self.strided_padding if strides > 1 else None,
            activation=activation,
        )
        if row.squeeze:
            parts["squeeze"] = self._squeeze(features, middle)
        return {**parts, self.last: unit((middle, row.features), activation=False)}

    def _squeeze(self, features: int, middle: int) -> nn.SqueezeExcite:
        return nn.SqueezeExcite(
            middle,
            divisible(middle / 4) if self.squeeze_middle else max(1, features // 4),
            activation=self.squeeze_activation or self.style.activation,
            gate=self.gate,
            rngs=self.style.rngs,
            **self.style.dtypes,
        )


def trunk(unit: MobileUnit, features: int, table: Table) -> dict[str, nnx.Module]:
    """Return the stages of a table by name, after a stem of strides 2.

    The rate of stochastic depth grows from 0 at the first unit to what would be reached one unit
    after the last, as in the EfficientNets.

    Raises:
      ValueError: an output stride that cannot be; stochastic depth without shortcuts, which would
        drop whole examples for good.
    """
    rates = unit.style.rates(sum(map(len, table)) + 1)
    dilated = Dilated(unit.style.output_stride, 2)
    stages: dict[str, nnx.Module] = {}
    for s, rows in enumerate(table, 1):
        strides, before, dilation = dilated(rows[0].strides)
        units = []
        for i, row in enumerate(rows):
            first = (strides, before) if i == 0 else (1, dilation)
            units.append(unit(features, row, *first, next(rates)))
            features = row.features
        stages[f"stage{s}"] = nn.Chain(units)
    return stages
