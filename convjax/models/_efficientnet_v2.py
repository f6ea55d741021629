"""efficientnet_v2: full convolutions in the early units, depthwise ones later."""

from typing import Unpack

from convjax import _check
from convjax.models._mobile import MobileUnit, Row, deepened, repeated, scaled, trunk
from convjax.models._mobile_keys import torch_of, torchvision_of
from convjax.models._network import Family, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._style import Style, divisible


def _fused(features: int, strides: int, expansion: int) -> Row:
    return Row(features, strides, expansion, kind="fused")


def _inverted(features: int, strides: int, expansion: int) -> Row:
    return Row(features, strides, expansion, squeeze=True)


# Features, strides and expansion of the units, and how many.
_TABLES = {
    "b": (
        (_fused(16, 1, 0), 1),
        (_fused(32, 2, 4), 2),
        (_fused(48, 2, 4), 2),
        (_inverted(96, 2, 4), 3),
        (_inverted(112, 1, 6), 5),
        (_inverted(192, 2, 6), 8),
    ),
    "s": (
        (_fused(24, 1, 0), 2),
        (_fused(48, 2, 4), 4),
        (_fused(64, 2, 4), 4),
        (_inverted(128, 2, 4), 6),
        (_inverted(160, 1, 6), 9),
        (_inverted(256, 2, 6), 15),
    ),
    "m": (
        (_fused(24, 1, 0), 3),
        (_fused(48, 2, 4), 5),
        (_fused(80, 2, 4), 5),
        (_inverted(160, 2, 4), 7),
        (_inverted(176, 1, 6), 14),
        (_inverted(304, 2, 6), 18),
        (_inverted(512, 1, 6), 5),
    ),
    "l": (
        (_fused(32, 1, 0), 4),
        (_fused(64, 2, 4), 7),
        (_fused(96, 2, 4), 7),
        (_inverted(192, 2, 4), 10),
        (_inverted(224, 1, 6), 19),
        (_inverted(384, 2, 6), 25),
        (_inverted(640, 1, 6), 7),
    ),
    "xl": (
        (_fused(32, 1, 0), 4),
        (_fused(64, 2, 4), 8),
        (_fused(96, 2, 4), 8),
        (_inverted(192, 2, 4), 16),
        (_inverted(256, 1, 6), 24),
        (_inverted(512, 2, 6), 32),
        (_inverted(640, 1, 6), 8),
    ),
}
_STEMS = {"b": 32, "s": 24, "m": 24, "l": 32, "xl": 32}
_SAME = {"same_padding": True, "epsilon": 1e-3}
_SIZES = {f"efficientnetv2_{kind}": {"kind": kind} for kind in ("s", "m", "l", "xl")}
VARIANTS = {
    **_SIZES,
    **{f"tf_{name}": {**preset, **_SAME} for name, preset in _SIZES.items()},
    **{
        f"tf_efficientnetv2_b{i}": {"kind": "b", "width": width, "depth": depth, **_SAME}
        for i, (width, depth) in enumerate(((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4)))
    },
}


@with_options(activation="silu")
def efficientnet_v2(
    kind: str = "s",
    width: float = 1.0,
    depth: float = 1.0,
    *,
    squeeze: bool = True,
    epsilon: float | None = None,
    same_padding: bool = False,
    **options: Unpack[StridedOptions],
) -> Network:
    """Return an EfficientNetV2: S, M, L or XL, or B0 to B3 by width and depth.

    A strided 3x3 stem; a stage of 3x3 convolutions; two of fused units, a 3x3 convolution to four
    times the channels and a 1x1 one back; three or four stages of inverted residual units with
    squeeze-and-excitation; a 1x1 convolution to 1280 channels; global average pool and a
    classifier. ``shortcut="none"`` is the plain twin, with the same parameters.

    Args:
      kind: ``"s"``, ``"m"``, ``"l"``, ``"xl"``, or ``"b"`` for the small ones.
      width: multiplier of all channels.
      depth: multiplier of the units in every stage, rounded up.
      squeeze: whether there is squeeze-and-excitation.
      epsilon: of the norms; None for 1e-5 (torchvision: 1e-3).
      same_padding: whether padding is SAME (timm's ``tf_``).
      output_stride: 2, 4, 8, 16 or 32: later strides become dilations; None for 32.
      stochastic_depth: rate that is reached after the last unit, from 0 at the first.
      reference: ``"torch"``.
      **options: those of every residual family, see ``models.StridedOptions``.

    Returns:
      ``Network(stem=…, stage1=…, …, last=…, head=…)``; the convolutions of a unit are
      ``stage1/0/branch/conv``, ``stage2/0/branch/expand/conv`` and ``…/project/conv``.

    Raises:
      ValueError: an unknown name, a multiplier that is not positive, stochastic depth without
        shortcuts.

    Example:
      >>> import convjax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.efficientnet_v2("b", rngs=nnx.Rngs(0)))
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (718086176, 7139704)

    Reference: Tan and Le, EfficientNetV2: Smaller Models and Faster Training, 2021.
    """
    _check.choice("kind", kind, _TABLES)

    def wide(features: int) -> int:
        # The small ones are cut to eights without the rule that nothing shrinks by a tenth.
        return divisible(features * width, least=0.0 if kind == "b" else 0.9)

    rows = [repeated(row, deepened(units, depth)) for row, units in _TABLES[kind]]
    table = [
        [row._replace(squeeze=row.squeeze and squeeze) for row in stage]
        for stage in scaled(rows, wide)
    ]
    family = Family(
        f"efficientnet_v2_{kind}", torch=torch_of(rows), torchvision=torchvision_of(rows)
    )
    style = Style.of(options, family, epsilon=epsilon, same=same_padding or None)
    first, final, last = wide(_STEMS[kind]), table[-1][-1].features, wide(1280)
    return style.network(
        {
            "stem": style.unit((style.in_features, first), 3, 2),
            **trunk(MobileUnit(style), first, table),
            "last": style.unit((final, last)),
            "head": style.head(last),
        }
    )
