"""The layers of a network: the leaves with a kernel, which have a place each on a figure's axis."""

import numpy as np

from convjax import gradflow
from convjax.lab._columns import Columns

PRODUCTS = ("Conv", "ConvTranspose", "Dense")
"""Kinds of leaves whose parameters may have other names."""


def layers(profile: gradflow.Profile) -> Columns:
    """Return the rows of a profile's table that are layers, numbered from 0 in ``position``.

    A layer is a leaf with a kernel, in forward order, whatever the kernel is called where a network
    was read; norms and activations are no layers.

    Args:
      profile: of any network.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import gradflow, lab, nn
      >>> conv = nn.Conv(3, 2, (3, 3), rngs=nnx.Rngs(0))
      >>> net = nn.Chain(conv=conv, relu=nn.Activation("relu"), pool=nn.GlobalPool("avg"))
      >>> x, key = jax.random.normal(jax.random.key(1), (1, 4, 5, 3)), jax.random.key(2)
      >>> profile = gradflow.profile(net, x, cotangent=key, train=True)
      >>> lab.layers(profile)["path"].tolist()
      ['conv']
    """
    table = profile.table()
    kept = np.array([_has_kernel(profile[path]) for path in table["path"]])
    rows = {name: column[kept] for name, column in table.items()}
    return rows | {"position": np.arange(kept.sum())}


def _has_kernel(unit: gradflow.Unit) -> bool:
    return unit.kind in PRODUCTS or "kernel" in " ".join(unit.parameters)
