"""auxiliary_logits: a network's trunk and the heads beside it, in one pass."""

import jax
import numpy as np
from flax import nnx

from convjax import _check
from convjax.models._features import features
from convjax.models._network import Network


def auxiliary_logits(
    net: nnx.Module, x: jax.Array | np.ndarray, *, train: bool, rngs: nnx.Rngs | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Run a network and its auxiliary heads in one pass.

    In training, the auxiliary losses are added to the main one with a small weight (the papers:
    0.3), so that early units get a gradient by a short way too.

    Args:
      net: a network made with ``auxiliary=True``.
      x: the batch, ``(N, *spatial, C)``.
      train: whether norms use the batch's statistics and dropout drops.
      rngs: source of random numbers where ``train=True`` draws any.

    Returns:
      ``(logits, {name: logits})``: what ``net(x)`` gives, and what each head does.

    Raises:
      ValueError: a network without auxiliary heads; an image that a head cannot take.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models
      >>> def run(x):
      ...     net = models.inception_v1(num_classes=10, auxiliary=True, rngs=nnx.Rngs(0))
      ...     return models.auxiliary_logits(net, x, train=False)
      >>> logits, heads = jax.eval_shape(run, jnp.ones((1, 64, 64, 3)))
      >>> logits.shape, {name: y.shape for name, y in heads.items()}
      ((1, 10), {'aux1': (1, 10), 'aux2': (1, 10)})

    Reference: Szegedy et al., Going Deeper with Convolutions, 2015.
    """
    _check.instance("net", net, nnx.Module, "a network that was made with auxiliary=True")
    if not isinstance(net, Network) or not net.auxiliary_paths:
        name = net.name if isinstance(net, Network) else type(net).__name__
        raise ValueError(
            f"net={name} has no auxiliary heads; inception_v1 and inception_v3 have, made with "
            "auxiliary=True"
        )
    paths = [path for _, path in net.auxiliary_paths]
    found = features(net, x, [*paths, "head"], train=train, rngs=rngs)
    heads = {
        name: net.auxiliary[name](found[path], train=train, rngs=rngs)
        for name, path in net.auxiliary_paths
    }
    return found["head"], heads
