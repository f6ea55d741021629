"""fcn: a class for every place, from the last features of any network."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from convjax import _check, nn
from convjax.models._create import create, register, takes
from convjax.models._network import Family, Keys, Network
from convjax.models._style import Style, dropped

VARIANTS = {f"fcn_{name}": {"backbone": name} for name in ("resnet50", "resnet101")}


def fcn(
    backbone: str = "resnet50",
    *,
    num_classes: int = 21,
    hidden: int | None = None,
    scale: int | None = None,
    dropout: float = 0.0,
    rngs: nnx.Rngs,
    **options: Any,
) -> Network:
    """Return a fully convolutional network: class scores for every place of the image.

    All of a backbone but its head; a 3x3 convolution with norm and activation, a 1x1 convolution to
    the classes, and bilinear enlargement to the image's size. Whatever the backbone's options do
    (``shortcut="none"``, say), they do here.

    Args:
      backbone: one of ``models.list()`` whose last features still have places.
      num_classes: scores of every place; 0 for the features that they would be made of.
      hidden: channels of the 3x3 convolution; None for a quarter of the backbone's.
      scale: of the enlargement; None for the backbone's output stride, which is 8 by default where
        it takes one, and else 32.
      dropout: rate before the classes (torchvision: 0.1).
      rngs: source of the initial values.
      **options: of the backbone; its ``norm``, ``activation``, ``init`` and dtypes, where they are
        given, are the head's too, which has batch norm and ReLU otherwise.

    Returns:
      ``Network``: the backbone's units, and ``head``; it takes images whose sides are multiples of
      ``scale``, and returns ``(N, *spatial, num_classes)``. Names are torchvision's: the backbone's
      own behind ``backbone.``.

    Raises:
      ValueError: an unknown name, a size below one, an option that the backbone does not take.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = models.fcn("resnet18", num_classes=4, width=4, rngs=nnx.Rngs(0))
      >>> net(jnp.ones((1, 40, 32, 3)), train=False).shape
      (1, 40, 32, 4)

    Reference: Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation,
    2015.
    """
    num_classes = _check.integer("num_classes", num_classes, 0)
    if takes(backbone, "output_stride"):
        options = {"output_stride": 8, **options}
    if scale is None:
        scale = options.get("output_stride") or 32
    scale = _check.integer("scale", scale, 1)
    whole = create(backbone, rngs=rngs, **options)
    units = {name: unit for name, unit in whole.items() if name != "head"}
    head: Any = whole["head"]
    features = _check.instance("backbone", head["dense"], nn.Dense, "one with a classifier")
    features = features.kernel.shape[0]
    style = Style(
        family=_family(whole.family),
        norm=options.get("norm", "batch"),
        activation=options.get("activation", "relu"),
        init=options.get("init", "he"),
        dtype=options.get("dtype"),
        param_dtype=options.get("param_dtype", jnp.float32),
        rngs=rngs,
        num_classes=num_classes,
        in_features=features,
        dropout=_check.number("dropout", dropout, least=0, below=1),
        reference=whole.reference,
    )
    between = max(features // 4, 1) if hidden is None else _check.integer("hidden", hidden, 1)
    units["head"] = _head(style, (features, between), scale)
    return style.network(units)


def _head(style: Style, fan: tuple[int, int], scale: int) -> nn.Chain:
    """Return the 3x3 convolution, and the classes of every place."""
    head = {**style.step(fan, 3), **dropped(style.dropout)}
    if style.num_classes:
        conv = style.conv((fan[1], style.num_classes), use_bias=True, init="lecun")
        head["dense"] = nn.Chain(conv=conv, enlarge=nn.Upsample(scale))
    return nn.Chain(head)


def _family(of: Family) -> Family:
    """Return torchvision's names: the backbone's own, and the head's."""
    own = of.keys["torchvision"] or of.keys["torch"]
    rules = own.rules if own else ()
    behind = tuple((o, f"backbone.{t}") for o, t in rules if not o.startswith(("head/", "aux")))
    head = (
        ("head/conv", "classifier.0"),
        ("head/norm", "classifier.1"),
        ("head/dense/conv", "classifier.4"),
    )
    keys = Keys((*behind, *head), optional=("aux_classifier.*",))
    return Family(f"fcn_{of.name}", torch=keys)


register(fcn, VARIANTS)
