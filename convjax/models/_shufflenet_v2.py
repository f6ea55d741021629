"""shufflenet_v2: half of the channels go through a unit, the others past it; then they mix."""

from collections.abc import Sequence
from typing import Unpack

import numpy as np
from flax import nnx

from convjax import _check, nn
from convjax.models._network import Family, Network
from convjax.models._options import Options, with_options
from convjax.models._style import Style

# Channels of the three stages, and of the last convolution.
_WIDTHS = {
    "x0_5": ((48, 96, 192), 1024),
    "x1_0": ((116, 232, 464), 1024),
    "x1_5": ((176, 352, 704), 1024),
    "x2_0": ((244, 488, 976), 2048),
}
VARIANTS = {
    f"shufflenet_v2_{size}": {"widths": widths, "hidden": hidden}
    for size, (widths, hidden) in _WIDTHS.items()
}


def _keys() -> dict[str, str]:
    """Return torchvision's names, which count activations as well."""
    ours, there = "stage{s}/{i}/parts/", "stage{s+1}.{i}."
    rules = {"last/conv": "conv5.0", "last/norm": "conv5.1", "head/dense": "fc"}
    rules |= {"stem/conv": "conv1.0", "stem/norm": "conv1.1"}
    for branch, parts in (
        ("beside", {"depthwise": 0, "project": 2}),
        ("through", {"expand": 0, "depthwise": 3, "project": 5}),
    ):
        number = 1 if branch == "beside" else 2
        for part, place in parts.items():
            rules[f"{ours}{branch}/{part}/conv"] = f"{there}branch{number}.{place}"
            rules[f"{ours}{branch}/{part}/norm"] = f"{there}branch{number}.{place + 1}"
    return rules


FAMILY = Family("shufflenet_v2", torch=_keys())


@with_options()
def shufflenet_v2(
    widths: Sequence[int] = (116, 232, 464),
    *,
    units: Sequence[int] = (4, 8, 4),
    stem: int = 24,
    hidden: int = 1024,
    **options: Unpack[Options],
) -> Network:
    """Return a ShuffleNetV2: units on half of the channels, which are then shuffled.

    A stem that takes the image to a quarter; three stages whose first unit halves it again, by two
    branches that both read all channels, and whose others pass half of the channels on; a 1x1
    convolution, global average pool and a classifier. There is no plain twin: the channels that are
    passed on are no term that could be left out.

    Args:
      widths: channels of each stage, even numbers.
      units: units of each stage.
      stem: channels of the stem.
      hidden: channels of the last convolution.
      reference: ``"torch"``: torchvision.
      **options: those of every family, see ``models.Options``.

    Returns:
      ``Network(stem=…, stage1=…, stage2=…, stage3=…, last=…, head=…)``; the convolutions of a unit
      are ``stage1/1/parts/through/expand/conv``, ``…/depthwise/conv`` and ``…/project/conv``.

    Raises:
      ValueError: an unknown name, a size below one, odd or as many widths as there are no stages.

    Example:
      >>> import convjax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.shufflenet_v2(rngs=nnx.Rngs(0)))
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (144907992, 2278604)

    Reference: Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design,
    2018.
    """
    widths = _check.integers("widths", widths, least=2, length=len(units))
    if odd := [wide for wide in widths if wide % 2]:
        raise ValueError(f"widths={widths}: {odd[0]} is odd, and a unit takes half of the channels")
    style = Style.of(options, FAMILY)
    first = {**style.step((style.in_features, stem), 3, 2), "pool": style.pool("max", 3, 2)}
    stages: dict[str, nnx.Module] = {"stem": nn.Chain(first)}
    features = stem
    for s, (count, wide) in enumerate(zip(units, widths, strict=True), 1):
        rest = [_unit(style, wide) for _ in range(count - 1)]
        stages[f"stage{s}"] = nn.Chain([_down(style, (features, wide)), *rest])
        features = wide
    last = style.unit((features, hidden))
    return style.network({**stages, "last": last, "head": style.head(hidden)})


def _unit(style: Style, features: int) -> nn.Chain:
    """Return a unit that keeps the shape: half of the channels, and a branch of the others."""
    half = features // 2
    through = {"taken": nn.Channels(range(half, features)), **_branch(style, (half, half))}
    parts = {"kept": nn.Channels(range(half)), "through": nn.Chain(through)}
    return _shuffled(parts, features)


def _down(style: Style, fan: tuple[int, int]) -> nn.Chain:
    """Return a unit that halves the image: two branches of all channels."""
    half, depthwise = fan[1] // 2, ((fan[0], fan[0]), 3, 2)
    beside = nn.Chain(
        depthwise=style.unit(*depthwise, groups=fan[0], activation=False),
        project=style.unit((fan[0], half)),
    )
    through = nn.Chain(_branch(style, (fan[0], half), 2))
    return _shuffled({"beside": beside, "through": through}, fan[1])


def _branch(style: Style, fan: tuple[int, int], strides: int = 1) -> dict[str, nnx.Module]:
    wide = (fan[1], fan[1])
    return {
        "expand": style.unit(fan),
        "depthwise": style.unit(wide, 3, strides, groups=fan[1], activation=False),
        "project": style.unit(wide),
    }


def _shuffled(parts: dict[str, nnx.Module], features: int) -> nn.Chain:
    """Return parts side by side, whose channels then take turns."""
    turns = np.arange(features).reshape(2, -1).T.ravel().tolist()
    return nn.Chain(parts=nn.Parallel(parts), shuffle=nn.Channels(turns))
