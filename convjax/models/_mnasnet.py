"""mnasnet: inverted residual units found by search, with the time on a phone in its score."""

from typing import Unpack

from convjax import _check
from convjax.models._mobile import MobileUnit, Row, repeated, scaled, trunk
from convjax.models._mobile_keys import TORCH, torchvision_mnasnet
from convjax.models._network import Family, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._style import Style, divisible

# Features, strides, expansion, side of the window, squeeze-and-excitation; and how many units.
_TABLES = {
    "b1": (
        (Row(16), 1),
        (Row(24, 2, 3), 3),
        (Row(40, 2, 3, 5), 3),
        (Row(80, 2, 6, 5), 3),
        (Row(96, 1, 6), 2),
        (Row(192, 2, 6, 5), 4),
        (Row(320, 1, 6), 1),
    ),
    "a1": (
        (Row(16), 1),
        (Row(24, 2, 6), 2),
        (Row(40, 2, 3, 5, True), 3),
        (Row(80, 2, 6), 4),
        (Row(112, 1, 6, 3, True), 2),
        (Row(160, 2, 6, 5, True), 3),
        (Row(320, 1, 6), 1),
    ),
    "small": (
        (Row(8), 1),
        (Row(16, 2, 3), 1),
        (Row(16, 2, 6), 2),
        (Row(32, 2, 6, 5, True), 4),
        (Row(32, 1, 6, 3, True), 3),
        (Row(88, 2, 6, 5, True), 3),
        (Row(144, 1, 6), 1),
    ),
}
_STEMS = {"b1": 32, "a1": 32, "small": 8}
VARIANTS = {
    **{f"mnasnet_{w:03}": {"width": w / 100} for w in (50, 75, 100, 140)},
    **{f"semnasnet_{w:03}": {"kind": "a1", "width": w / 100} for w in (50, 75, 100, 140)},
    "mnasnet_small": {"kind": "small"},
}


@with_options()
def mnasnet(
    kind: str = "b1",
    width: float = 1.0,
    *,
    squeeze: bool = True,
    **options: Unpack[StridedOptions],
) -> Network:
    """Return a MNASNet: B1, A1 (with squeeze-and-excitation) or small.

    A strided 3x3 stem; seven stages of inverted residual units as a search found them; a 1x1
    convolution to 1280 channels; global average pool and a classifier. ``shortcut="none"`` is the
    plain twin, with the same parameters.

    Args:
      kind: ``"b1"`` (timm's mnasnet), ``"a1"`` (its semnasnet) or ``"small"``.
      width: multiplier of all channels but the last 1280.
      squeeze: whether there is squeeze-and-excitation where the paper has it.
      output_stride: 2, 4, 8, 16 or 32: later strides become dilations; None for 32.
      stochastic_depth: rate that is reached after the last unit, from 0 at the first.
      reference: ``"torch"``.
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
      >>> net = nnx.eval_shape(lambda: models.mnasnet("small", rngs=nnx.Rngs(0)))
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (68339184, 2030264)

    Reference: Tan et al., MnasNet: Platform-Aware Neural Architecture Search for Mobile, 2018.
    """
    _check.choice("kind", kind, _TABLES)

    def wide(features: int) -> int:
        return divisible(features * width)

    rows = [repeated(row, units) for row, units in _TABLES[kind]]
    table = [
        [row._replace(squeeze=row.squeeze and squeeze) for row in stage]
        for stage in scaled(rows, wide)
    ]
    theirs = torchvision_mnasnet([*map(len, rows)]) if kind == "b1" else None
    style = Style.of(options, Family(f"mnasnet_{kind}", torch=TORCH, torchvision=theirs))
    first, final = wide(_STEMS[kind]), table[-1][-1].features
    return style.network(
        {
            "stem": style.unit((style.in_features, first), 3, 2),
            **trunk(MobileUnit(style), first, table),
            "last": style.unit((final, 1280)),
            "head": style.head(1280),
        }
    )
