"""mobilenet_v2: inverted residual units with linear bottlenecks."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from convjax.models._mobile import MobileUnit, Row, deepened, repeated, trunk
from convjax.models._mobile_keys import TORCH, keras_v2
from convjax.models._network import Family, Network, check_reference
from convjax.models._options import checked
from convjax.models._style import Style, divisible
from convjax.nn.initializers import Initializer

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
VARIANTS = {
    **{f"mobilenetv2_{w:03}": {"width": w / 100} for w in (35, 50, 75, 100, 140)},
    "mobilenetv2_110d": {"width": 1.1, "depth": 1.2, "fixed_ends": True},
    "mobilenetv2_120d": {"width": 1.2, "depth": 1.4, "fixed_ends": True},
}


@checked
def mobilenet_v2(
    width: float = 1.0,
    *,
    depth: float = 1.0,
    fixed_ends: bool = False,
    num_classes: int = 1000,
    in_features: int = 3,
    shortcut: str = "identity",
    shortcut_scale: float = 0.5,
    norm: str = "batch",
    activation: str = "relu6",
    init: str | Initializer = "he",
    output_stride: int | None = None,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    reference: str = "torch",
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
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
      num_classes: outputs of the head.
      in_features: channels of the image.
      shortcut: of units that keep their shape: ``"identity"``, ``"none"``, ``"scaled"`` or
        ``"gated"``.
      shortcut_scale: factor of the scaled shortcut.
      norm: ``"none"``, ``"batch"``, ``"group"`` or ``"layer"``.
      activation: a name in ``nn.ACTIVATIONS``.
      init: initialiser of the kernels, or its name in ``nn.initializers.NAMES``.
      output_stride: 2, 4, 8, 16 or 32: later strides become dilations; None for 32.
      dropout: rate before the classifier.
      stochastic_depth: rate that is reached after the last unit, from 0 at the first.
      reference: ``"torch"`` or ``"keras"`` (SAME padding, epsilon 1e-3).
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
      >>> net = nnx.eval_shape(lambda: models.mobilenet_v2(1.4, rngs=nnx.Rngs(0)))
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (582195824, 6108776)

    Reference: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018.
    """
    counts = [deepened(units, depth) for *_, units in _STAGES]
    if fixed_ends:
        counts[0], counts[-1] = _STAGES[0][-1], _STAGES[-1][-1]
    family = Family("mobilenet_v2", torch=TORCH, keras=keras_v2(counts))
    check_reference(reference, family)
    keras = reference == "keras"
    style = Style(
        rngs=rngs,
        reference=reference,
        norm=norm,
        epsilon=1e-3 if keras else 1e-5,
        momentum=0.999 if keras else 0.9,
        activation=activation,
        init=init,
        shortcut=shortcut,
        shortcut_scale=shortcut_scale,
        dtype=dtype,
        param_dtype=param_dtype,
    )

    def wide(features: int) -> int:
        return divisible(int(features * width) if keras else features * width)

    table = [
        repeated(Row(wide(features), strides, expansion), units)
        for (expansion, features, strides, _), units in zip(_STAGES, counts, strict=True)
    ]
    first = 32 if fixed_ends else divisible(32 * width)
    last = 1280 if fixed_ends else max(1280, divisible(1280 * width))
    return Network(
        {
            "stem": style.unit((in_features, first), 3, 2),
            **trunk(
                MobileUnit(style),
                first,
                table,
                output_stride=output_stride,
                stochastic_depth=stochastic_depth,
            ),
            "last": style.unit((table[-1][-1].features, last)),
            "head": style.head(last, num_classes, dropout=dropout),
        },
        family=family,
        reference=reference,
    )
