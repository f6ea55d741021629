"""The layers of a network: the leaves with a kernel, which have a place each on a figure's axis."""

import numpy as np

from convjax import gradflow
from convjax.lab._columns import Columns


def layers(profile: gradflow.Profile) -> Columns:
    """Return the rows of a profile's table that are layers, numbered from 0 in ``position``.

    A layer is a leaf with a kernel, in forward order; norms and activations are no layers.

    Args:
      profile: of any network.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import gradflow, lab, models
      >>> net = models.resnet_cifar(8, width=2, rngs=nnx.Rngs(0))
      >>> x, key = jax.numpy.ones((1, 4, 4, 3)), jax.random.key(1)
      >>> profile = gradflow.profile(net, x, cotangent=key, train=True)
      >>> lab.layers(profile)["path"][:2].tolist()
      ['stem/conv', 'stage1/rest/0/branch/conv1']
    """
    table = profile.table()
    kept = np.array(["kernel" in " ".join(profile[path].parameters) for path in table["path"]])
    rows = {name: column[kept] for name, column in table.items()}
    return rows | {"position": np.arange(kept.sum())}
