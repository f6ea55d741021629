"""xception: depthwise-separable convolutions in residual units."""

import dataclasses
import itertools
from typing import Unpack

from flax import nnx

from convjax import _check, nn
from convjax.models._deep_stack import without_gain
from convjax.models._network import Family, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._style import TRANSITIONS, Style, skipped
from convjax.models._xception_keys import keras_keys, torch_keys

VARIANTS = {"legacy_xception": {}}


@with_options()
def xception(
    middle: int = 8,
    *,
    width: float = 1.0,
    transition: str = "projection",
    **options: Unpack[StridedOptions],
) -> Network:
    """Return Xception, or its plain twin.

    The stem and the first unit of each of the stages 1, 2 and 3 are the paper's entry flow, the
    other units of stage 3 its middle flow, stage 4 its exit flow. A unit is two or three times
    activation, depthwise 3x3, 1x1 and norm (three times where the shape is kept; no activation
    opens the very first); where it halves the image, a maximum of 3x3 ends it.

    Args:
      middle: units of the middle flow.
      width: factor on all channel counts.
      shortcut: of units that keep their shape: ``"identity"``, ``"none"``, ``"scaled"`` or
        ``"gated"``; ``"none"`` takes the others' shortcuts away as well.
      transition: what stands for the identity where the shape changes: ``"projection"`` or
        ``"zero_pad"`` (without parameters, so that the plain twin has the very same ones).
      init: initialiser of the kernels, or its name in ``nn.initializers.NAMES``; He's gain is given
        to the 1x1 part of a separable convolution alone.
      output_stride: 16 or 32: at 16 the exit flow's stride becomes a dilation; None for 32.
      dropout: rate before the classifier (the paper: 0.5).
      reference: ``"torch"`` or ``"keras"`` (SAME padding of the pools, epsilon 1e-3).
      **options: those of every residual family, see ``models.StridedOptions``.

    Returns:
      ``Network(stem=…, stage1=…, …, stage4=…, head=…)``; units are ``stage1/0``, …, and
      ``stage4/1`` and ``stage4/2`` are the last separable convolutions.

    Raises:
      ValueError: an unknown name, a size below one, another output stride.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.xception(rngs=nnx.Rngs(0)))  # shapes alone
      >>> sum(p.size for p in jax.tree.leaves(nnx.state(net, nnx.Param)))
      22855952

    Reference: Chollet, Xception: Deep Learning with Depthwise Separable Convolutions, 2017.
    """
    family = Family("xception", torch=torch_keys(middle), keras=keras_keys(middle))
    style = Style.of(options, family, keras={"epsilon": 1e-3, "momentum": 0.99})
    if style.output_stride not in (None, 16, 32):
        raise ValueError(
            f"output_stride={style.output_stride} must be 16 or 32, or None for 32: below 16 a "
            "pool would have to be dilated"
        )
    unit = _Unit(style, transition)
    sizes = (32, 64, 128, 256, 728, 1024, 1536, 2048)
    a, b, c, d, e, f, g, h = (max(1, round(features * width)) for features in sizes)
    rates = style.rates(4 + middle)
    last, dilation = (1, 2) if style.output_stride == 16 else (2, 1)
    return style.network(
        {
            "stem": nn.Chain(
                {
                    **style.step((style.in_features, a), 3, 2, number=1, padding="VALID"),
                    **style.step((a, b), 3, number=2, padding="VALID"),
                }
            ),
            "stage1": nn.Chain([unit.halving((b, c, c), next(rates), opened=False)]),
            "stage2": nn.Chain([unit.halving((c, d, d), next(rates))]),
            "stage3": nn.Chain(
                [
                    unit.halving((d, e, e), next(rates)),
                    *(unit.keeping(e, next(rates)) for _ in range(middle)),
                ]
            ),
            "stage4": nn.Chain(
                [
                    unit.halving((e, e, f), next(rates), strides=last),
                    unit.after((f, g), dilation),
                    unit.after((g, h), dilation),
                ]
            ),
            "head": style.head(h),
        }
    )


@dataclasses.dataclass(frozen=True)
class _Unit:
    """What all units of one network share; ``xception`` explains the options."""

    style: Style
    transition: str

    def __post_init__(self):
        _check.choice("transition", self.transition, TRANSITIONS)

    def halving(
        self, fans: tuple[int, int, int], rate: float, *, strides: int = 2, opened: bool = True
    ) -> nn.Residual:
        """Return a unit that changes the shape.

        Args:
          fans: channels in, between and out.
          rate: of stochastic depth.
          strides: of its pool.
          opened: whether an activation opens it.
        """
        steps = self._steps(fans)
        if not opened:
            del steps["activation1"]
        pool = self.style.pool("max", 3, strides)
        branch = nn.Chain({**steps, "pool": pool, **skipped(rate)})
        fan = (fans[0], fans[-1])
        return nn.Residual(branch, self.style.across(fan, strides, self.transition))

    def keeping(self, features: int, rate: float) -> nn.Residual:
        """Return a unit of the middle flow."""
        branch = nn.Chain({**self._steps((features,) * 4), **skipped(rate)})
        return nn.Residual(branch, self.style.beside(features))

    def after(self, fan: tuple[int, int], dilation: int) -> nn.Chain:
        """Return a separable convolution of the exit flow, its norm and activation after it."""
        conv = self._separable(fan, dilation)
        norm = self.style.normed("norm", fan[1])
        return nn.Chain({"conv": conv, **norm, "activation": self.style.act()})

    def _steps(self, fans: tuple[int, ...]) -> dict[str, nnx.Module]:
        parts: dict[str, nnx.Module] = {}
        for i, fan in enumerate(itertools.pairwise(fans), 1):
            parts[f"activation{i}"] = self.style.act()
            parts[f"conv{i}"] = self._separable(fan)
            parts |= self.style.normed(f"norm{i}", fan[1])
        return parts

    def _separable(self, fan: tuple[int, int], dilation: int = 1) -> nn.Chain:
        """Return depthwise and pointwise; the pair has one activation, so one of them its gain."""
        init = without_gain(self.style.init)
        conv = self.style.conv
        depthwise = conv(
            (fan[0], fan[0]), 3, groups=fan[0], dilation=dilation, use_bias=False, init=init
        )
        return nn.Chain(depthwise=depthwise, pointwise=conv(fan))
