"""resnet_v2: the pre-activation residual networks for large images."""

from collections.abc import Sequence
from typing import Unpack

from flax import nnx

from convjax import _check, nn
from convjax.models._network import Family, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._preact_unit import PreActUnit
from convjax.models._resnet_v2_keys import KERAS, TORCH
from convjax.models._style import Dilated, Style

FAMILY = Family("resnet_v2", torch=TORCH, keras=KERAS)
# Keras pads this family explicitly, as PyTorch does.
_KERAS = {"epsilon": 1.001e-5, "momentum": 0.99, "same": False}
# Weights of variance 1 in every kernel but the classifier's.
_BIT_KERNELS = {"scaled": False, "epsilon": 1e-8}
STRIDES_AT = ("start", "end")
STEMS = ("7x7", "zeros", "deep", "tiered")

_UNITS = {
    "18": {"units": (2, 2, 2, 2), "bottleneck": False},
    "34": {"units": (3, 4, 6, 3), "bottleneck": False},
    "50": {"units": (3, 4, 6, 3), "bottleneck": True},
    "101": {"units": (3, 4, 23, 3), "bottleneck": True},
    "152": {"units": (3, 8, 36, 3), "bottleneck": True},
}
VARIANTS = {
    **{f"resnetv2_{depth}": units for depth, units in _UNITS.items()},
    **{
        f"resnetv2_{depth}d": {**units, "stem": "deep", "pooled_shortcut": True}
        for depth, units in _UNITS.items()
    },
    "resnetv2_50t": {**_UNITS["50"], "stem": "tiered", "pooled_shortcut": True},
    "resnetv2_50d_gn": {**_UNITS["50"], "stem": "deep", "pooled_shortcut": True, "norm": "group"},
    **{
        f"resnetv2_{depth}x{factor}_bit": {
            **_UNITS[depth],
            "width": 64 * factor,
            "stem": "zeros",
            "norm": "group",
            "standardize": True,
        }
        for depth, factor in (("50", 1), ("50", 3), ("101", 1), ("101", 3), ("152", 2), ("152", 4))
    },
}


@with_options()
def resnet_v2(
    units: Sequence[int] = (3, 4, 6, 3),
    *,
    bottleneck: bool = True,
    width: int = 64,
    stem: str = "7x7",
    pooled_shortcut: bool = False,
    strides_at: str | None = None,
    standardize: bool = False,
    zero_init: bool = False,
    transition: str = "projection",
    unit_dropout: float = 0.0,
    **options: Unpack[StridedOptions],
) -> Network:
    """Return a pre-activation residual network of four stages: ResNet v2, ResNet v2-D, BiT.

    A stem without norm that takes the image to a quarter; stages of units with ``width``, 2, 4 and
    8 ``width`` channels (four times that outside of a bottleneck), in which norm and activation
    come before each convolution; a last norm and activation, global average pool and a classifier.
    From the stem to the last norm runs a chain of sums without any activation between them.
    ``shortcut="none"`` is the plain twin.

    Args:
      units: units of each stage.
      bottleneck: whether a unit is 1x1, 3x3, 1x1 (from ResNet-50 on) or 3x3 twice.
      width: channels of the first stage.
      stem: ``"7x7"``; ``"zeros"``: the same, and zeros stand around the image in the maximum (BiT);
        ``"deep"``: three 3x3 convolutions (ResNet-D), the first two with half of ``width``;
        ``"tiered"``: the same, the first with three eighths.
      pooled_shortcut: whether a strided projection is a mean of 2x2 and then a 1x1 convolution of
        stride 1 (ResNet-D).
      strides_at: which unit of a stage strides: ``"start"``, the first of all stages but the first,
        or ``"end"``, the last of all stages but the last, whose shortcut then takes every other
        place. None takes the reference's: Keras has the end.
      standardize: whether every kernel but the classifier's has mean 0 and variance 1 for each
        output (BiT, with ``norm="group"``).
      zero_init: whether the last convolution of every branch is initialized to 0.
      transition: what stands for the identity where channels change: ``"projection"``, of the
        activation that the branch reads too, or ``"zero_pad"``, of the unit's input (without
        parameters, so that the plain twin has the very same ones).
      output_stride: 8, 16 or 32: later strides become dilations; None for 32.
      unit_dropout: rate before the last convolution of every branch.
      reference: ``"torch"`` or ``"keras"`` (strides at the end of a stage, biases where no norm
        follows, epsilon 1.001e-5).
      **options: those of every residual family, see ``models.StridedOptions``.

    Returns:
      ``Network(stem=…, stage1=…, …, stage4=…, head=…)``; units are ``stage1/0``, ``stage1/1``, …. A
      unit that changes its channels is a chain whose last unit is ``residual``.

    Raises:
      ValueError: an unknown name, a size below one, options that exclude each other.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = models.resnet_v2((1, 1, 1, 1), width=8, num_classes=10, rngs=nnx.Rngs(0))
      >>> net(jnp.ones((1, 40, 32, 3)), train=False).shape
      (1, 10)

    Reference: He et al., Identity Mappings in Deep Residual Networks, 2016; He et al., Bag of
    Tricks, 2019 (ResNet-D); Kolesnikov et al., Big Transfer, 2020 (BiT).
    """
    kernels = _BIT_KERNELS if standardize else None
    style = Style.of(options, FAMILY, keras=_KERAS, standardize=kernels)
    if strides_at is None:
        strides_at = "end" if style.keras else "start"
    _check_options(style.reference, stem, strides_at, pooled_shortcut)
    unit = PreActUnit(
        style,
        bottleneck=bottleneck,
        transition=transition,
        pooled_shortcut=pooled_shortcut,
        zero_init=zero_init,
        dropout=unit_dropout,
        outer_bias=True if style.keras else None,
    )
    wide = (width, *(width * 2**s * unit.expansion for s in range(len(units))))
    return style.network(
        {
            "stem": nn.Chain(_stem(style, stem, width)),
            **_stages(unit, units, wide, strides_at),
            "head": style.head(wide[-1], activated=True),
        }
    )


def _check_options(reference: str, stem: str, strides_at: str, pooled_shortcut: bool) -> None:
    _check.choice("stem", stem, STEMS)
    _check.choice("strides_at", strides_at, STRIDES_AT)
    if reference == "keras" and (stem != "7x7" or pooled_shortcut):
        raise ValueError(
            f"reference='keras' has neither stem={stem!r} nor pooled_shortcut={pooled_shortcut}; "
            "give reference='torch', or stem='7x7' and no pooled_shortcut"
        )
    if strides_at == "end" and pooled_shortcut:
        raise ValueError(
            "pooled_shortcut=True is of a projection that strides, and with strides_at='end' none "
            "does; give strides_at='start'"
        )


def _stages(
    unit: PreActUnit, units: Sequence[int], wide: Sequence[int], strides_at: str
) -> dict[str, nnx.Module]:
    """Return the stages by name; ``wide`` begins with the stem's channels."""
    rates, dilated = unit.style.rates(sum(units)), Dilated(unit.style.output_stride, 4)
    at_end = strides_at == "end"
    unstrided = len(units) - 1 if at_end else 0
    stages: dict[str, nnx.Module] = {}
    for s, count in enumerate(units):
        strides, before, after = dilated(1 if s == unstrided else 2)
        made = []
        for i in range(count):
            fan = (wide[s if i == 0 else s + 1], wide[s + 1])
            strided = i == (count - 1 if at_end else 0)
            # Strides that became dilations widen all that comes after the unit that had them.
            dilations = (before, before) if at_end else (before if strided else after, after)
            made.append(unit(fan, strides if strided else 1, dilations, next(rates)))
        stages[f"stage{s + 1}"] = nn.Chain(made)
    return stages


def _stem(style: Style, kind: str, width: int) -> dict[str, nnx.Module]:
    """Return what takes the image to a quarter; its last norm is the first unit's."""
    # Keras pads with zeros before the maximum too.
    pool = {"pool": style.pool("max", 3, 2, zero_pad=style.keras or kind == "zeros")}
    if kind in ("7x7", "zeros"):
        bias = True if style.keras else None
        return {"conv": style.conv((style.in_features, width), 7, 2, use_bias=bias), **pool}
    narrow = width // 2
    first = narrow if kind == "deep" else max(narrow // 4 * 3, 1)
    return {
        **style.step((style.in_features, first), 3, 2, number=1),
        **style.step((first, narrow), 3, number=2),
        "conv3": style.conv((narrow, width), 3),
        **pool,
    }
