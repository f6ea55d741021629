"""inception_v3: large windows taken apart, and rows beside columns."""

from typing import Unpack

from flax import nnx

from convjax import nn
from convjax.models._inception import INCEPTION, Builder
from convjax.models._inception_keys import V3_KERAS, V3_TORCH
from convjax.models._inception_tables import V3_STAGES, V3_STEM
from convjax.models._network import Family, Network
from convjax.models._options import Options, with_options
from convjax.models._style import Style

FAMILY = Family("inception_v3", torch=V3_TORCH, keras=V3_KERAS)
VARIANTS = {"inception_v3": {}}


@with_options()
def inception_v3(
    *,
    width: float = 1.0,
    auxiliary: bool = False,
    **options: Unpack[Options],
) -> Network:
    """Return Inception v3.

    A stem that takes the image to about an eighth; stages of 3, 5 and 3 units of three or four
    branches side by side, the first unit of the second and third halving the image; global average
    pool and a classifier. Where it strides nothing is padded: the image has 75 places or more
    along each axis (299 in the paper).

    Args:
      width: factor on all channel counts.
      auxiliary: whether there is a head that reads ``stage2/4``, for images of 299;
        ``models.auxiliary_logits`` runs it. Keras has none.
      dropout: rate before the classifier (the paper: 0.2).
      reference: ``"torch"`` or ``"keras"`` (norms without a scale, means without the padding).
      **options: those of every family, see ``models.Options``.

    Returns:
      ``Network(stem=…, stage1=…, stage2=…, stage3=…, head=…)``; units are ``stage1/0``, ….

    Raises:
      ValueError: an unknown name, a size below one, an auxiliary head with ``reference="keras"``.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.inception_v3(rngs=nnx.Rngs(0)))  # shapes alone
      >>> sum(p.size for p in jax.tree.leaves(nnx.state(net, nnx.Param)))
      23834568

    Reference: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016.
    """
    style = Style.of(options, FAMILY, **INCEPTION)
    if auxiliary and style.keras:
        raise ValueError("auxiliary=True needs reference='torch': Keras has no auxiliary head")
    build = Builder(style, width, count_include_pad=not style.keras)
    stem, fan = build.steps(style.in_features, V3_STEM)
    units: dict[str, nnx.Module] = {"stem": nn.Chain(stem)}
    for s, tables in enumerate(V3_STAGES, 1):
        units[f"stage{s}"], fan = build.stage(fan, tables)
    units["head"] = style.head(fan)
    heads = {}
    if auxiliary:  # made last: the trunk is the same with and without
        heads["aux"] = ("stage2/4", _head(build, build.channels(V3_STAGES[1][4])))
    return style.network(units, auxiliary=heads)


def _head(build: Builder, fan: int) -> nn.Chain:
    """Return the auxiliary head: 17 places pooled to 5, and those convolved to one."""
    narrow, wide = build.scaled(128), build.scaled(768)
    return nn.Chain(
        {
            "pool1": nn.Pool("avg", (5, 5), strides=3),
            **build.style.step((fan, narrow), number=1),
            **build.style.step((narrow, wide), 5, number=2, padding="VALID"),
            "pool2": nn.GlobalPool("avg"),
            **build.style.classifier(wide),
        }
    )
