"""efficientnet: width, depth and image scaled together."""

from typing import Unpack

from convjax.models._mobile import MobileUnit, Row, deepened, repeated, trunk
from convjax.models._mobile_keys import (
    KERAS_EFFICIENTNET,
    TORCH,
    TORCHVISION_EFFICIENTNET,
    TORCHVISION_EFFICIENTNET_B5,
    efficientnet_pytorch,
)
from convjax.models._network import Family, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._style import Style, divisible

# Expansion, features, strides, side of the window and units of the stages.
_STAGES = (
    (0, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 2, 3, 3),
    (6, 112, 1, 5, 3),
    (6, 192, 2, 5, 4),
    (6, 320, 1, 3, 1),
)
_KERAS = {"epsilon": 1e-3, "momentum": 0.99}
_SCALES = (
    *((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4)),
    *((1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1)),
)
_LITE = {"squeeze": False, "fixed_ends": True, "activation": "relu6"}
VARIANTS = {
    f"efficientnet_b{i}": {"width": width, "depth": depth}
    for i, (width, depth) in enumerate(_SCALES)
}
VARIANTS |= {
    f"efficientnet_lite{i}": {"width": width, "depth": depth, **_LITE}
    for i, (width, depth) in enumerate(_SCALES[:5])
}
VARIANTS |= {
    f"tf_{name}": {**preset, "same_padding": True, "epsilon": 1e-3}
    for name, preset in VARIANTS.items()
}


@with_options(activation="silu")
def efficientnet(
    width: float = 1.0,
    depth: float = 1.0,
    *,
    squeeze: bool = True,
    fixed_ends: bool = False,
    epsilon: float | None = None,
    same_padding: bool = False,
    **options: Unpack[StridedOptions],
) -> Network:
    """Return an EfficientNet: B0 at width and depth 1, B7 at 2.0 and 3.1; or an EfficientNet-Lite.

    A strided 3x3 stem of 32 channels; seven stages of inverted residual units with windows of 3x3
    or 5x5 and squeeze-and-excitation; a 1x1 convolution to 1280 channels; global average pool and a
    classifier. ``shortcut="none"`` is the plain twin, with the same parameters.

    Args:
      width: multiplier of all channels.
      depth: multiplier of the units in every stage, rounded up.
      squeeze: whether there is squeeze-and-excitation.
      fixed_ends: whether stem, last convolution and the number of units in the first and last stage
        stay as they are whatever ``width`` and ``depth`` (EfficientNet-Lite).
      epsilon: of the norms; None for the reference's.
      same_padding: whether padding is SAME although the reference is ``"torch"`` (timm's ``tf_``).
      output_stride: 2, 4, 8, 16 or 32: later strides become dilations; None for 32.
      stochastic_depth: rate that is reached after the last unit, from 0 at the first.
      reference: ``"torch"`` or ``"keras"`` (SAME padding, epsilon 1e-3). Keras's own model prepares
        the image first; this one takes it prepared.
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
      >>> net = nnx.eval_shape(lambda: models.efficientnet(rngs=nnx.Rngs(0)))
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (385814752, 5288548)

    Reference: Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks,
    2019. The Lite ones: Liu, Higher accuracy on vision models with EfficientNet-Lite, 2020.
    """
    counts = [deepened(units, depth) for *_, units in _STAGES]
    if fixed_ends:
        counts[0], counts[-1] = _STAGES[0][-1], _STAGES[-1][-1]
    large = (width, depth) in _SCALES[5:]
    family = Family(
        "efficientnet",
        torch=TORCH,
        torchvision=TORCHVISION_EFFICIENTNET_B5 if large else TORCHVISION_EFFICIENTNET,
        keras=KERAS_EFFICIENTNET,
        others={"EfficientNet-PyTorch": efficientnet_pytorch(counts)},
    )
    style = Style.of(options, family, keras=_KERAS, epsilon=epsilon, same=same_padding or None)

    def wide(features: int) -> int:
        return divisible(features * width)

    table = [
        repeated(Row(wide(features), strides, expansion, side, squeeze), units)
        for (expansion, features, strides, side, _), units in zip(_STAGES, counts, strict=True)
    ]
    first, last = (32, 1280) if fixed_ends else (wide(32), wide(1280))
    return style.network(
        {
            "stem": style.unit((style.in_features, first), 3, 2),
            **trunk(MobileUnit(style), first, table),
            "last": style.unit((wide(320), last)),
            "head": style.head(last),
        }
    )
