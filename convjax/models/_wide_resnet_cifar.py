"""wide_resnet_cifar: the Wide ResNets for small images."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from convjax import nn
from convjax.models._network import Family, Keys, Network
from convjax.models._options import checked
from convjax.models._preact_unit import PreActUnit
from convjax.models._style import Dilated, Style
from convjax.nn.initializers import Initializer

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


@checked
def wide_resnet_cifar(
    depth: int,
    widen: int,
    *,
    num_classes: int = 10,
    in_features: int = 3,
    width: int = 16,
    shortcut: str = "identity",
    shortcut_scale: float = 0.5,
    transition: str = "projection",
    norm: str = "batch",
    activation: str = "relu",
    init: str | Initializer = "he",
    output_stride: int | None = None,
    dropout: float = 0.0,
    unit_dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> Network:
    """Return a Wide ResNet for CIFAR of depth 6n + 4: WRN-``depth``-``widen``.

    A 3x3 stem of ``width`` channels; three stages of n pre-activation units of two 3x3
    convolutions, with ``widen`` times ``width``, 2 ``width`` and 4 ``width`` channels, halving the
    image at the start of the second and third; norm, activation, global average pool and a dense
    head. ``shortcut="none"`` is the plain twin.

    Args:
      depth: weighted layers, 6n + 4: 16, 22, 28, 40 in the paper.
      widen: channels over those of the ResNet of He et al.
      num_classes: outputs of the head.
      in_features: channels of the image.
      width: channels of the stem.
      shortcut: of units that keep their shape: ``"identity"``, ``"none"``, ``"scaled"`` or
        ``"gated"``.
      shortcut_scale: factor of the scaled shortcut.
      transition: what stands for the identity where channels change: ``"projection"``, of the
        activation that the branch reads too, or ``"zero_pad"``, of the unit's input (without
        parameters, so that the plain twin has the very same ones).
      norm: ``"none"``, ``"batch"``, ``"group"`` or ``"layer"``.
      activation: a name in ``nn.ACTIVATIONS``.
      init: initialiser of the kernels, or its name in ``nn.initializers.NAMES``.
      output_stride: 1, 2 or 4: later strides become dilations; None for 4.
      dropout: rate before the classifier.
      unit_dropout: rate between the two convolutions of every unit (the paper: 0.3).
      stochastic_depth: rate of the last unit; it grows linearly from 0 at the first.
      dtype: dtype of the computation; None takes the promotion of input and parameters.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values.

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
    style = Style(
        rngs=rngs,
        norm=norm,
        activation=activation,
        init=init,
        shortcut=shortcut,
        shortcut_scale=shortcut_scale,
        dtype=dtype,
        param_dtype=param_dtype,
    )
    unit = PreActUnit(style, transition=transition, dropout=unit_dropout)
    rates, dilated = style.rates(stochastic_depth, 3 * n), Dilated(output_stride, 1)
    stages: dict[str, nnx.Module] = {
        "stem": nn.Chain({"conv": style.conv((in_features, width), 3)})
    }
    features = width
    for s in range(3):
        strides, before, dilation = dilated(1 if s == 0 else 2)
        wide = widen * width * 2**s
        first = unit((features, wide), strides, (before, dilation), next(rates))
        rest = [unit((wide, wide), 1, (dilation, dilation), next(rates)) for _ in range(n - 1)]
        stages[f"stage{s + 1}"] = nn.Chain([first, *rest])
        features = wide
    head = style.activated_head(features, num_classes, dropout=dropout)
    return Network({**stages, "head": head}, family=FAMILY)


def _units(depth: int) -> int:
    """Return the units of a stage."""
    n, rest = divmod(depth - 4, 6)
    if n < 1 or rest:
        near = max(10, round((depth - 4) / 6) * 6 + 4)
        raise ValueError(f"depth={depth} is not 6n + 4 with n at least 1; the nearest is {near}")
    return n
