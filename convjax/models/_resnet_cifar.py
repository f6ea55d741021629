"""The residual networks for small images of He et al.: depth 6n + 2, and their plain twins."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from convjax import _check, nn
from convjax.models._deep_stack import CONVS, ORDERS, conv_of, shortcut_of
from convjax.models._network import Family, Keys, Network
from convjax.models._options import checked
from convjax.nn.initializers import Initializer

# There is no reference; the names are those that most PyTorch code for these networks has.
_UNIT = (
    ("branch/conv{k}", "conv{k}"),
    ("branch/norm{k}", "bn{k}"),
    ("branch/conv{k}/depthwise", "conv{k}.0"),
    ("branch/conv{k}/pointwise", "conv{k}.1"),
    ("shortcut/conv", "shortcut.0"),
    ("shortcut/norm", "shortcut.1"),
)
TORCH = Keys(
    (
        ("stem/conv", "conv1"),
        ("stem/norm", "bn1"),
        *((f"stage1/rest/{{i}}/{ours}", f"layer1.{{i}}.{theirs}") for ours, theirs in _UNIT),
        *((f"stage{{s}}/first/{ours}", f"layer{{s}}.0.{theirs}") for ours, theirs in _UNIT),
        *(
            (f"stage{{s}}/rest/{{i}}/{ours}", f"layer{{s}}.{{i+1}}.{theirs}")
            for ours, theirs in _UNIT
        ),
        ("head/norm", "bn2"),
        ("head/dense", "linear"),
    )
)
FAMILY = Family("resnet_cifar", torch=TORCH)
VARIANTS = {f"resnet{depth}_cifar": {"depth": depth} for depth in (20, 32, 44, 56, 110, 1202)}
TRANSITIONS = ("zero_pad", "projection")


@checked
def resnet_cifar(
    depth: int,
    *,
    num_classes: int = 10,
    in_features: int = 3,
    width: int = 16,
    shortcut: str = "identity",
    transition: str = "zero_pad",
    shortcut_scale: float = 0.5,
    branch_scale: float = 1.0,
    norm: str = "batch",
    activation: str = "relu",
    init: str | Initializer = "he",
    conv: str = "dense",
    order: str = "post",
    padding: Any = 1,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> Network:
    """Return the CIFAR residual network of He et al. of depth 6n + 2, or its plain twin.

    A 3x3 stem; three stages of n units of two 3x3 convolutions each, with ``width``, 2 ``width``
    and 4 ``width`` channels, halving the image at the start of the second and third; global average
    pool and a dense head. ``shortcut="none"`` takes every shortcut away and leaves all else: with
    ``transition="zero_pad"`` the parameters are the same too.

    Args:
      depth: weighted layers, 6n + 2: 20, 32, 44, 56, 110, 1202 in the paper.
      num_classes: outputs of the head.
      in_features: channels of the image.
      width: channels of the first stage.
      shortcut: ``"identity"``, ``"none"``, ``"scaled"`` or ``"gated"``, where the shape is kept.
      transition: what stands for the identity where the shape changes: ``"zero_pad"`` (option A of
        the paper, parameter-free) or ``"projection"`` (option B, a 1x1 convolution and norm).
      shortcut_scale: factor of the scaled shortcut.
      branch_scale: factor on every branch.
      norm: ``"none"``, ``"batch"``, ``"group"`` or ``"layer"``.
      activation: a name in ``nn.ACTIVATIONS``.
      init: initialiser of the kernels, or its name in ``nn.initializers.NAMES``.
      conv: ``"dense"`` or ``"separable"`` (the stem stays dense).
      order: ``"post"`` (2015: the last activation after the sum) or ``"pre"`` (2016: norm and
        activation before each convolution, and once more before the head).
      padding: of the 3x3 convolutions; 1, as in PyTorch, is the paper's.
      dtype: dtype of the computation; None takes the promotion of input and parameters.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values.

    Returns:
      ``Network(stem=…, stage1=…, stage2=…, stage3=…, head=…)``; in a stage the units whose shape
      is kept are one ``Repeat`` named ``"rest"``, after a ``"first"`` where the shape changes.

    Raises:
      ValueError: a depth that is not 6n + 2, a size below one, an unknown name.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = models.resnet_cifar(20, rngs=nnx.Rngs(0))
      >>> sum(p.size for p in jax.tree.leaves(nnx.state(net, nnx.Param)))
      269722
      >>> net(jnp.ones((2, 32, 32, 3)), train=True).shape
      (2, 10)

    Reference: He et al., Deep Residual Learning for Image Recognition, 2015, section 4.2; Identity
    Mappings in Deep Residual Networks, 2016.
    """
    n, rest = divmod(depth - 2, 6)
    if n < 1 or rest:
        near = max(8, round((depth - 2) / 6) * 6 + 2)
        raise ValueError(f"depth={depth} is not 6n + 2 with n at least 1; the nearest is {near}")
    _check.choice("conv", conv, CONVS)
    _check.choice("order", order, ORDERS)
    _check.choice("transition", transition, TRANSITIONS)
    shared: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}

    def normalised(features: int, rngs: nnx.Rngs) -> dict[str, nnx.Module]:
        return {} if norm == "none" else {"norm": nn.norm(norm, features, rngs=rngs, **shared)}

    def step(i: int, fan: tuple[int, int], strides: int, rngs: nnx.Rngs) -> dict[str, nnx.Module]:
        convolution = conv_of(
            conv,
            *fan,
            kernel_size=(3, 3),
            strides=strides,
            padding=padding,
            use_bias=norm == "none",
            init=init,
            rngs=rngs,
            **shared,
        )
        act = {"activation": nn.Activation(activation)}
        if order == "pre":
            parts = {**normalised(fan[0], rngs), **act, "conv": convolution}
        else:
            parts = {"conv": convolution, **normalised(fan[1], rngs), **(act if i == 1 else {})}
        return {f"{name}{i}": part for name, part in parts.items()}

    def across(fan: tuple[int, int], strides: int, rngs: nnx.Rngs) -> str | nnx.Module:
        """Return the shortcut of a unit that changes the shape."""
        key = rngs.params()
        if shortcut == "none":
            return "none"
        if transition == "zero_pad":
            return nn.ZeroPadShortcut(*fan, strides=strides)
        own = nnx.Rngs(key)
        projection = nn.PointwiseConv(
            *fan, strides=strides, use_bias=norm == "none", kernel_init=init, rngs=own, **shared
        )
        return nn.Chain({"conv": projection, **normalised(fan[1], own)})

    def unit(fan: tuple[int, int], strides: int, rngs: nnx.Rngs) -> nn.Residual:
        branch = step(1, fan, strides, rngs) | step(2, (fan[1], fan[1]), 1, rngs)
        if fan[0] == fan[1] and strides == 1:
            beside = shortcut_of(shortcut, fan[1], scale=shortcut_scale, rngs=rngs, **shared)
        else:
            beside = across(fan, strides, rngs)
        after = nn.Activation(activation) if order == "post" else None
        return nn.Residual(nn.Chain(branch), beside, scale=branch_scale, activation=after)

    def stage(fan: tuple[int, int], strides: int) -> nn.Chain:
        parts: dict[str, nnx.Module] = {}
        if strides != 1 or fan[0] != fan[1]:
            parts["first"] = unit(fan, strides, rngs)
        kept = n - len(parts)
        if kept:
            parts["rest"] = nn.Repeat(lambda rngs: unit((fan[1], fan[1]), 1, rngs), kept, rngs=rngs)
        return nn.Chain(parts)

    def head(features: int) -> nn.Chain:
        last = (
            {**normalised(features, rngs), "activation": nn.Activation(activation)}
            if order == "pre"
            else {}
        )
        dense = nn.Dense(features, num_classes, kernel_init="lecun", rngs=rngs, **shared)
        return nn.Chain({**last, "pool": nn.GlobalPool("avg"), "dense": dense})

    stem: dict[str, nnx.Module] = {
        "conv": nn.Conv(
            in_features,
            width,
            (3, 3),
            padding=padding,
            use_bias=norm == "none",
            kernel_init=init,
            rngs=rngs,
            **shared,
        )
    }
    if order == "post":
        stem |= {**normalised(width, rngs), "activation": nn.Activation(activation)}
    return Network(
        {
            "stem": nn.Chain(stem),
            "stage1": stage((width, width), 1),
            "stage2": stage((width, 2 * width), 2),
            "stage3": stage((2 * width, 4 * width), 2),
            "head": head(4 * width),
        },
        family=FAMILY,
    )
