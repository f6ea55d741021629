"""One pre-activation residual unit: norm and activation before each convolution."""

import dataclasses
from typing import Any

from flax import nnx

from convjax import _check, nn
from convjax.models._style import TRANSITIONS, Style, dropped, skipped


@dataclasses.dataclass(frozen=True)
class PreActUnit:
    """What all units of one network share; ``models.resnet_v2`` explains the options.

    A unit whose shape is kept is ``Residual(branch, shortcut)``. Where channels change, branch and
    projection read the same activation, which so comes before both of them: ``Chain(norm1=…,
    activation1=…, residual=Residual(branch, projection))``.
    """

    style: Style
    bottleneck: bool = False
    transition: str = "projection"
    pooled_shortcut: bool = False
    zero_init: bool = False
    dropout: float = 0.0
    # Of convolutions that no norm follows; None for the style's.
    outer_bias: bool | None = None

    def __post_init__(self):
        _check.choice("transition", self.transition, TRANSITIONS)

    @property
    def expansion(self) -> int:
        """Channels out of a unit, over those of its 3x3 convolutions."""
        return 4 if self.bottleneck else 1

    def __call__(
        self, fan: tuple[int, int], strides: int, dilations: tuple[int, int], rate: float
    ) -> nnx.Module:
        """Return one unit.

        Args:
          fan: channels in and out.
          strides: steps between outputs.
          dilations: of the convolution that strides, and of a second one after it.
          rate: of stochastic depth.
        """
        first = self._activated(1, fan[0])
        rest = {**self._convolutions(fan, strides, dilations), **skipped(rate)}
        if fan[0] == fan[1]:
            return nn.Residual(nn.Chain({**first, **rest}), self._beside(fan[1], strides))
        # One key is used whatever the shortcut, so that twins are alike elsewhere.
        own = dataclasses.replace(self.style, rngs=nnx.Rngs(self.style.rngs.params()))
        if self.transition == "projection":
            beside = self._projection(own, fan, strides, dilations[1])
            return nn.Chain({**first, "residual": nn.Residual(nn.Chain(rest), beside)})
        return nn.Residual(nn.Chain({**first, **rest}), self._padded(fan, strides))

    def _activated(self, number: int, features: int) -> dict[str, nnx.Module]:
        norm = self.style.normed(f"norm{number}", features)
        return {**norm, f"activation{number}": self.style.act()}

    def _convolutions(
        self, fan: tuple[int, int], strides: int, dilations: tuple[int, int]
    ) -> dict[str, nnx.Module]:
        """Return the branch from its first convolution on."""
        conv, narrow = self.style.conv, fan[1] // self.expansion
        last: dict[str, Any] = {
            "init": "zero" if self.zero_init else None,
            "use_bias": self.outer_bias,
        }
        if not self.bottleneck:
            return {
                "conv1": conv((fan[0], narrow), 3, strides, dilation=dilations[0]),
                **self._activated(2, narrow),
                **dropped(self.dropout),
                "conv2": conv((narrow, fan[1]), 3, dilation=dilations[1], **last),
            }
        return {
            "conv1": conv((fan[0], narrow)),
            **self._activated(2, narrow),
            "conv2": conv((narrow, narrow), 3, strides, dilation=dilations[0]),
            **self._activated(3, narrow),
            **dropped(self.dropout),
            "conv3": conv((narrow, fan[1]), **last),
        }

    def _beside(self, features: int, strides: int) -> str | nnx.Module:
        """Return the shortcut of a unit that keeps its channels."""
        if strides == 1:
            return self.style.beside(features)
        return self._padded((features, features), strides)

    def _padded(self, fan: tuple[int, int], strides: int) -> str | nnx.Module:
        if self.style.shortcut == "none":
            return "none"
        return nn.ZeroPadShortcut(*fan, strides=strides)

    def _projection(
        self, style: Style, fan: tuple[int, int], strides: int, dilation: int
    ) -> str | nnx.Module:
        """Return the projection of a unit that changes its channels."""
        if style.shortcut == "none":
            return "none"
        bias = self.outer_bias
        if not self.pooled_shortcut or (strides == 1 and dilation == 1):
            return nn.Chain({"conv": style.conv(fan, 1, strides, use_bias=bias)})
        conv = style.conv(fan, use_bias=bias)
        return nn.Chain({"pool": style.averaged(strides), "conv": conv})
