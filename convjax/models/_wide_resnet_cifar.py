"""wide_resnet_cifar: the Wide ResNets for small images."""

from typing import Unpack

from flax import nnx

from convjax import nn
from convjax.models._network import Family, Keys, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._preact_unit import PreActUnit
from convjax.models._style import Dilated, Style

# There is no reference; the names are those that most PyTorch code for these networks has.
_UNIT = "block{s}.layer.{i}"
TORCH = Keys(
    (
        ("stem/conv", "conv1"),
        *(
            (f"stage{{s}}/{{i}}/{where}{ours}{{k}}", f"{_UNIT}.{theirs}{{k}}")
            for where in ("", "branch/", "residual/branch/")
            for ours, theirs in (("norm", "bn"), ("conv", "conv"))
        ),
        ("stage{s}/{i}/residual/shortcut/conv", f"{_UNIT}.convShortcut"),
        ("head/norm", "bn1"),
        ("head/dense", "fc"),
    )
)
FAMILY = Family("wide_resnet_cifar", torch=TORCH)
VARIANTS = {
    f"wrn{depth}_{widen}_cifar": {"depth": depth, "widen": widen}
    for depth, widen in ((16, 8), (28, 10), (40, 4))
}


@with_options(num_classes=10)
def wide_resnet_cifar(
    depth: int,
    widen: int,
    *,
    width: int = 16,
    transition: str = "projection",
    unit_dropout: float = 0.0,
    **options: Unpack[StridedOptions],
) -> Network:
    """Return a Wide ResNet for CIFAR of depth 6n + 4: WRN-``depth``-``widen``.

    A 3x3 stem of ``width`` channels; three stages of n pre-activation units of two 3x3
    convolutions, with ``widen`` times ``width``, 2 ``width`` and 4 ``width`` channels, halving the
    image at the start of the second and third; norm, activation, global average pool and a dense
    head. ``shortcut="none"`` is the plain twin.

    Args:
      depth: weighted layers, 6n + 4: 16, 22, 28, 40 in the paper.
      widen: channels over those of the ResNet of He et al.
      width: channels of the stem.
      transition: what stands for the identity where channels change: ``"projection"``, of the
        activation that the branch reads too, or ``"zero_pad"``, of the unit's input (without
        parameters, so that the plain twin has the very same ones).
      output_stride: 1, 2 or 4: later strides become dilations; None for 4.
      unit_dropout: rate between the two convolutions of every unit (the paper: 0.3).
      reference: ``"torch"``; Keras does not have this network.
      **options: those of every residual family, see ``models.StridedOptions``.

    Returns:
      ``Network(stem=…, stage1=…, stage2=…, stage3=…, head=…)``; units are ``stage1/0``,
      ``stage1/1``, …. A unit that changes its channels is a chain whose last unit is ``residual``.

    Raises:
      ValueError: a depth that is not 6n + 4, a size below one, an unknown name.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.wide_resnet_cifar(28, 10, rngs=nnx.Rngs(0)))
      >>> sum(p.size for p in jax.tree.leaves(nnx.state(net, nnx.Param)))
      36479194

    Reference: Zagoruyko and Komodakis, Wide Residual Networks, 2016.
    """
    n = _units(depth)
    style = Style.of(options, FAMILY)
    unit = PreActUnit(style, transition=transition, dropout=unit_dropout)
    rates, dilated = style.rates(3 * n), Dilated(style.output_stride, 1)
    stages: dict[str, nnx.Module] = {
        "stem": nn.Chain({"conv": style.conv((style.in_features, width), 3)})
    }
    features = width
    for s in range(3):
        strides, before, dilation = dilated(1 if s == 0 else 2)
        wide = widen * width * 2**s
        first = unit((features, wide), strides, (before, dilation), next(rates))
        rest = [unit((wide, wide), 1, (dilation, dilation), next(rates)) for _ in range(n - 1)]
        stages[f"stage{s + 1}"] = nn.Chain([first, *rest])
        features = wide
    return style.network({**stages, "head": style.head(features, activated=True)})


def _units(depth: int) -> int:
    """Return the units of a stage."""
    n, rest = divmod(depth - 4, 6)
    if n < 1 or rest:
        near = max(10, round((depth - 4) / 6) * 6 + 4)
        raise ValueError(f"depth={depth} is not 6n + 4 with n at least 1; the nearest is {near}")
    return n
