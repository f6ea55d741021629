"""inception_resnet_v2: Inception's branches in residual units of a small scale."""

from collections.abc import Sequence
from functools import partial
from typing import Unpack

from flax import nnx

from convjax import nn
from convjax.models._inception import INCEPTION, Builder, Table, check_units
from convjax.models._inception_keys import RESNET_TORCH, resnet_keras
from convjax.models._inception_tables import RESNET_LAST, RESNET_OPENINGS, RESNET_UNITS, V3_STEM
from convjax.models._network import Family, Network
from convjax.models._options import ResidualOptions, with_options
from convjax.models._style import Style, skipped

VARIANTS = {"inception_resnet_v2": {}}
SCALES = (0.17, 0.1, 0.2)


@with_options()
def inception_resnet_v2(
    units: Sequence[int] = (10, 20, 10),
    *,
    width: float = 1.0,
    branch_scales: Sequence[float] = SCALES,
    **options: Unpack[ResidualOptions],
) -> Network:
    """Return Inception-ResNet v2, or its plain twin.

    A stem that takes the image to about an eighth; three stages, each opened by a unit of branches
    side by side (those of the second and third halve the image), then residual units: branches
    side by side, a 1x1 convolution with a bias and no norm, a factor on that, the sum, an
    activation. The very last unit has factor 1 and no activation. A last 1x1 convolution, global
    average pool and a classifier. Where it strides nothing is padded: the image has 75 places or
    more along each axis (299 in the paper).

    Args:
      units: residual units of each stage.
      width: factor on all channel counts.
      branch_scales: factor on the branches of each stage.
      shortcut: ``"identity"``, ``"none"`` (the plain twin), ``"scaled"`` or ``"gated"``.
      dropout: rate before the classifier (the paper: 0.2).
      reference: ``"torch"`` or ``"keras"`` (norms without a scale).
      **options: those of every residual family, see ``models.ResidualOptions``.

    Returns:
      ``Network(stem=…, stage1=…, stage2=…, stage3=…, head=…)``; ``stage1/0`` opens the stage,
      ``stage1/1``, … are its residual units.

    Raises:
      ValueError: an unknown name, a size below one, units or scales that are not three.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.inception_resnet_v2(rngs=nnx.Rngs(0)))  # shapes alone
      >>> sum(p.size for p in jax.tree.leaves(nnx.state(net, nnx.Param)))
      55843464

    Reference: Szegedy et al., Inception-v4, Inception-ResNet and the Impact of Residual Connections
    on Learning, 2017.
    """
    check_units(units)
    family = Family("inception_resnet_v2", torch=RESNET_TORCH, keras=resnet_keras(units))
    style = Style.of(options, family, **INCEPTION)
    build = Builder(style, width)
    stem, fan = build.steps(style.in_features, V3_STEM)
    parts: dict[str, nnx.Module] = {"stem": nn.Chain(stem)}
    rates = style.rates(sum(units))
    for s, (count, scale) in enumerate(zip(units, branch_scales, strict=True)):
        opening, fan = build.parallel(fan, RESNET_OPENINGS[s])
        unit = partial(_unit, build, fan, RESNET_UNITS[s])
        residual = [unit(scale, next(rates)) for _ in range(count - (s == 2))]
        if s == 2:
            residual.append(unit(1.0, next(rates), activation=False))
        parts[f"stage{s + 1}"] = nn.Chain([opening, *residual])
    last = build.scaled(RESNET_LAST)
    head = style.head(last)
    parts["head"] = nn.Chain({**style.step((fan, last)), **dict(head.items())})
    return style.network(parts)


def _unit(
    build: Builder, fan: int, table: Table, scale: float, rate: float, *, activation: bool = True
) -> nn.Residual:
    """Return one residual unit; ``rate`` is that of stochastic depth."""
    style = build.style
    mixed, inner = build.parallel(fan, table)
    conv = style.conv((inner, fan), use_bias=True)
    return nn.Residual(
        nn.Chain({"mixed": mixed, "conv": conv, **skipped(rate)}),
        style.beside(fan),
        scale=scale,
        activation=style.act() if activation else None,
    )
