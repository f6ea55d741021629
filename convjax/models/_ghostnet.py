"""ghostnet: half of the channels by cheap depthwise convolutions of the other half."""

import dataclasses
from typing import Any, NamedTuple, Unpack

from flax import nnx

from convjax import nn
from convjax.models._network import Family, Network
from convjax.models._options import ResidualOptions, with_options
from convjax.models._style import Style, divisible, dropped, skipped


class _Row(NamedTuple):
    side: int
    middle: int
    features: int
    squeeze: bool = False
    strides: int = 1


# Side of the depthwise window, channels between and out, squeeze-and-excitation, strides.
_TABLE = (
    (_Row(3, 16, 16),),
    (_Row(3, 48, 24, strides=2),),
    (_Row(3, 72, 24),),
    (_Row(5, 72, 40, True, 2),),
    (_Row(5, 120, 40, True),),
    (_Row(3, 240, 80, strides=2),),
    (
        *(_Row(3, 200, 80), _Row(3, 184, 80), _Row(3, 184, 80)),
        *(_Row(3, 480, 112, True), _Row(3, 672, 112, True)),
    ),
    (_Row(5, 672, 160, True, 2),),
    (_Row(5, 960, 160), _Row(5, 960, 160, True)) * 2,
)
_HIDDEN = 1280


def _keys() -> dict[str, str]:
    """Return timm's names, which number the parts of what it calls a sequence."""
    ours, there = "stage{s}/{i}/", "blocks.{s-1}.{i}."
    rules = {"stem/conv": "conv_stem", "stem/norm": "bn1"}
    for k in (1, 2):
        for part, name in (("primary", "primary_conv"), ("ghosts/cheap", "cheap_operation")):
            rules[f"{ours}branch/ghost{k}/{part}/conv"] = f"{there}ghost{k}.{name}.0"
            rules[f"{ours}branch/ghost{k}/{part}/norm"] = f"{there}ghost{k}.{name}.1"
        rules[f"{ours}shortcut/conv{k}"] = f"{there}shortcut.{2 * k - 2}"
        rules[f"{ours}shortcut/norm{k}"] = f"{there}shortcut.{2 * k - 1}"
    rules[f"{ours}branch/depthwise/conv"] = f"{there}conv_dw"
    rules[f"{ours}branch/depthwise/norm"] = f"{there}bn_dw"
    for part in ("reduce", "expand"):
        rules[f"{ours}branch/squeeze/{part}"] = f"{there}se.conv_{part}"
    last = f"blocks.{len(_TABLE)}.0"
    rules |= {"last/conv": f"{last}.conv", "last/norm": f"{last}.bn1"}
    return {**rules, "head/hidden": "conv_head@1x1", "head/dense": "classifier"}


FAMILY = Family("ghostnet", torch=_keys())
VARIANTS = {f"ghostnet_{w:03}": {"width": w / 100} for w in (50, 100, 130)}


@with_options()
def ghostnet(
    width: float = 1.0,
    *,
    squeeze: bool = True,
    **options: Unpack[ResidualOptions],
) -> Network:
    """Return a GhostNet.

    A strided 3x3 stem of 16 channels; 16 units in nine stages; a 1x1 convolution to 960 channels;
    and behind the global average pool a hidden layer of 1280 before the classifier. A unit is two
    ghost modules, and between them a depthwise convolution where it strides; a ghost module makes
    half of its channels by a 1x1 convolution, and the other half by a depthwise 3x3 of these. Where
    the shape changes, the shortcut is a depthwise and a 1x1 convolution. ``shortcut="none"`` is the
    plain twin.

    Args:
      width: multiplier of all channels but the hidden layer's.
      squeeze: whether there is squeeze-and-excitation where the paper has it.
      reference: ``"torch"``.
      **options: those of every residual family, see ``models.ResidualOptions``.

    Returns:
      ``Network(stem=…, stage1=…, …, stage9=…, last=…, head=…)``; the convolutions of a unit are
      ``stage2/0/branch/ghost1/primary/conv``, ``…/ghost1/ghosts/cheap/conv``, ….

    Raises:
      ValueError: an unknown name, a multiplier that is not positive, stochastic depth without
        shortcuts.

    Example:
      >>> import convjax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.ghostnet(rngs=nnx.Rngs(0)))
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (141150512, 5182508)

    Reference: Han et al., GhostNet: More Features from Cheap Operations, 2019.
    """
    style = Style.of(options, FAMILY)

    def wide(features: int) -> int:
        return divisible(features * width, 4)

    unit, rates = _Unit(style), style.rates(sum(map(len, _TABLE)))
    features = wide(16)
    stages: dict[str, nnx.Module] = {"stem": style.unit((style.in_features, features), 3, 2)}
    for s, rows in enumerate(_TABLE, 1):
        made = []
        for row in rows:
            row = row._replace(
                middle=wide(row.middle),
                features=wide(row.features),
                squeeze=row.squeeze and squeeze,
            )
            made.append(unit(features, row, next(rates)))
            features = row.features
        stages[f"stage{s}"] = nn.Chain(made)
    last = wide(_TABLE[-1][-1].middle)
    return style.network(
        {**stages, "last": style.unit((features, last)), "head": _head(style, last)}
    )


@dataclasses.dataclass(frozen=True)
class _Unit:
    """What all units of one network share."""

    style: Style

    def __call__(self, features: int, row: _Row, rate: float) -> nn.Residual:
        """Return one unit, at a rate of stochastic depth."""
        style, middle = self.style, row.middle
        branch: dict[str, nnx.Module] = {"ghost1": self._ghost((features, middle))}
        if row.strides > 1:
            how: dict[str, Any] = {"groups": middle, "activation": False}
            branch["depthwise"] = style.unit((middle, middle), row.side, row.strides, **how)
        if row.squeeze:
            branch["squeeze"] = nn.SqueezeExcite(
                middle,
                divisible(middle / 4, 4),
                gate="hard_sigmoid",
                rngs=style.rngs,
                **style.dtypes,
            )
        branch["ghost2"] = self._ghost((middle, row.features), activation=False)
        chain = nn.Chain({**branch, **skipped(rate)})
        if row.strides == 1 and features == row.features:
            return nn.Residual(chain, style.beside(features))

        def projection(own: Style) -> nn.Chain:
            how: dict[str, Any] = {"groups": features, "activation": False, "number": 1}
            first = own.step((features, features), row.side, row.strides, **how)
            second = own.step((features, row.features), activation=False, number=2)
            return nn.Chain({**first, **second})

        fan = (features, row.features)
        return nn.Residual(chain, style.across(fan, row.strides, "projection", projection))

    def _ghost(self, fan: tuple[int, int], *, activation: bool = True) -> nn.Chain:
        """Return a ghost module: a 1x1 convolution, and beside its output cheap ones of it."""
        half = fan[1] // 2
        cheap = self.style.unit((half, half), 3, groups=half, activation=activation)
        primary = self.style.unit((fan[0], half), activation=activation)
        return nn.Chain(
            primary=primary, ghosts=nn.Parallel({"kept": nn.Identity(), "cheap": cheap})
        )


def _head(style: Style, features: int) -> nn.Chain:
    """Return pool, hidden layer and classifier."""
    widen = nn.Dense(features, _HIDDEN, kernel_init=style.init, rngs=style.rngs, **style.dtypes)
    return nn.Chain(
        {
            "pool": nn.GlobalPool("avg"),
            "hidden": widen,
            "activation": style.act(),
            **dropped(style.dropout),
            **style.classifier(_HIDDEN),
        }
    )
