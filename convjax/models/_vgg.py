"""vgg: 3x3 convolutions one after the other, and two wide layers before the classifier."""

from collections.abc import Sequence
from typing import Unpack

from flax import nnx

from convjax import _check, nn
from convjax.models._network import Family, Network
from convjax.models._options import ShortcutOptions, with_options
from convjax.models._style import Style, dropped
from convjax.models._vgg_keys import timm, torchvision

# Convolutions of the stages: configurations A, B, D and E of the paper.
_STAGES = {
    "11": (1, 1, 2, 2, 2),
    "13": (2, 2, 2, 2, 2),
    "16": (2, 2, 3, 3, 3),
    "19": (2, 2, 4, 4, 4),
}
VARIANTS = {
    f"vgg{depth}{ending}": {"units": units, **norm}
    for depth, units in _STAGES.items()
    for ending, norm in (("", {}), ("_bn", {"norm": "batch"}))
}


@with_options(norm="none", shortcut="none")
def vgg(
    units: Sequence[int] = (2, 2, 3, 3, 3),
    *,
    width: int = 64,
    hidden: Sequence[int] = (4096, 4096),
    **options: Unpack[ShortcutOptions],
) -> Network:
    """Return a VGG: five stages of 3x3 convolutions, each halved by a maximum of 2x2.

    Stages of ``width``, 2, 4, 8 and 8 ``width`` channels; a mean over 7x7 cells, which leaves an
    image of 224 pixels as it is; two hidden layers and a classifier. Every convolution has a bias.
    The network has no shortcuts: it is the plain one, and ``shortcut="identity"`` makes its
    residual twin, with the sum before the activation of every convolution that keeps its shape.

    Args:
      units: convolutions of each stage.
      width: channels of the first stage; none has more than eight times as many.
      hidden: channels of the two hidden layers.
      norm: ``"none"`` (the paper), ``"batch"`` (the names in ``_bn``), ``"group"`` or ``"layer"``.
      dropout: rate after each hidden layer (the paper: 0.5).
      **options: those of every family with shortcuts, see ``models.ShortcutOptions``.

    Returns:
      ``Network(stage1=…, …, stage5=…, head=…)``; convolutions are ``stage1/0/branch/conv``, ….

    Raises:
      ValueError: an unknown name, a size below one.

    Example:
      >>> import convjax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.vgg(rngs=nnx.Rngs(0)))  # VGG-16, shapes alone
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (15470264320, 138357544)

    Reference: Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image
    Recognition, 2014.
    """
    wide = _check.integers("hidden", hidden, least=1, length=2)
    keys = (units, options.get("norm") != "none")
    family = Family("vgg", torch=timm(*keys), torchvision=torchvision(*keys))
    style = Style.of(options, family, use_bias=True)
    stages: dict[str, nnx.Module] = {}
    features = style.in_features
    for s, count in enumerate(units):
        fans = [(features, width * 2 ** min(s, 3))] + [(width * 2 ** min(s, 3),) * 2] * (count - 1)
        made = {str(i): _unit(style, fan) for i, fan in enumerate(fans)}
        stages[f"stage{s + 1}"] = nn.Chain({**made, "pool": nn.Pool("max", (2, 2))})
        features = fans[-1][1]
    return style.network({**stages, "head": _head(style, features, wide)})


def _unit(style: Style, fan: tuple[int, int]) -> nn.Residual:
    """Return a convolution with its norm and activation, beside a shortcut if there is one."""
    branch = nn.Chain(style.step(fan, 3, activation=False))
    beside = style.beside(fan[1]) if fan[0] == fan[1] else "none"
    return nn.Residual(branch, beside, activation=style.act())


def _head(style: Style, features: int, wide: tuple[int, ...]) -> nn.Chain:
    """Return the hidden layers, the first of which reads all cells, and the classifier."""
    return nn.Chain(
        {
            "cells": nn.CellPool(7),
            "hidden1": style.conv((features, wide[0]), 7, padding="VALID"),
            "activation1": style.act(),
            **dropped(style.dropout),
            "hidden2": style.conv((wide[0], wide[1])),
            "activation2": style.act(),
            **{f"{name}2": drop for name, drop in dropped(style.dropout).items()},
            "pool": nn.GlobalPool("avg"),
            **style.classifier(wide[1]),
        }
    )
