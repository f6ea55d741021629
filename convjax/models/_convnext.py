"""convnext: residual networks after the transformers' pattern."""

import dataclasses
from collections.abc import Sequence
from typing import Unpack

from flax import nnx

from convjax import nn
from convjax.models._convnext_keys import TORCH, TORCH_1X1, TORCHVISION, keras
from convjax.models._network import Family, Network
from convjax.models._options import StridedOptions, with_options
from convjax.models._style import Dilated, Style, dropped, skipped

_SIZES = {
    "atto": {"units": (2, 2, 6, 2), "width": 40},
    "femto": {"units": (2, 2, 6, 2), "width": 48},
    "pico": {"units": (2, 2, 6, 2), "width": 64},
    "nano": {"units": (2, 2, 8, 2), "width": 80},
    "tiny": {"units": (3, 3, 9, 3), "width": 96},
    "small": {"units": (3, 3, 27, 3), "width": 96},
    "base": {"units": (3, 3, 27, 3), "width": 128},
    "large": {"units": (3, 3, 27, 3), "width": 192},
    "xlarge": {"units": (3, 3, 27, 3), "width": 256},
    "huge": {"units": (3, 3, 27, 3), "width": 352},
}
_V2 = {"response_norm": True, "layer_scale": None}
VARIANTS = {
    **{f"convnext_{size}": preset for size, preset in _SIZES.items() if size != "huge"},
    **{f"convnextv2_{size}": preset | _V2 for size, preset in _SIZES.items() if size != "xlarge"},
}


def _family(name: str) -> Family:
    """Return the family of a name: what timm stores, and Keras's names, depend on it."""
    version, _, size = name.partition("_")
    torch = TORCH_1X1 if size in ("atto", "femto", "pico", "nano") else TORCH
    if version == "convnextv2" or torch is TORCH_1X1:
        return Family(name, torch=torch)
    return Family(name, torch=torch, torchvision=TORCHVISION, keras=keras(name))


_FAMILIES = {
    (preset["units"], preset["width"], "response_norm" in preset): _family(name)
    for name, preset in VARIANTS.items()
}
FAMILY = _family("convnext")
FAMILY_V2 = _family("convnextv2")


@with_options(norm="layer", activation="exact_gelu")
def convnext(
    units: Sequence[int] = (3, 3, 9, 3),
    *,
    width: int = 96,
    kernel_size: int = 7,
    expansion: int = 4,
    layer_scale: float | None = 1e-6,
    response_norm: bool = False,
    **options: Unpack[StridedOptions],
) -> Network:
    """Return a ConvNeXt: depthwise convolution, norm and a two-layer perceptron in each branch.

    A stem that cuts the image into patches of 4x4; stages of units with ``width``, 2, 4 and 8
    ``width`` channels, each but the first after a norm and a convolution of 2x2 with stride 2;
    global average pool, norm and a classifier. One norm and one activation in a branch, and every
    convolution has a bias. ``shortcut="none"`` is the plain twin.

    Args:
      units: units of each stage.
      width: channels of the first stage.
      kernel_size: window of the depthwise convolutions.
      expansion: hidden channels of the perceptron, over those of the unit.
      layer_scale: initial value of the learned factors, one for each channel, at the end of every
        branch, which so begins almost silent; None for no factors.
      response_norm: whether global response normalisation stands between the perceptron's layers:
        with ``layer_scale=None`` that is ConvNeXt V2.
      shortcut: of every unit: ``"identity"``, ``"none"``, ``"scaled"`` or ``"gated"``.
      init: initialiser of the kernels, or its name in ``nn.initializers.NAMES``. (The paper draws
        from a truncated normal distribution of standard deviation 0.02.)
      output_stride: 4, 8, 16 or 32: later strides become dilations; None for 32.
      reference: ``"torch"`` or ``"keras"``, which compute the same, and name it differently.
      **options: those of every residual family, see ``models.StridedOptions``.

    Returns:
      ``Network(stem=…, stage1=…, …, stage4=…, head=…)``; units are ``stage1/0``, ``stage1/1``, …,
      after ``stage2/down``.

    Raises:
      ValueError: an unknown name, a size below one.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = models.convnext((1, 1, 1, 1), width=8, num_classes=10, rngs=nnx.Rngs(0))
      >>> net(jnp.ones((1, 40, 32, 3)), train=False).shape
      (1, 10)

    Reference: Liu et al., A ConvNet for the 2020s, 2022; Woo et al., ConvNeXt V2, 2023.
    """
    own = FAMILY_V2 if response_norm else FAMILY
    family = _FAMILIES.get((tuple(units), width, response_norm), own)
    style = Style.of(options, family, epsilon=1e-6, use_bias=True)
    unit = _Unit(style, kernel_size, expansion, layer_scale, response_norm)
    rates, dilated = style.rates(sum(units)), Dilated(style.output_stride, 4)
    stages: dict[str, nnx.Module] = {"stem": nn.Chain(_stem(style, width))}
    features = width
    for s, count in enumerate(units):
        strides, before, dilation = dilated(2 if s else 1)
        fan, features = (features, width * 2**s), width * 2**s
        down = {"down": _down(style, fan, strides, before)} if s else {}
        made = {str(i): unit(features, dilation, next(rates)) for i in range(count)}
        stages[f"stage{s + 1}"] = nn.Chain({**down, **made})
    head = {
        "pool": nn.GlobalPool("avg"),
        **style.normed("norm", features),
        **dropped(style.dropout),
        **style.classifier(features),
    }
    return style.network({**stages, "head": nn.Chain(head)})


@dataclasses.dataclass(frozen=True)
class _Unit:
    """What all units of one network share."""

    style: Style
    kernel_size: int
    expansion: int
    layer_scale: float | None
    response_norm: bool

    def __call__(self, features: int, dilation: int, rate: float) -> nn.Residual:
        """Return one unit, at a rate of stochastic depth."""
        hidden = self.expansion * features
        depthwise = self.style.conv(
            (features, features), self.kernel_size, groups=features, dilation=dilation
        )
        branch = {
            "conv": depthwise,
            **self.style.normed("norm", features),
            "expand": self._dense((features, hidden)),
            "activation": self.style.act(),
            **self._weighed(hidden),
            "project": self._dense((hidden, features)),
            **self._scaled(features),
            **skipped(rate),
        }
        return nn.Residual(nn.Chain(branch), self.style.beside(features))

    def _dense(self, fan: tuple[int, int]) -> nn.Dense:
        return nn.Dense(
            *fan, kernel_init=self.style.init, rngs=self.style.rngs, **self.style.dtypes
        )

    def _weighed(self, features: int) -> dict[str, nnx.Module]:
        if not self.response_norm:
            return {}
        return {"response": nn.ResponseNorm(features, rngs=self.style.rngs, **self.style.dtypes)}

    def _scaled(self, features: int) -> dict[str, nnx.Module]:
        if self.layer_scale is None:
            return {}
        dtype = self.style.param_dtype
        scale = nn.Scale(self.layer_scale, learnable=True, features=features, param_dtype=dtype)
        return {"scale": scale}


def _stem(style: Style, width: int) -> dict[str, nnx.Module]:
    """Return what reads every patch of 4x4 by itself."""
    conv = style.conv((style.in_features, width), 4, 4, padding="VALID")
    return {"conv": conv, **style.normed("norm", width)}


def _down(style: Style, fan: tuple[int, int], strides: int, dilation: int) -> nn.Chain:
    """Return what halves the image between two stages, or keeps its size where it dilates."""
    padding = "VALID" if strides > 1 else "SAME"
    conv = style.conv(fan, 2, strides, dilation=dilation, padding=padding)
    return nn.Chain({**style.normed("norm", fan[0]), "conv": conv})
