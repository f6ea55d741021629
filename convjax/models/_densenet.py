"""densenet: every layer reads the outputs of all before it."""

import dataclasses
from collections.abc import Sequence
from typing import Unpack

from flax import nnx

from convjax import nn
from convjax.models._network import Family, Network
from convjax.models._options import Options, with_options
from convjax.models._style import Style

_LAYER = "features.denseblock{s}.denselayer{i+1}"
FAMILY = Family(
    "densenet",
    torch={
        "stem/conv": "features.conv0",
        "stem/norm": "features.norm0",
        "stage{s}/{i}/grown/norm{k}": f"{_LAYER}.norm{{k}}",
        "stage{s}/{i}/grown/conv{k}": f"{_LAYER}.conv{{k}}",
        "stage{s}/down/norm": "features.transition{s}.norm",
        "stage{s}/down/conv": "features.transition{s}.conv",
        "head/norm": "features.norm5",
        "head/dense": "classifier",
    },
)
VARIANTS = {
    "densenet121": {"units": (6, 12, 24, 16)},
    "densenet161": {"units": (6, 12, 36, 24), "growth": 48},
    "densenet169": {"units": (6, 12, 32, 32)},
    "densenet201": {"units": (6, 12, 48, 32)},
}


@with_options()
def densenet(
    units: Sequence[int] = (6, 12, 24, 16),
    *,
    growth: int = 32,
    bottleneck: int = 4,
    unit_dropout: float = 0.0,
    **options: Unpack[Options],
) -> Network:
    """Return a DenseNet-BC: each layer's output is put beside all that came before.

    A stem that takes the image to a quarter, with twice ``growth`` channels; stages of layers that
    each add ``growth`` channels: norm, activation, 1x1, norm, activation, 3x3; between two stages a
    1x1 convolution that halves the channels, and a mean of 2x2; norm, activation, global average
    pool and a classifier. There is no plain twin: what is put beside is no term that could be left
    out, since the kernels after it read it.

    Args:
      units: layers of each stage.
      growth: channels that a layer adds.
      bottleneck: channels between the two convolutions of a layer, over ``growth``.
      unit_dropout: rate after every layer (the paper: 0.2 without augmentation).
      reference: ``"torch"``; torchvision has the same names.
      **options: those of every family, see ``models.Options``.

    Returns:
      ``Network(stem=…, stage1=…, …, stage4=…, head=…)``; the convolutions of a layer are
      ``stage1/0/grown/conv1`` and ``…/conv2``, and ``stage1/down`` follows the first stage.

    Raises:
      ValueError: an unknown name, a size below one.

    Example:
      >>> import convjax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.densenet(rngs=nnx.Rngs(0)))  # shapes alone
      >>> cost = convjax.cost(net, (1, 224, 224, 3))
      >>> cost.multiply_adds, cost.parameters
      (2834161664, 7978856)

    Reference: Huang et al., Densely Connected Convolutional Networks, 2016.
    """
    style = Style.of(options, FAMILY)
    layer = _Layer(style, growth, bottleneck, unit_dropout)
    features = 2 * growth
    stem = style.step((style.in_features, features), 7, 2)
    stages: dict[str, nnx.Module] = {"stem": nn.Chain({**stem, "pool": style.pool("max", 3, 2)})}
    for s, count in enumerate(units, 1):
        made: dict[str, nnx.Module] = {str(i): layer(features + i * growth) for i in range(count)}
        features += count * growth
        if s < len(units):
            made["down"] = _down(style, (features, features // 2))
            features //= 2
        stages[f"stage{s}"] = nn.Chain(made)
    return style.network({**stages, "head": style.head(features, activated=True)})


@dataclasses.dataclass(frozen=True)
class _Layer:
    """What all layers of one network share."""

    style: Style
    growth: int
    bottleneck: int
    dropout: float

    def __call__(self, features: int) -> nn.Parallel:
        """Return a layer beside what it reads."""
        style, middle = self.style, self.bottleneck * self.growth
        grown = {
            **style.normed("norm1", features),
            "activation1": style.act(),
            "conv1": style.conv((features, middle)),
            **style.normed("norm2", middle),
            "activation2": style.act(),
            "conv2": style.conv((middle, self.growth), 3),
            **({"dropout": nn.Dropout(self.dropout)} if self.dropout else {}),
        }
        return nn.Parallel({"kept": nn.Identity(), "grown": nn.Chain(grown)})


def _down(style: Style, fan: tuple[int, int]) -> nn.Chain:
    """Return what halves channels and image between two stages."""
    return nn.Chain(
        {
            **style.normed("norm", fan[0]),
            "activation": style.act(),
            "conv": style.conv(fan),
            "pool": nn.Pool("avg", (2, 2)),
        }
    )
