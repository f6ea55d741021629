"""inception_resnet_v2: Inception's branches in residual units of a small scale."""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from convjax import nn
from convjax.models._inception import Builder, Table, check_units, inception_style
from convjax.models._inception_keys import RESNET_TORCH, resnet_keras
from convjax.models._inception_tables import RESNET_LAST, RESNET_OPENINGS, RESNET_UNITS, V3_STEM
from convjax.models._network import Family, Network, check_reference
from convjax.models._options import checked
from convjax.models._style import skipped
from convjax.nn.initializers import Initializer

VARIANTS = {"inception_resnet_v2": {}}
SCALES = (0.17, 0.1, 0.2)


@checked
def inception_resnet_v2(
    units: Sequence[int] = (10, 20, 10),
    *,
    num_classes: int = 1000,
    in_features: int = 3,
    width: float = 1.0,
    branch_scales: Sequence[float] = SCALES,
    shortcut: str = "identity",
    shortcut_scale: float = 0.5,
    norm: str = "batch",
    activation: str = "relu",
    init: str | Initializer = "he",
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    reference: str = "torch",
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
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
      num_classes: outputs of the head.
      in_features: channels of the image.
      width: factor on all channel counts.
      branch_scales: factor on the branches of each stage.
      shortcut: ``"identity"``, ``"none"`` (the plain twin), ``"scaled"`` or ``"gated"``.
      shortcut_scale: factor of the scaled shortcut.
      norm: ``"none"``, ``"batch"``, ``"group"`` or ``"layer"``.
      activation: a name in ``nn.ACTIVATIONS``.
      init: initialiser of the kernels, or its name in ``nn.initializers.NAMES``.
      dropout: rate before the classifier (the paper: 0.2).
      stochastic_depth: rate of the last unit; it grows linearly from 0 at the first.
      reference: ``"torch"`` or ``"keras"`` (norms without a scale).
      dtype: dtype of the computation; None takes the promotion of input and parameters.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values.

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
    check_reference(reference, family)
    style = inception_style(
        reference,
        rngs=rngs,
        norm=norm,
        activation=activation,
        init=init,
        shortcut=shortcut,
        shortcut_scale=shortcut_scale,
        dtype=dtype,
        param_dtype=param_dtype,
    )
    build = Builder(style, width)
    stem, fan = build.steps(in_features, V3_STEM)
    parts: dict[str, nnx.Module] = {"stem": nn.Chain(stem)}
    rates = style.rates(stochastic_depth, sum(units))
    for s, (count, scale) in enumerate(zip(units, branch_scales, strict=True)):
        opening, fan = build.parallel(fan, RESNET_OPENINGS[s])
        unit = partial(_unit, build, fan, RESNET_UNITS[s])
        residual = [unit(scale, next(rates)) for _ in range(count - (s == 2))]
        if s == 2:
            residual.append(unit(1.0, next(rates), activation=False))
        parts[f"stage{s + 1}"] = nn.Chain([opening, *residual])
    last = build.scaled(RESNET_LAST)
    head = style.head(last, num_classes, dropout=dropout)
    parts["head"] = nn.Chain({**style.step((fan, last)), **dict(head.items())})
    return Network(parts, family=family, reference=reference)


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
