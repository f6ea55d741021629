"""Keras's legacy HDF5 files, in which Keras applications publish their weights."""

import re
from pathlib import Path
from typing import Any

import numpy as np


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a legacy .h5 file as ``"layer/weight"``, layers in the file's order.

    A layer that is itself a model gives the names of its own layers.

    Args:
      path: an HDF5 file.

    Returns:
      Arrays by name.

    Raises:
      ImportError: h5py is not installed.
      ValueError: an HDF5 file of another kind, or two weights of one name.
    """
    import h5py

    arrays = {}
    with h5py.File(path, "r") as file:
        root: Any = file.get("model_weights", file)
        layers = _names(root, "layer_names")
        if layers is None:
            raise ValueError(_other_kind(file))
        extra = "top_level_model_weights"
        for layer in [*layers, *([extra] if extra in root else [])]:
            for weight in _names(root[layer], "weight_names") or ():
                name = f"{_owner(layer, weight)}/{weight.rpartition('/')[2].partition(':')[0]}"
                if name in arrays:
                    raise ValueError(f"two of its weights are named {name!r}")
                arrays[name] = np.asarray(root[layer][weight])
    return arrays


def _names(group: Any, attribute: str) -> list[str] | None:
    """Return an attribute's names; a long list stands in several attributes, numbered."""
    attributes = group.attrs
    if attribute in attributes:
        found = list(attributes[attribute])
    elif f"{attribute}0" in attributes:
        keys = (f"{attribute}{i}" for i in range(len(attributes)))
        found = [name for key in keys if key in attributes for name in attributes[key]]
    else:
        return None
    return [name.decode() if isinstance(name, bytes) else str(name) for name in found]


def _owner(layer: str, weight: str) -> str:
    """Name the layer that owns a weight: the group's, or one inside it."""
    scope = weight.rpartition("/")[0]
    # A second model in one process got scopes with a number behind: conv1_1/kernel in conv1.
    if not scope or re.fullmatch(rf"(.*/)?{re.escape(layer)}(_\d+)?", scope):
        return layer
    return scope.removeprefix(f"{layer}/")


def _other_kind(file: Any) -> str:
    if "layers" in file or "_layer_checkpoint_dependencies" in file:
        return (
            "weights in the format of Keras 3, whose names depend on the order of construction, "
            "and which are not read; save the model in Keras's legacy format, "
            "model.save('weights.h5'), or take the .h5 file of Keras applications"
        )
    return "HDF5, but not Keras's: no attribute layer_names; take the file of Keras applications"
