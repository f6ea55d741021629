"""mobilenet_v4: inverted residual units with depthwise convolutions where a search put them."""

from collections.abc import Iterator
from typing import Unpack

from flax import nnx

from convjax import _check, nn
from convjax.models._mobile import MobileUnit, Row, scaled, trunk
from convjax.models._mobile_keys import torch_of
from convjax.models._network import Family, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._style import Style, divisible, dropped


def _conv(features: int, side: int, strides: int = 1) -> Row:
    """One convolution, never with a shortcut."""
    return Row(features, strides, side=side, kind="fused", skip=False)


def _fused(features: int, strides: int, expansion: int) -> Row:
    return Row(features, strides, expansion, kind="fused")


def _units(features: int, *rows: tuple[int, int, int], strides: int = 2) -> Iterator[Row]:
    """Yield universal units: sides of their two depthwise windows, 0 for none, and expansions."""
    for start, side, expansion in rows:
        yield Row(features, strides, expansion, side, kind="universal", start=start)
        strides = 1


# The names of the paper: both windows make an extra depthwise unit, the second alone an inverted
# bottleneck, the first alone a ConvNeXt unit, none a feed-forward one.
_TABLES = {
    "small": (
        (_conv(32, 3, 2), _conv(32, 1)),
        (_conv(96, 3, 2), _conv(64, 1)),
        (*_units(96, (5, 5, 3), *((0, 3, 2),) * 4, (3, 0, 4)),),
        (*_units(128, (3, 3, 6), (5, 5, 4), (0, 5, 4), (0, 5, 3), *((0, 3, 4),) * 2),),
        (_conv(960, 1),),
    ),
    "medium": (
        (_fused(48, 2, 4),),
        (*_units(80, (3, 5, 4), (3, 3, 2)),),
        (
            *_units(160, (3, 5, 6), *((3, 3, 4),) * 2, (3, 5, 4), (3, 3, 4)),
            *_units(160, (3, 0, 4), (0, 0, 2), (3, 0, 4), strides=1),
        ),
        (
            *_units(256, (5, 5, 6), (5, 5, 4), *((3, 5, 4),) * 2, (0, 0, 4), (3, 0, 4)),
            *_units(256, (3, 5, 2), (5, 5, 4), *((0, 0, 4),) * 2, (5, 0, 2), strides=1),
        ),
        (_conv(960, 1),),
    ),
    "large": (
        (_fused(48, 2, 4),),
        (*_units(96, (3, 5, 4), (3, 3, 4)),),
        (*_units(192, (3, 5, 4), *((3, 3, 4),) * 3, (3, 5, 4), *((5, 3, 4),) * 5, (3, 0, 4)),),
        (
            *_units(512, *((5, 5, 4),) * 4, (5, 0, 4), (5, 3, 4), *((5, 0, 4),) * 2),
            *_units(512, (5, 3, 4), (5, 5, 4), *((5, 0, 4),) * 3, strides=1),
        ),
        (_conv(960, 1),),
    ),
}
_STEMS = {"small": 32, "medium": 32, "large": 24}
FAMILIES = {
    kind: Family(f"mobilenet_v4_{kind}", torch=torch_of(table)) for kind, table in _TABLES.items()
}
VARIANTS = {
    "mobilenetv4_conv_small_035": {"kind": "small", "width": 0.35},
    "mobilenetv4_conv_small_050": {"kind": "small", "width": 0.5},
    **{f"mobilenetv4_conv_{kind}": {"kind": kind} for kind in _TABLES},
}


@with_options()
def mobilenet_v4(
    kind: str = "small",
    *,
    width: float = 1.0,
    **options: Unpack[StridedOptions],
) -> Network:
    """Return a MobileNetV4 of convolutions alone: small, medium or large.

    A strided 3x3 stem; four stages of convolutions, fused and universal inverted residual units as
    a search found them; a 1x1 convolution to 960 channels; and behind the global average pool a
    hidden layer of 1280, with norm and activation, before the classifier. ``shortcut="none"`` is
    the plain twin, with the same parameters.

    Args:
      kind: ``"small"``, ``"medium"`` or ``"large"``.
      width: multiplier of the channels; the hidden layer's stay, and below 1 the stem's.
      output_stride: 2, 4, 8, 16 or 32: later strides become dilations; None for 32.
      stochastic_depth: rate that is reached after the last unit, from 0 at the first.
      reference: ``"torch"``.
      **options: those of every residual family, see ``models.StridedOptions``.

    Returns:
      ``Network(stem=…, stage1=…, …, stage5=…, head=…)``; the convolutions of a universal unit are
      ``stage3/0/branch/start/conv``, ``…/expand/conv``, ``…/depthwise/conv``, ``…/project/conv``.

    Raises:
      ValueError: an unknown name, a multiplier that is not positive, stochastic depth without
        shortcuts.

    Example:
      >>> import convjax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.mobilenet_v4(rngs=nnx.Rngs(0)))
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (186005568, 3774024)

    Reference: Qin et al., MobileNetV4: Universal Models for the Mobile Ecosystem, 2024.
    """
    _check.choice("kind", kind, _TABLES)
    style = Style.of(options, FAMILIES[kind])
    table = scaled(_TABLES[kind], lambda features: divisible(features * width))
    first = _STEMS[kind] if width < 1 else divisible(_STEMS[kind] * width)
    return style.network(
        {
            "stem": style.unit((style.in_features, first), 3, 2),
            **trunk(MobileUnit(style), first, table),
            "head": _head(style, table[-1][-1].features),
        }
    )


def _head(style: Style, features: int, hidden: int = 1280) -> nn.Chain:
    """Return pool, hidden layer with norm and activation, and classifier."""
    widen: nnx.Module = nn.Dense(
        features,
        hidden,
        use_bias=style.norm == "none",
        kernel_init=style.init,
        rngs=style.rngs,
        **style.dtypes,
    )
    return nn.Chain(
        {
            "pool": nn.GlobalPool("avg"),
            "hidden": widen,
            **style.normed("norm", hidden),
            "activation": style.act(),
            **dropped(style.dropout),
            **style.classifier(hidden),
        }
    )
