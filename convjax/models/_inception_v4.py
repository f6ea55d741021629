"""inception_v4: Inception made uniform, its stem of branches too."""

from collections.abc import Sequence
from typing import Unpack

from flax import nnx

from convjax import nn
from convjax.models._inception import INCEPTION, Builder, check_units
from convjax.models._inception_keys import v4_torch
from convjax.models._inception_tables import V4_A, V4_B, V4_C, V4_STEM, V4_TO_B, V4_TO_C
from convjax.models._network import Family, Network
from convjax.models._options import Options, with_options
from convjax.models._style import Style

VARIANTS = {"inception_v4": {}}


@with_options()
def inception_v4(
    units: Sequence[int] = (4, 7, 3),
    *,
    width: float = 1.0,
    **options: Unpack[Options],
) -> Network:
    """Return Inception v4.

    A stem that takes the image to about an eighth; three stages of equal units of four branches
    side by side, the second and third opened by a unit that halves the image; global average pool
    and a classifier. Where it strides nothing is padded: the image has 75 places or more along
    each axis (299 in the paper).

    Args:
      units: units of each stage that keep the shape.
      width: factor on all channel counts.
      dropout: rate before the classifier (the paper: 0.2).
      reference: ``"torch"``; Keras does not have this network.
      **options: those of every family, see ``models.Options``.

    Returns:
      ``Network(stem=…, stage1=…, stage2=…, stage3=…, head=…)``; units are ``stage1/0``, …, and
      ``stage2/0`` and ``stage3/0`` halve.

    Raises:
      ValueError: an unknown name, a size below one, units that are not three.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.inception_v4(rngs=nnx.Rngs(0)))  # shapes alone
      >>> sum(p.size for p in jax.tree.leaves(nnx.state(net, nnx.Param)))
      42679816

    Reference: Szegedy et al., Inception-v4, Inception-ResNet and the Impact of Residual Connections
    on Learning, 2017.
    """
    check_units(units)
    style = Style.of(options, Family("inception_v4", torch=v4_torch(units)), **INCEPTION)
    build = Builder(style, width)
    stem, fan = build.steps(style.in_features, V4_STEM)
    parts: dict[str, nnx.Module] = {"stem": nn.Chain(stem)}
    tables = ([V4_A] * units[0], [V4_TO_B, *[V4_B] * units[1]], [V4_TO_C, *[V4_C] * units[2]])
    for s, stage in enumerate(tables, 1):
        parts[f"stage{s}"], fan = build.stage(fan, stage)
    return style.network({**parts, "head": style.head(fan)})
