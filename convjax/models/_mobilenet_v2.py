"""mobilenet_v2: inverted residual units with linear bottlenecks."""

from typing import Unpack

from convjax.models._mobile import MobileUnit, Row, deepened, repeated, trunk
from convjax.models._mobile_keys import TORCH, keras_v2, torchvision_v2
from convjax.models._network import Family, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._style import Style, divisible

# Expansion, features, strides and units of the stages.
_STAGES = (
    (0, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 2, 3),
    (6, 64, 2, 4),
    (6, 96, 1, 3),
    (6, 160, 2, 3),
    (6, 320, 1, 1),
)
_KERAS = {"epsilon": 1e-3, "momentum": 0.999}
VARIANTS = {
    **{f"mobilenetv2_{w:03}": {"width": w / 100} for w in (35, 50, 75, 100, 140)},
    "mobilenetv2_110d": {"width": 1.1, "depth": 1.2, "fixed_ends": True},
    "mobilenetv2_120d": {"width": 1.2, "depth": 1.4, "fixed_ends": True},
}


@with_options(activation="relu6")
def mobilenet_v2(
    width: float = 1.0,
    *,
    depth: float = 1.0,
    fixed_ends: bool = False,
    **options: Unpack[StridedOptions],
) -> Network:
    """Return a MobileNetV2: shortcuts between narrow layers, wide depthwise convolutions between.

    A strided 3x3 stem of 32 channels; 17 units in seven stages; a 1x1 convolution to 1280 channels;
    global average pool and a classifier. A unit is 1x1 to six times its channels, 3x3 depthwise,
    and 1x1 back without activation; where it keeps its shape it has a shortcut, elsewhere nothing.
    ``shortcut="none"`` is the plain twin, with the same parameters.

    Args:
      width: multiplier of all channels; below 1 the last convolution keeps its 1280.
      depth: multiplier of the units in every stage, rounded up.
      fixed_ends: whether stem, last convolution and the number of units in the first and last stage
        stay as they are whatever ``width`` and ``depth`` (timm's names in ``d``).
      output_stride: 2, 4, 8, 16 or 32: later strides become dilations; None for 32.
      stochastic_depth: rate that is reached after the last unit, from 0 at the first.
      reference: ``"torch"`` or ``"keras"`` (SAME padding, epsilon 1e-3).
      **options: those of every residual family, see ``models.StridedOptions``.

    Returns:
      ``Network(stem=…, stage1=…, …, stage7=…, last=…, head=…)``; the convolutions of a unit are
      ``stage2/0/branch/expand/conv``, ``…/depthwise/conv`` and ``…/project/conv``.

    Raises:
      ValueError: an unknown name, a multiplier that is not positive, stochastic depth without
        shortcuts.

    Example:
      >>> import convjax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.mobilenet_v2(1.4, rngs=nnx.Rngs(0)))
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (582195824, 6108776)

    Reference: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018.
    """
    counts = [deepened(units, depth) for *_, units in _STAGES]
    if fixed_ends:
        counts[0], counts[-1] = _STAGES[0][-1], _STAGES[-1][-1]
    family = Family(
        "mobilenet_v2", torch=TORCH, torchvision=torchvision_v2(counts), keras=keras_v2(counts)
    )
    style = Style.of(options, family, keras=_KERAS)

    def wide(features: int) -> int:
        return divisible(int(features * width) if style.keras else features * width)

    table = [
        repeated(Row(wide(features), strides, expansion), units)
        for (expansion, features, strides, _), units in zip(_STAGES, counts, strict=True)
    ]
    first = 32 if fixed_ends else divisible(32 * width)
    last = 1280 if fixed_ends else max(1280, divisible(1280 * width))
    return style.network(
        {
            "stem": style.unit((style.in_features, first), 3, 2),
            **trunk(MobileUnit(style), first, table),
            "last": style.unit((table[-1][-1].features, last)),
            "head": style.head(last),
        }
    )
