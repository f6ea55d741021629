"""The residual unit of the networks for large images, post-activation, in all its variants."""

import dataclasses
from functools import partial
from typing import Any

from flax import nnx

from convjax import _check, nn
from convjax.models._style import TRANSITIONS, Style, divisible, skipped

STRIDES_ON = ("conv", "reduce")


@dataclasses.dataclass(frozen=True)
class ResNetUnit:
    """What all units of one network share; ``models.resnet`` explains the options."""

    style: Style
    bottleneck: bool
    groups: int
    group_width: int
    strides_on: str
    squeeze: bool
    squeeze_divisor: int
    squeeze_activated: bool
    zero_init: bool
    transition: str
    pooled_shortcut: bool

    def __post_init__(self):
        _check.choice("transition", self.transition, TRANSITIONS)
        _check.choice("strides_on", self.strides_on, STRIDES_ON)
        if not self.bottleneck and (self.groups, self.group_width) != (1, 64):
            raise ValueError(
                f"groups={self.groups} and group_width={self.group_width} are those of a "
                "bottleneck; give bottleneck=True"
            )

    @property
    def expansion(self) -> int:
        """Channels out of a unit, over those of its 3x3 convolution in an ordinary ResNet."""
        return 4 if self.bottleneck else 1

    def __call__(
        self, fan: tuple[int, int], strides: int, dilations: tuple[int, int], rate: float
    ) -> nn.Residual:
        """Return one unit.

        Args:
          fan: channels in and out.
          strides: steps between outputs.
          dilations: of the convolution that strides, and of a second one after it.
          rate: of stochastic depth.
        """
        branch = self._convolutions(fan, strides, dilations)
        if self.squeeze:
            reduced = divisible(fan[1] / 16, self.squeeze_divisor, 0)
            branch["squeeze"] = nn.SqueezeExcite(
                fan[1], reduced, rngs=self.style.rngs, **self.style.dtypes
            )
        if fan[0] == fan[1] and strides == 1:
            beside = self.style.beside(fan[1])
        else:
            pooled = self.pooled_shortcut and (strides, dilations[1]) != (1, 1)
            projection = partial(self._pooled, fan=fan, strides=strides) if pooled else None
            beside = self.style.across(fan, strides, self.transition, projection)
        branch = nn.Chain({**branch, **skipped(rate)})
        return nn.Residual(branch, beside, activation=self.style.act())

    def _convolutions(
        self, fan: tuple[int, int], strides: int, dilations: tuple[int, int]
    ) -> dict[str, nnx.Module]:
        step = self.style.step
        narrow = fan[1] // self.expansion
        first, second = dilations
        last: dict[str, Any] = {"activation": self.squeeze_activated, "zero": self.zero_init}
        if not self.bottleneck:
            return {
                **step((fan[0], narrow), 3, strides, number=1, dilation=first),
                **step((narrow, narrow), 3, number=2, dilation=second, **last),
            }
        middle = narrow * self.group_width // 64 * self.groups
        early = strides if self.strides_on == "reduce" else 1
        return {
            **step((fan[0], middle), 1, early, number=1),
            **step(
                (middle, middle),
                3,
                strides // early,
                number=2,
                groups=self.groups,
                dilation=first,
            ),
            **step((middle, fan[1]), number=3, **last),
        }

    def _pooled(self, own: Style, fan: tuple[int, int], strides: int) -> nn.Chain:
        """Return the projection of ResNet-D, in a style of its own keys."""
        return nn.Chain({"pool": own.averaged(strides), **own.step(fan, activation=False)})
