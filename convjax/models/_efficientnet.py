"""efficientnet: width, depth and image scaled together."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from convjax.models._mobile import MobileUnit, Row, deepened, repeated, trunk
from convjax.models._mobile_keys import KERAS_EFFICIENTNET, TORCH
from convjax.models._network import Family, Network, check_reference
from convjax.models._options import checked
from convjax.models._style import Style, divisible
from convjax.nn.initializers import Initializer

FAMILY = Family("efficientnet", torch=TORCH, keras=KERAS_EFFICIENTNET)
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
_SCALES = (
    *((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4)),
    *((1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1)),
)
VARIANTS = {
    f"efficientnet_b{i}": {"width": width, "depth": depth}
    for i, (width, depth) in enumerate(_SCALES)
}
VARIANTS |= {
    f"tf_{name}": {**preset, "same_padding": True, "epsilon": 1e-3}
    for name, preset in VARIANTS.items()
}


@checked
def efficientnet(
    width: float = 1.0,
    depth: float = 1.0,
    *,
    squeeze: bool = True,
    num_classes: int = 1000,
    in_features: int = 3,
    shortcut: str = "identity",
    shortcut_scale: float = 0.5,
    norm: str = "batch",
    epsilon: float | None = None,
    activation: str = "silu",
    init: str | Initializer = "he",
    same_padding: bool = False,
    output_stride: int | None = None,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    reference: str = "torch",
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> Network:
    """Return an EfficientNet: B0 at width and depth 1, B7 at 2.0 and 3.1.

    A strided 3x3 stem of 32 channels; seven stages of inverted residual units with windows of 3x3
    or 5x5 and squeeze-and-excitation; a 1x1 convolution to 1280 channels; global average pool and a
    classifier. ``shortcut="none"`` is the plain twin, with the same parameters.

    Args:
      width: multiplier of all channels.
      depth: multiplier of the units in every stage, rounded up.
      squeeze: whether there is squeeze-and-excitation.
      num_classes: outputs of the head.
      in_features: channels of the image.
      shortcut: of units that keep their shape: ``"identity"``, ``"none"``, ``"scaled"`` or
        ``"gated"``.
      shortcut_scale: factor of the scaled shortcut.
      norm: ``"none"``, ``"batch"``, ``"group"`` or ``"layer"``.
      epsilon: of the norms; None for the reference's.
      activation: a name in ``nn.ACTIVATIONS``.
      init: initialiser of the kernels, or its name in ``nn.initializers.NAMES``.
      same_padding: whether padding is SAME although the reference is ``"torch"`` (timm's ``tf_``).
      output_stride: 2, 4, 8, 16 or 32: later strides become dilations; None for 32.
      dropout: rate before the classifier.
      stochastic_depth: rate that is reached after the last unit, from 0 at the first.
      reference: ``"torch"`` or ``"keras"`` (SAME padding, epsilon 1e-3). Keras's own model prepares
        the image first; this one takes it prepared.
      dtype: dtype of the computation; None takes the promotion of input and parameters.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values.

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
    2019.
    """
    check_reference(reference, FAMILY)
    keras = reference == "keras"
    style = Style(
        rngs=rngs,
        reference=reference,
        same=same_padding,
        norm=norm,
        epsilon=(1e-3 if keras else 1e-5) if epsilon is None else epsilon,
        momentum=0.99 if keras else 0.9,
        activation=activation,
        init=init,
        shortcut=shortcut,
        shortcut_scale=shortcut_scale,
        dtype=dtype,
        param_dtype=param_dtype,
    )

    def wide(features: int) -> int:
        return divisible(features * width)

    table = [
        repeated(Row(wide(features), strides, expansion, side, squeeze), deepened(units, depth))
        for expansion, features, strides, side, units in _STAGES
    ]
    return Network(
        {
            "stem": style.unit((in_features, wide(32)), 3, 2),
            **trunk(
                MobileUnit(style),
                wide(32),
                table,
                output_stride=output_stride,
                stochastic_depth=stochastic_depth,
            ),
            "last": style.unit((wide(320), wide(1280))),
            "head": style.head(wide(1280), num_classes, dropout=dropout),
        },
        family=FAMILY,
        reference=reference,
    )
