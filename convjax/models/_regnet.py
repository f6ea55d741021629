"""regnet: residual networks whose widths follow a line, quantized so that stages come of it."""

import dataclasses
from typing import NamedTuple, Unpack

import numpy as np
from flax import nnx

from convjax import nn
from convjax.models._network import Family, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._style import Dilated, Style, divisible, skipped


class _Row(NamedTuple):
    depth: int
    width: int
    slope: float
    ratio: float
    group_width: int


# Units, first width w_0, slope w_a, ratio w_m, channels of a group: tables of the paper, by the
# multiply-adds of a network in hundreds of millions.
_X = {
    "002": _Row(13, 24, 36.44, 2.49, 8),
    "004": _Row(22, 24, 24.48, 2.54, 16),
    "006": _Row(16, 48, 36.97, 2.24, 24),
    "008": _Row(16, 56, 35.73, 2.28, 16),
    "016": _Row(18, 80, 34.01, 2.25, 24),
    "032": _Row(25, 88, 26.31, 2.25, 48),
    "040": _Row(23, 96, 38.65, 2.43, 40),
    "064": _Row(17, 184, 60.83, 2.07, 56),
    "080": _Row(23, 80, 49.56, 2.88, 120),
    "120": _Row(19, 168, 73.36, 2.37, 112),
    "160": _Row(22, 216, 55.59, 2.1, 128),
    "320": _Row(23, 320, 69.86, 2.0, 168),
}
_Y = {
    "002": _Row(13, 24, 36.44, 2.49, 8),
    "004": _Row(16, 48, 27.89, 2.09, 8),
    "006": _Row(15, 48, 32.54, 2.32, 16),
    "008": _Row(14, 56, 38.84, 2.4, 16),
    "016": _Row(27, 48, 20.71, 2.65, 24),
    "032": _Row(21, 80, 42.63, 2.66, 24),
    "040": _Row(22, 96, 31.41, 2.24, 64),
    "064": _Row(25, 112, 33.22, 2.27, 72),
    "080": _Row(17, 192, 76.82, 2.19, 56),
    "120": _Row(19, 168, 73.36, 2.37, 112),
    "160": _Row(18, 200, 106.23, 2.48, 112),
    "320": _Row(20, 232, 115.89, 2.53, 232),
    "640": _Row(20, 352, 147.48, 2.4, 328),
    "1280": _Row(27, 456, 160.83, 2.52, 264),
    "2560": _Row(27, 640, 230.83, 2.53, 373),
}
# torchvision never rounds channels to less than nine tenths.
_TORCHVISION = {"least": 0.9}
VARIANTS = {
    **{f"regnetx_{size}": row._asdict() for size, row in _X.items()},
    **{f"regnety_{size}": row._asdict() | {"squeeze": True} for size, row in _Y.items()},
}
VARIANTS |= {
    f"{name}_tv": VARIANTS[name] | _TORCHVISION
    for name in ("regnetx_004", "regnety_008", "regnety_080")
}


def _torch() -> dict[str, str]:
    ours, there = "stage{s}/{i}/", "s{s}.b{i+1}."
    rules = {"stem/conv": "stem.conv", "stem/norm": "stem.bn", "head/dense": "head.fc"}
    for k in (1, 2):
        rules[f"{ours}branch/squeeze/{('reduce', 'expand')[k - 1]}"] = f"{there}se.fc{k}"
    for part, name in (("conv", "conv"), ("norm", "bn")):
        rules[f"{ours}branch/{part}{{k}}"] = f"{there}conv{{k}}.{name}"
        rules[f"{ours}shortcut/{part}"] = f"{there}downsample.{name}"
    return rules


def _torchvision() -> dict[str, str]:
    ours, there = "stage{s}/{i}/", "trunk_output.block{s}.block{s}-{i}."
    rules = {"stem/conv": "stem.0", "stem/norm": "stem.1", "head/dense": "fc"}
    for k in (1, 2):
        rules[f"{ours}branch/squeeze/{('reduce', 'expand')[k - 1]}"] = f"{there}f.se.fc{k}"
    for n, part in enumerate(("conv", "norm")):
        for k, letter in enumerate("abc", 1):
            rules[f"{ours}branch/{part}{k}"] = f"{there}f.{letter}.{n}"
        rules[f"{ours}shortcut/{part}"] = f"{there}proj.{n}"
    return rules


FAMILY = Family("regnet", torch=_torch(), torchvision=_torchvision())


@with_options()
def regnet(
    depth: int = 13,
    *,
    width: int = 24,
    slope: float = 36.44,
    ratio: float = 2.49,
    group_width: int = 8,
    squeeze: bool = False,
    least: float = 0.0,
    **options: Unpack[StridedOptions],
) -> Network:
    """Return a RegNet X, or Y with squeeze-and-excitation.

    A strided 3x3 stem of 32 channels; stages of bottlenecks (1x1, grouped 3x3, 1x1) without a
    narrow middle, each halving the image; global average pool and a classifier. Unit ``j`` of
    ``depth`` would have ``width + slope * j`` channels; these are rounded to the nearest
    ``width * ratio**k``, in eights, units alike make a stage, and its channels are rounded to whole
    groups. ``shortcut="none"`` is the plain twin.

    Args:
      depth: units in all.
      width: channels of the first unit before rounding.
      slope: channels that each further unit has more.
      ratio: channels of a stage over those of the one before, or a power of it; above 1.
      group_width: channels of one group of the 3x3 convolutions; at most a stage's.
      squeeze: whether squeeze-and-excitation, to a quarter of a unit's input, follows every 3x3
        convolution.
      least: share of its channels below which rounding to whole groups leaves no stage:
        torchvision's 0.9, or timm's and the paper's 0, which is rounding to the nearest.
      output_stride: 2, 4, 8, 16 or 32: later strides become dilations; None for 32.
      reference: ``"torch"``.
      **options: those of every residual family, see ``models.StridedOptions``.

    Returns:
      ``Network(stem=…, stage1=…, …, head=…)``; units are ``stage1/0``, ``stage1/1``, ….

    Raises:
      ValueError: an unknown name, a size below one, a ratio of 1 or less, a negative slope.

    Example:
      >>> import convjax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.regnet(rngs=nnx.Rngs(0)))  # X, 200 million
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (199039872, 2684792)

    Reference: Radosavovic et al., Designing Network Design Spaces, 2020.
    """
    style = Style.of(options, FAMILY)
    stages = _stages(_Row(depth, width, slope, ratio, group_width), least)
    unit, features = _Unit(style, squeeze), 32
    rates, dilated = style.rates(depth), Dilated(style.output_stride, 2)
    units: dict[str, nnx.Module] = {"stem": style.unit((style.in_features, features), 3, 2)}
    for s, (count, wide, group) in enumerate(stages, 1):
        strides, before, dilation = dilated(2)
        made = []
        for i in range(count):
            how = (strides, before) if i == 0 else (1, dilation)
            made.append(unit((features, wide), group, *how, next(rates)))
            features = wide
        units[f"stage{s}"] = nn.Chain(made)
    return style.network({**units, "head": style.head(features)})


def _stages(row: _Row, least: float) -> list[tuple[int, int, int]]:
    """Return units, channels and the channels of a group, of every stage.

    Raises:
      ValueError: a ratio that is not above 1, a negative slope.
    """
    if row.ratio <= 1:
        raise ValueError(f"ratio={row.ratio} must be above 1: stages grow by powers of it")
    if row.slope < 0:
        raise ValueError(f"slope={row.slope} must be at least 0: no unit has fewer channels")
    if not 0 <= least <= 1:
        raise ValueError(f"least={least} must be at least 0 and at most 1, a share of the channels")
    line = row.width + row.slope * np.arange(row.depth)
    powers = np.round(np.log(line / row.width) / np.log(row.ratio))
    widths = np.round(row.width * row.ratio**powers / 8) * 8
    found = []
    for wide, count in zip(*np.unique(widths, return_counts=True), strict=True):
        group = min(row.group_width, int(wide))
        rounded = divisible(wide, group, least) if least else round(wide / group) * group
        found.append((int(count), int(rounded), group))
    return found


@dataclasses.dataclass(frozen=True)
class _Unit:
    """What all units of one network share."""

    style: Style
    squeeze: bool

    def __call__(
        self, fan: tuple[int, int], group: int, strides: int, dilation: int, rate: float
    ) -> nn.Residual:
        """Return one unit of groups of ``group`` channels, at a rate of stochastic depth."""
        style, wide = self.style, fan[1]
        branch = style.step(fan, number=1)
        groups = wide // group
        branch |= style.step((wide, wide), 3, strides, number=2, groups=groups, dilation=dilation)
        if self.squeeze:
            branch["squeeze"] = nn.SqueezeExcite(
                wide,
                max(round(fan[0] / 4), 1),
                activation=style.activation,
                rngs=style.rngs,
                **style.dtypes,
            )
        branch |= {**style.step((wide, wide), number=3, activation=False), **skipped(rate)}
        if fan[0] == wide and strides == 1:
            beside = style.beside(wide)
        else:
            beside = style.across(fan, strides, "projection")
        return nn.Residual(nn.Chain(branch), beside, activation=style.act())
