"""The layers of a network: the leaves with a kernel, which have a place each on a figure's axis."""

import numpy as np

from convjax import gradflow
from convjax.lab import Columns


def layers(profile: gradflow.Profile) -> Columns:
    """Return the rows of a profile's table that are layers, numbered from 0 in ``position``.

    A layer is a leaf with a kernel, in forward order; its norms and activations are no layers.
    """
    table = profile.table()
    kept = np.array([_has_kernel(profile, path) for path in table["path"]])
    rows = {name: column[kept] for name, column in table.items()}
    return rows | {"position": np.arange(kept.sum())}


def _has_kernel(profile: gradflow.Profile, path: str) -> bool:
    return any("kernel" in name for name in profile[path].parameters)
