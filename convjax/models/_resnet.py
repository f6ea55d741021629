"""resnet: the residual networks for large images, post-activation, and what grew out of them."""

from collections.abc import Sequence
from typing import Unpack

from flax import nnx

from convjax import _check, nn
from convjax.models._network import Family, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._resnet_keys import KERAS, TORCH, TORCH_D, TORCH_LEGACY
from convjax.models._resnet_unit import ResNetUnit
from convjax.models._style import Dilated, Style

FAMILY = Family("resnet", torch=TORCH, keras=KERAS)
# The pooled projections of ResNet-D have one more module in each shortcut there.
FAMILY_D = Family("resnet_d", torch=TORCH_D)
# The SE-ResNets of Caffe pad nothing before the stem's pool.
FAMILY_LEGACY = Family("legacy_seresnet", torch=TORCH_LEGACY)
STEMS = ("7x7", "deep", "tiered", "unpadded")
# Keras pads this family explicitly, as PyTorch does.
_KERAS = {"epsilon": 1.001e-5, "momentum": 0.99, "use_bias": True, "same": False}

_BASIC, _BOTTLENECK = {"bottleneck": False}, {"bottleneck": True}
_UNITS = {
    "10": {"units": (1, 1, 1, 1), **_BASIC},
    "14": {"units": (1, 1, 1, 1), **_BOTTLENECK},
    "26": {"units": (2, 2, 2, 2), **_BOTTLENECK},
    "18": {"units": (2, 2, 2, 2), **_BASIC},
    "34": {"units": (3, 4, 6, 3), **_BASIC},
    "50": {"units": (3, 4, 6, 3), **_BOTTLENECK},
    "101": {"units": (3, 4, 23, 3), **_BOTTLENECK},
    "152": {"units": (3, 8, 36, 3), **_BOTTLENECK},
}
_USUAL = ("18", "34", "50", "101", "152")
_D = {"stem": "deep", "pooled_shortcut": True}
_T = {"stem": "tiered", "pooled_shortcut": True}
_SE = {"squeeze": True}
_LEGACY = {"squeeze": True, "squeeze_divisor": 1, "stem": "unpadded"}
_32X4D = {"groups": 32, "group_width": 4}
_32X8D = {"groups": 32, "group_width": 8}
_64X4D = {"groups": 64, "group_width": 4}
VARIANTS = {
    **{f"resnet{depth}": _UNITS[depth] for depth in ("26", *_USUAL)},
    **{f"resnet{depth}d": _UNITS[depth] | _D for depth in ("26", *_USUAL)},
    **{f"resnet{depth}t": _UNITS[depth] | _T for depth in ("10", "14", "26", "50")},
    **{f"seresnet{depth}": _UNITS[depth] | _SE for depth in _USUAL},
    **{
        f"legacy_seresnet{depth}": _UNITS[depth] | _LEGACY | {"strides_on": "reduce"}
        for depth in ("50", "101", "152")
    },
    **{
        f"legacy_seresnet{depth}": _UNITS[depth] | _LEGACY | {"squeeze_activated": True}
        for depth in ("18", "34")
    },
    **{
        f"legacy_seresnext{depth}_32x4d": _UNITS[depth] | _LEGACY | _32X4D
        for depth in ("26", "50", "101")
    },
    "seresnext26d_32x4d": _UNITS["26"] | _SE | _D | _32X4D,
    "seresnext26t_32x4d": _UNITS["26"] | _SE | _T | _32X4D,
    "seresnext50_32x4d": _UNITS["50"] | _SE | _32X4D,
    "seresnext101_32x4d": _UNITS["101"] | _SE | _32X4D,
    "seresnext101_32x8d": _UNITS["101"] | _SE | _32X8D,
    "seresnext101d_32x8d": _UNITS["101"] | _SE | _D | _32X8D,
    "seresnext101_64x4d": _UNITS["101"] | _SE | _64X4D,
    "resnext50_32x4d": _UNITS["50"] | _32X4D,
    "resnext101_32x4d": _UNITS["101"] | _32X4D,
    "resnext101_32x8d": _UNITS["101"] | _32X8D,
    "resnext101_64x4d": _UNITS["101"] | _64X4D,
    "wide_resnet50_2": {**_UNITS["50"], "group_width": 128},
    "wide_resnet101_2": {**_UNITS["101"], "group_width": 128},
}


@with_options()
def resnet(
    units: Sequence[int] = (3, 4, 6, 3),
    *,
    bottleneck: bool = True,
    width: int = 64,
    groups: int = 1,
    group_width: int = 64,
    stem: str = "7x7",
    pooled_shortcut: bool = False,
    strides_on: str | None = None,
    squeeze: bool = False,
    squeeze_divisor: int = 8,
    squeeze_activated: bool = False,
    zero_init: bool = False,
    transition: str = "projection",
    **options: Unpack[StridedOptions],
) -> Network:
    """Return a residual network of four stages: ResNet, ResNet-D, ResNeXt, Wide ResNet, SE-ResNet.

    A stem that takes the image to a quarter; stages of units with ``width``, 2, 4 and 8 ``width``
    channels (four times that outside of a bottleneck), halving the image at the start of all but
    the first; global average pool and a classifier. ``shortcut="none"`` is the plain twin.

    Args:
      units: units of each stage.
      bottleneck: whether a unit is 1x1, 3x3, 1x1 (from ResNet-50 on) or 3x3 twice.
      width: channels of the first stage.
      groups: groups of the 3x3 convolution of a bottleneck (ResNeXt: 32).
      group_width: channels of one group where ``width`` is 64 (ResNeXt-50 32x4d: 4; Wide
        ResNet-50-2, with one group: 128).
      stem: ``"7x7"``; ``"deep"``: three 3x3 convolutions (ResNet-D), the first two with half of
        ``width``; ``"tiered"``: the same, the first with three eighths (timm's ResNet-T);
        ``"unpadded"``: 7x7, and a pool that pads nothing (the SE-ResNets of Caffe).
      pooled_shortcut: whether a strided projection is a mean of 2x2 and then a 1x1 convolution of
        stride 1 (ResNet-D).
      strides_on: where a bottleneck strides: ``"conv"``, its 3x3 convolution ("v1.5"), or
        ``"reduce"``, its first 1x1 (the paper). None takes the reference's: Keras keeps the
        paper's.
      squeeze: whether squeeze-and-excitation ends every branch.
      squeeze_divisor: of what the channels in the squeeze, a sixteenth of the branch's, are rounded
        to multiples.
      squeeze_activated: whether an activation stands before the squeeze (legacy_seresnet18).
      zero_init: whether the last norm's scale of every branch is initialized to 0.
      transition: what stands for the identity where the shape changes: ``"projection"`` or
        ``"zero_pad"`` (without parameters, so that the plain twin has the very same ones).
      output_stride: 8, 16 or 32: later strides become dilations; None for 32.
      reference: ``"torch"`` or ``"keras"`` (biases, strides on the first 1x1, epsilon 1.001e-5).
      **options: those of every residual family, see ``models.StridedOptions``.

    Returns:
      ``Network(stem=…, stage1=…, …, stage4=…, head=…)``; units are ``stage1/0``, ``stage1/1``, ….

    Raises:
      ValueError: an unknown name, a size below one, options that exclude each other.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = models.resnet((1, 1, 1, 1), width=8, group_width=64, rngs=nnx.Rngs(0))
      >>> net(jnp.ones((1, 40, 32, 3)), train=False).shape
      (1, 1000)

    Reference: He et al. 2015; Xie et al. 2017 (ResNeXt); Zagoruyko and Komodakis 2016 (Wide
    ResNet); Hu et al. 2018 (SE); He et al., Bag of Tricks, 2019 (ResNet-D).
    """
    _check.choice("stem", stem, STEMS)
    style = Style.of(options, _family(stem, pooled_shortcut), keras=_KERAS)
    unit = ResNetUnit(
        style,
        bottleneck=bottleneck,
        groups=groups,
        group_width=group_width,
        strides_on=("reduce" if style.keras else "conv") if strides_on is None else strides_on,
        squeeze=squeeze,
        squeeze_divisor=squeeze_divisor,
        squeeze_activated=squeeze and squeeze_activated,
        zero_init=zero_init,
        transition=transition,
        pooled_shortcut=pooled_shortcut,
    )
    rates, dilated = style.rates(sum(units)), Dilated(style.output_stride, 4)
    stages: dict[str, nnx.Module] = {}
    features = width
    for s, count in enumerate(units):
        strides, before, dilation = dilated(1 if s == 0 else 2)
        wide = width * 2**s * unit.expansion
        first = unit((features, wide), strides, (before, dilation), next(rates))
        rest = [unit((wide, wide), 1, (dilation, dilation), next(rates)) for _ in range(count - 1)]
        stages[f"stage{s + 1}"] = nn.Chain([first, *rest])
        features = wide
    return style.network(
        {
            "stem": nn.Chain(_stem(style, stem, width)),
            **stages,
            "head": style.head(features),
        }
    )


def _family(stem: str, pooled_shortcut: bool) -> Family:
    """Return the family that has the names of these weights."""
    if pooled_shortcut:
        return FAMILY_D
    return FAMILY_LEGACY if stem == "unpadded" else FAMILY


def _stem(style: Style, kind: str, width: int) -> dict[str, nnx.Module]:
    """Return what takes the image to a quarter of its size."""
    pool = {"pool": style.pool("max", 3, 2)}
    if kind == "unpadded":  # a last window may lie partly beyond the image
        pool = {"pool": nn.Pool("max", (3, 3), strides=2, padding=((0, 1), (0, 1)))}
    if kind in ("7x7", "unpadded"):
        return {**style.step((style.in_features, width), 7, 2), **pool}
    narrow = width // 2
    first = narrow if kind == "deep" else max(narrow // 4 * 3, 1)
    return {
        **style.step((style.in_features, first), 3, 2, number=1),
        **style.step((first, narrow), 3, number=2),
        **style.step((narrow, width), 3, number=3),
        **pool,
    }
