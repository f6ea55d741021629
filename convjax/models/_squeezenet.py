"""squeezenet: few channels between, and two windows side by side."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from flax import nnx

from convjax import _check, nn
from convjax.models._network import Family, Keys, Network
from convjax.models._options import ShortcutOptions, with_options
from convjax.models._style import Style, dropped


class _Table(NamedTuple):
    side: int
    features: int
    stages: Sequence[Sequence[tuple[int, int]]]


# Window and channels of the stem; channels between, and of either window, of every unit.
_TABLES = {
    "1.0": _Table(
        7,
        96,
        (
            ((16, 64), (16, 64), (32, 128)),
            ((32, 128), (48, 192), (48, 192), (64, 256)),
            ((64, 256),),
        ),
    ),
    "1.1": _Table(
        3,
        64,
        (
            ((16, 64),) * 2,
            ((32, 128),) * 2,
            ((48, 192),) * 2 + ((64, 256),) * 2,
        ),
    ),
}
VARIANTS = {"squeezenet1_0": {"version": "1.0"}, "squeezenet1_1": {"version": "1.1"}}


def _keys(table: _Table) -> Keys:
    """Return torchvision's names, which count activations and pools as well."""
    rules, place = [("stem/conv", "features.0"), ("head/dense/conv", "classifier.1")], 3
    for s, rows in enumerate(table.stages, 1):
        for i in range(len(rows)):
            ours, there = f"stage{s}/{i}/branch/", f"features.{place + i}."
            rules.append((f"{ours}reduce/conv", f"{there}squeeze"))
            for side in (1, 3):
                rules.append((f"{ours}expand/{side}x{side}/conv", f"{there}expand{side}x{side}"))
        place += len(rows) + 1
    return Keys(tuple(rules))


@with_options(norm="none", shortcut="none")
def squeezenet(
    version: str = "1.1",
    *,
    width: float = 1.0,
    **options: Unpack[ShortcutOptions],
) -> Network:
    """Return a SqueezeNet of the paper, 1.0, or 1.1, which takes less than half of its time.

    A strided stem; three stages of fire units, each behind a maximum of 3x3 that halves the image:
    a 1x1 convolution to few channels, then 1x1 and 3x3 convolutions side by side; a 1x1
    convolution to the classes, activation, and their mean over all places. Every convolution has a
    bias. The network has no shortcuts: it is the plain one, and ``shortcut="identity"`` makes the
    paper's residual twin (simple bypass), of the same parameters.

    Args:
      version: ``"1.0"`` or ``"1.1"``.
      width: multiplier of all channels.
      norm: ``"none"`` (the paper), ``"batch"``, ``"group"`` or ``"layer"``.
      dropout: rate before the classes (the paper: 0.5).
      reference: ``"torch"``: torchvision.
      **options: those of every family with shortcuts, see ``models.ShortcutOptions``.

    Returns:
      ``Network(stem=…, stage1=…, stage2=…, stage3=…, head=…)``; the convolutions of a unit are
      ``stage1/0/branch/reduce/conv``, ``…/expand/1x1/conv`` and ``…/expand/3x3/conv``.

    Raises:
      ValueError: an unknown name, a multiplier that is not positive.

    Example:
      >>> import convjax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.squeezenet(rngs=nnx.Rngs(0)))
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (349151936, 1235496)

    Reference: Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters, 2016.
    """
    table = _TABLES[_check.choice("version", version, _TABLES)]
    family = Family(f"squeezenet_{version}", torch=_keys(table))
    style = Style.of(options, family, use_bias=True)

    def wide(features: int) -> int:
        return max(round(features * width), 1)

    features = wide(table.features)
    stem = (style.in_features, features), table.side, 2
    units: dict[str, nnx.Module] = {"stem": style.unit(*stem, padding="VALID")}
    for s, rows in enumerate(table.stages, 1):
        # A last window may lie partly beyond the image.
        pool = nn.Pool("max", (3, 3), strides=2, padding=((0, 1), (0, 1)))
        made: dict[str, nnx.Module] = {"pool": pool}
        for i, row in enumerate(rows):
            middle, each = map(wide, row)
            made[str(i)] = _fire(style, features, middle, each)
            features = 2 * each
        units[f"stage{s}"] = nn.Chain(made)
    return style.network({**units, "head": _head(style, features)})


def _fire(style: Style, features: int, middle: int, each: int) -> nn.Residual:
    """Return a unit, beside a shortcut if there is one and the unit keeps its shape."""
    expand = {f"{side}x{side}": style.unit((middle, each), side) for side in (1, 3)}
    branch = nn.Chain(reduce=style.unit((features, middle)), expand=nn.Parallel(expand))
    return nn.Residual(branch, style.beside(features) if features == 2 * each else "none")


def _head(style: Style, features: int) -> nn.Chain:
    """Return the classes of every place, and their mean; without classes, that of the features."""
    pool = {"pool": nn.GlobalPool("avg")}
    if not style.num_classes:
        return nn.Chain({**dropped(style.dropout), **pool})
    conv = style.conv((features, style.num_classes), init="lecun")
    classes = nn.Chain({"conv": conv, "activation": style.act(), **pool})
    return nn.Chain({**dropped(style.dropout), "dense": classes})
