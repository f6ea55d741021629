"""inception_v1: GoogLeNet with batch norm, and the auxiliary heads beside it."""

from typing import Unpack

import jax.numpy as jnp
from flax import nnx

from convjax import nn
from convjax.models._inception import INCEPTION, Builder
from convjax.models._inception_keys import V1_TORCH
from convjax.models._inception_tables import V1_POOLS, V1_STEM, v1_stages
from convjax.models._network import Family, Network
from convjax.models._options import Options, with_options
from convjax.models._style import Style, dropped

FAMILY = Family("inception_v1", torch=V1_TORCH)
VARIANTS = {"googlenet": {}}
# Which unit of the second stage each auxiliary head reads: 4a and 4d in the paper.
READ = {"aux1": 0, "aux2": 3}
_GRID = 4


@with_options()
def inception_v1(
    *,
    width: float = 1.0,
    window: int = 3,
    auxiliary: bool = False,
    auxiliary_dropout: float = 0.0,
    **options: Unpack[Options],
) -> Network:
    """Return Inception v1, as torchvision has it: batch norm after every convolution.

    A stem that takes the image to an eighth; stages of 2, 5 and 2 units, a pool of stride 2 before
    the second and third; global average pool and a classifier. A unit is four branches side by
    side: 1x1; 1x1 and 3x3; 1x1 and a larger window; a 3x3 maximum and 1x1.

    Args:
      width: factor on all channel counts.
      window: of the convolution that ends the third branch: 3, as torchvision's weights want it,
        or 5, as in the paper.
      auxiliary: whether there are heads that read ``stage2/0`` and ``stage2/3``;
        ``models.auxiliary_logits`` runs them. torchvision's weights for them are untrained.
      auxiliary_dropout: rate before the classifiers of these (the paper: 0.7).
      dropout: rate before the classifier (the paper: 0.4; torchvision trains with 0.2).
      reference: ``"torch"``; Keras does not have this network.
      **options: those of every family, see ``models.Options``.

    Returns:
      ``Network(stem=…, stage1=…, stage2=…, stage3=…, head=…)``; units are ``stage1/0``, ….

    Raises:
      ValueError: an unknown name, a size below one.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = nnx.eval_shape(lambda: models.inception_v1(rngs=nnx.Rngs(0)))  # shapes alone
      >>> sum(p.size for p in jax.tree.leaves(nnx.state(net, nnx.Param)))
      6624904

    Reference: Szegedy et al., Going Deeper with Convolutions, 2015; Ioffe and Szegedy, Batch
    Normalization, 2015.
    """
    if window not in (3, 5):
        raise ValueError(f"window={window} must be 3 (torchvision) or 5 (the paper)")
    style = Style.of(options, FAMILY, **INCEPTION)
    build = Builder(style, width)
    stages = v1_stages(window)
    stem, fan = build.steps(style.in_features, V1_STEM)
    units: dict[str, nnx.Module] = {"stem": nn.Chain(stem)}
    for s, (tables, pool) in enumerate(zip(stages, V1_POOLS, strict=True), 1):
        units[f"stage{s}"], fan = build.stage(fan, tables, before=pool)
    units["head"] = style.head(fan)
    # Made last: the trunk is the same with and without.
    heads = {
        name: (f"stage2/{i}", _head(build, build.channels(stages[1][i]), auxiliary_dropout))
        for name, i in READ.items()
        if auxiliary
    }
    return style.network(units, auxiliary=heads)


def _head(build: Builder, fan: int, rate: float) -> nn.Chain:
    """Return an auxiliary head: a mean over 4x4 cells, 1x1, a hidden layer, a classifier."""
    style = build.style
    narrow, hidden = build.scaled(128), build.scaled(1024)
    flat = _GRID * _GRID * narrow
    return nn.Chain(
        {
            "pool": nn.CellPool(_GRID),
            **style.step((fan, narrow)),
            "flatten": Flatten(),
            "hidden": nn.Dense(
                flat, hidden, kernel_init=style.init, rngs=style.rngs, **style.dtypes
            ),
            "hidden_activation": style.act(),
            **dropped(rate),
            **style.classifier(hidden),
        }
    )


class Flatten(nn.Node):
    """All entries of an example in one row, channel by channel as PyTorch's weights have them.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax.models._inception_v1 import Flatten
      >>> Flatten()(jnp.arange(4.0).reshape(1, 1, 2, 2)).tolist()
      [[0.0, 2.0, 1.0, 3.0]]
    """

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Flatten."""
        return jnp.moveaxis(x, -1, 1).reshape(len(x), -1)
