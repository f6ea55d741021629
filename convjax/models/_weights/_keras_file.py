"""Keras's legacy HDF5 files, in which Keras applications publish their weights.

HDF5 can point elsewhere: a dataset's values may lie in any file of this machine, and a name may
stand for an object of another file. So every name is followed by hand, step by step, and what is
not stored in the file itself is refused before it is opened.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

# A file that unpacks to more than this many times its size, beyond the bytes of a small network,
# is taken for a bomb: weights hardly shrink.
LARGEST_RATIO = 64
LARGEST_DEFLATED = 1032  # of any one dataset: what the format allows
SMALL = 2**26


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a legacy .h5 file as ``"layer/weight"``, layers in the file's order.

    A layer that is itself a model gives the names of its own layers.

    Args:
      path: an HDF5 file.

    Returns:
      Arrays by name.

    Raises:
      ImportError: h5py is not installed.
      ValueError: an HDF5 file of another kind, two weights of one name, a link, a dataset whose
        values lie in another file, or one that declares more than the file holds.
    """
    import h5py

    arrays = {}
    with h5py.File(path, "r") as file:
        root: Any = _follow(file, "model_weights") if _holds(file, "model_weights") else file
        layers = _names(root, "layer_names")
        if layers is None:
            raise ValueError(_other_kind(file))
        size = path.stat().st_size
        left = max(LARGEST_RATIO * size, SMALL)
        extra = "top_level_model_weights"
        for layer in [*layers, *([extra] if _holds(root, extra) else [])]:
            group = _follow(root, layer)
            for weight in _names(group, "weight_names") or ():
                name = f"{_owner(layer, weight)}/{weight.rpartition('/')[2].partition(':')[0]}"
                if name in arrays:
                    raise ValueError(f"two of its weights are named {name!r}")
                dataset = _follow(group, weight)
                left -= _checked_size(dataset, name, size)
                if left < 0:
                    raise ValueError(f"it would unpack to far more than its {size} bytes")
                arrays[name] = np.asarray(dataset)
    return arrays


def _holds(group: Any, name: str) -> bool:
    """Say whether a group has a name, whatever it stands for: links are not followed."""
    return group.id.links.exists(name.encode())


def _follow(group: Any, name: str) -> Any:
    """Return what a name with slashes stands for, each part of it stored in the file itself."""
    import h5py

    found = group
    for part in name.split("/"):
        if not (isinstance(found, h5py.Group) and part not in ("", ".") and _holds(found, part)):
            raise ValueError(f"it is truncated or damaged: it names {name!r} and does not hold it")
        link = type(found.get(part, getlink=True)).__name__
        if link != "HardLink":
            raise ValueError(f"{name!r} is a link ({link}), which may point anywhere: not followed")
        found = found[part]
    return found


def _checked_size(dataset: Any, name: str, size: int) -> int:
    """Return the bytes that it takes to read a dataset; refuse what is not in the file."""
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise ValueError(f"{name!r} holds no array")
    if dataset.external or dataset.is_virtual:
        kind = "a virtual dataset" if dataset.is_virtual else "external storage"
        raise ValueError(f"{name!r} is {kind}: its values would be read from other files")
    if dataset.dtype.kind in "OSUV":
        raise ValueError(f"{name!r} has dtype {dataset.dtype}, which is no number")
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = min(dataset.id.get_storage_size(), size)
    packed = dataset.id.get_create_plist().get_nfilters() > 0
    if declared > (LARGEST_DEFLATED * stored if packed else stored):
        raise ValueError(
            f"{name!r} declares the shape {dataset.shape}, {declared} bytes, and {stored} are "
            "stored"
        )
    # A chunk is unpacked whole, however little of it is asked for.
    chunk = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
    return max(declared, chunk)


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
    if _holds(file, "layers") or _holds(file, "_layer_checkpoint_dependencies"):
        return (
            "weights in the format of Keras 3, whose names depend on the order of construction, "
            "and which are not read; save the model in Keras's legacy format, "
            "model.save('weights.h5'), or take the .h5 file of Keras applications"
        )
    return "HDF5, but not Keras's: no attribute layer_names; take the file of Keras applications"
