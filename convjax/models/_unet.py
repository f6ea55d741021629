"""unet: down by maxima and up again, each size put beside what came back to it."""

from collections.abc import Sequence
from typing import Unpack

from flax import nnx

from convjax import _check, nn
from convjax.models._network import Family, Network
from convjax.models._options import Options, with_options
from convjax.models._style import Style, dropped

VARIANTS = {"unet": {}}


@with_options(num_classes=2)
def unet(
    widths: Sequence[int] = (64, 128, 256, 512, 1024),
    **options: Unpack[Options],
) -> Network:
    """Return a U-Net: class scores for every place of the image.

    At every size two 3x3 convolutions, each with norm and activation; a maximum of 2x2 to the next
    size; what comes back from there, enlarged by a transposed convolution of 2x2 to half of its
    channels, beside what went down; two convolutions more. Convolutions keep the size, where the
    paper's take a border away. What is put beside is no term that could be left out: there is no
    plain twin.

    Args:
      widths: channels at every size, the image's first; two or more.
      num_classes: scores of every place; 0 for the features that they would be made of.
      dropout: rate before the classes.
      reference: ``"torch"``: the names of most PyTorch code for this network.
      **options: those of every family, see ``models.Options``.

    Returns:
      ``Network(down1=…, across1=…, up1=…, head=…)``: ``across1/below`` holds the pool, the next
      size's ``down2``, ``across2`` and ``up2``, and ``enlarge``. It takes images whose sides are
      multiples of ``2 ** (len(widths) - 1)``, and returns ``(N, *spatial, num_classes)``.

    Raises:
      ValueError: an unknown name, fewer than two sizes, odd channels but the first; in the call,
        sides that are no such multiple.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = models.unet((4, 8), num_classes=3, rngs=nnx.Rngs(0))
      >>> net(jnp.ones((1, 40, 32, 3)), train=False).shape
      (1, 40, 32, 3)

    Reference: Ronneberger, Fischer and Brox, U-Net: Convolutional Networks for Biomedical Image
    Segmentation, 2015.
    """
    widths = _check.integers("widths", widths, least=1)
    if len(widths) < 2:
        raise ValueError(f"widths={widths} has one entry; a U-Net has two sizes or more")
    style = Style.of(options, Family("unet", torch=_keys(len(widths))))
    head: dict[str, nnx.Module] = dropped(style.dropout)
    if style.num_classes:
        head["dense"] = style.conv((widths[0], style.num_classes), use_bias=True, init="lecun")
    else:
        head["features"] = nn.Identity()
    units = _level(style, 1, (style.in_features, *widths))
    return style.network({**units, "head": nn.Chain(head)})


def _level(style: Style, number: int, widths: tuple[int, ...]) -> dict[str, nnx.Module]:
    """Return one size and, between its two halves, all that are smaller.

    Args:
      style: how layers are made.
      number: of the size, from 1.
      widths: channels in, at this size, and at the smaller ones.
    """
    before, here, *smaller = widths
    down = _twice(style, (before, here))
    if not smaller:
        return {f"down{number}": down}
    inner = _level(style, number + 1, (here, *smaller))
    enlarge = nn.ConvTranspose(
        smaller[0], here, (2, 2), strides=2, padding="VALID", rngs=style.rngs, **style.dtypes
    )
    below = nn.Chain({"pool": nn.Pool("max", (2, 2)), **inner, "enlarge": enlarge})
    across = nn.Parallel({"kept": nn.Identity(), "below": below})
    return {
        f"down{number}": down,
        f"across{number}": across,
        f"up{number}": _twice(style, (2 * here, here)),
    }


def _twice(style: Style, fan: tuple[int, int]) -> nn.Chain:
    second = style.step((fan[1], fan[1]), 3, number=2)
    return nn.Chain({**style.step(fan, 3, number=1), **second})


def _keys(sizes: int) -> dict[str, str]:
    """Return names by the size's number, from above down and back up."""
    rules, inside = {"head/dense": "outc.conv"}, ""
    for s in range(1, sizes + 1):
        down = "inc.double_conv" if s == 1 else f"down{s - 1}.maxpool_conv.1.double_conv"
        up = f"up{sizes - s}"
        for k in (1, 2):
            for n, part in enumerate(("conv", "norm")):
                place = 3 * (k - 1) + n
                rules[f"{inside}down{s}/{part}{k}"] = f"{down}.{place}"
                rules[f"{inside}up{s}/{part}{k}"] = f"{up}.conv.double_conv.{place}"
        inside = f"{inside}across{s}/below/"
        rules[f"{inside}enlarge"] = f"{up}.up"
    return rules
