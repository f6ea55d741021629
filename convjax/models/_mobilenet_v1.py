"""mobilenet_v1: depthwise-separable units, one after the other."""

from typing import Unpack

from convjax.models._mobile import MobileUnit, Row, deepened, repeated, trunk
from convjax.models._mobile_keys import TORCH_V1, keras_v1, mlperf_tiny
from convjax.models._network import Family, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._style import Style, divisible

# Features, strides and units of the stages.
_STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 2, 6), (1024, 2, 2))
_KERAS = {"epsilon": 1e-3, "momentum": 0.99}
VARIANTS = {f"mobilenetv1_{w:03}": {"width": w / 100} for w in (25, 50, 75, 100, 125)}
VARIANTS["mobilenetv1_100h"] = {"last": True}


@with_options(shortcut="none", activation="relu6")
def mobilenet_v1(
    width: float = 1.0,
    *,
    depth: float = 1.0,
    last: bool = False,
    **options: Unpack[StridedOptions],
) -> Network:
    """Return a MobileNet of 2017: a plain stack of depthwise-separable units.

    A strided 3x3 stem of 32 channels; 13 units in five stages of 64, 128, 256, 512 and 1024
    channels, halving the image at the start of all but the first; global average pool and a
    classifier. A unit is 3x3 depthwise, norm, activation, 1x1, norm, activation. The network has no
    shortcuts: it is the plain one, and ``shortcut="identity"`` makes its residual twin, with the
    sum before a unit's last activation.

    Args:
      width: multiplier of all channels, those of the head too.
      depth: multiplier of the units in every stage, rounded up.
      last: whether a 1x1 convolution to 1024 channels, or more at widths above 1, with norm and
        activation, comes before the pool (timm's name in ``h``).
      output_stride: 2, 4, 8, 16 or 32: later strides become dilations; None for 32.
      stochastic_depth: rate that is reached after the last unit, from 0 at the first.
      reference: ``"torch"`` (channels in eights) or ``"keras"`` (channels cut to whole numbers,
        padding on the far sides, epsilon 1e-3).
      **options: those of every residual family, see ``models.StridedOptions``.

    Returns:
      ``Network(stem=…, stage1=…, …, stage5=…, head=…)``; the convolutions of a unit are
      ``stage2/0/branch/depthwise/conv`` and ``stage2/0/branch/pointwise/conv``.

    Raises:
      ValueError: an unknown name, a multiplier that is not positive, stochastic depth without
        shortcuts.

    Example:
      >>> import convjax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.mobilenet_v1(0.25, rngs=nnx.Rngs(0)))
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (41030272, 470072)

    Reference: Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
    Applications, 2017.
    """
    counts = tuple(deepened(units, depth) for _, _, units in _STAGES)
    others = {"MLPerf Tiny": mlperf_tiny(counts)}
    family = Family("mobilenet_v1", torch=TORCH_V1, keras=keras_v1(counts), others=others)
    style = Style.of(options, family, keras=_KERAS)

    def wide(features: int) -> int:
        return int(features * width) if style.keras else divisible(features * width)

    # Keras pads before its strided convolutions, whether the image's side is even or odd.
    far = ((0, 1), (0, 1)) if style.keras else None
    unit = MobileUnit(style, last="pointwise", activated=True, strided_padding=far)
    table = [
        repeated(Row(wide(features), strides), units)
        for (features, strides, _), units in zip(_STAGES, counts, strict=True)
    ]
    features = max(1024, wide(1024)) if last else wide(1024)
    widened = {"last": style.unit((wide(1024), features))} if last else {}
    return style.network(
        {
            "stem": style.unit((style.in_features, wide(32)), 3, 2),
            **trunk(unit, wide(32), table),
            **widened,
            "head": style.head(features),
        }
    )
