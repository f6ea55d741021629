"""Keras's HDF5 files: the legacy format, in which its applications are published, and Keras 3's."""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from convjax.models._weights._hdf5 import LARGEST_RATIO, SMALL, Reader, follow, holds

# The weights of Keras 3's layers in their order, by the name that it gives their class.
_WEIGHTS = {
    "conv1d": "kernel bias",
    "conv2d": "kernel bias",
    "conv3d": "kernel bias",
    "dense": "kernel bias",
    "depthwise_conv2d": "depthwise_kernel bias",
    "separable_conv2d": "depthwise_kernel pointwise_kernel bias",
    "batch_normalization": "gamma beta moving_mean moving_variance",
    "layer_normalization": "gamma beta",
    "layer_scale": "gamma",
    "normalization": "mean variance count",
}
_LAYERS = ("layers", "_layer_checkpoint_dependencies")
_INSIDE = "model.weights.h5"


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .h5 file as ``"layer/weight"``.

    A layer that is itself a model gives the names of its own layers. In Keras 3's files weights
    have no names, but an order that is known for its layers, which are told by their class. A norm
    of three weights has no scale there, as in Keras's applications.

    Args:
      path: an HDF5 file, in the legacy format (layers in its order) or ``.weights.h5`` of Keras 3.

    Returns:
      Arrays by name.

    Raises:
      ImportError: h5py is not installed.
      ValueError: an HDF5 file of another kind, or of a Keras 3 that wrote no layers' names; two
        weights of one name, a link, a dataset whose values lie in another file, or one that
        declares more than the file holds.
    """
    import h5py

    with h5py.File(path, "r") as file:
        return _read(file, path.stat().st_size)


def read_archive(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a ``.keras`` file, as `read_keras` does.

    Its config.json alone is read beside them, for which norms have no scale or bias.

    Raises:
      ImportError: h5py is not installed.
      ValueError: an archive of another kind, or what `read_keras` refuses.
    """
    import h5py

    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if not {_INSIDE, "config.json"} <= set(sizes):
            raise ValueError(f"no archive of Keras 3: it holds no {_INSIDE} and config.json")
        if sum(sizes.values()) > max(LARGEST_RATIO * path.stat().st_size, SMALL):
            raise ValueError(f"it would unpack to far more than its {path.stat().st_size} bytes")
        config = json.loads(archive.read("config.json"))
        data = archive.read(_INSIDE)
    with h5py.File(io.BytesIO(data), "r") as file:
        return _read(file, len(data), _lacking(config))


def _read(
    file: Any, size: int, lacking: dict[str, list[str]] | None = None
) -> dict[str, np.ndarray]:
    root: Any = follow(file, "model_weights") if holds(file, "model_weights") else file
    layers, reader = _names(root, "layer_names"), Reader(size)
    if layers is None:
        if not any(holds(file, name) for name in _LAYERS):
            raise ValueError(
                "HDF5, but not Keras's: no attribute layer_names, and no layers; take the file of "
                "Keras applications"
            )
        _read_layers(file, reader, lacking)
        return reader.arrays
    extra = "top_level_model_weights"
    for layer in [*layers, *([extra] if holds(root, extra) else [])]:
        group = follow(root, layer)
        for weight in _names(group, "weight_names") or ():
            short = weight.rpartition("/")[2].partition(":")[0]
            reader.read(group, weight, f"{_owner(layer, weight)}/{short}")
    return reader.arrays


def _read_layers(group: Any, reader: Reader, lacking: dict[str, list[str]] | None) -> None:
    """Read the layers that stand in a group of Keras 3's, and the layers within them."""
    for within in (name for name in _LAYERS if holds(group, name)):
        for kind in (layers := follow(group, within)):
            layer = follow(layers, kind)
            values: Any = follow(layer, "vars") if holds(layer, "vars") else ()
            if count := len(values):
                if "name" not in values.attrs:
                    raise ValueError(
                        "weights of an early Keras 3, without the layers' names; save them with "
                        "Keras 3.7 or later, or in the legacy format, model.save('weights.h5')"
                    )
                name = str(values.attrs["name"])
                for i, weight in enumerate(_weights(kind, name, count, lacking)):
                    reader.read(values, str(i), f"{name}/{weight}")
            _read_layers(layer, reader, lacking)


def _weights(kind: str, name: str, count: int, lacking: dict[str, list[str]] | None) -> list[str]:
    """Return what the weights of a layer are called, as many as it has."""
    known = _WEIGHTS.get(re.sub(r"_\d+$", "", kind), "").split()
    if lacking is not None:
        known = [weight for weight in known if weight not in lacking.get(name, ())]
    elif "moving_mean" in known:
        known = known[max(len(known) - count, 0) :]
    return [*known, *map(str, range(len(known), count))][:count]


def _lacking(config: Any) -> dict[str, list[str]]:
    """Return what the norms of a model have not, by their names; of models within it too."""
    found: dict[str, list[str]] = {}
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            off = [w for w, on in (("gamma", "scale"), ("beta", "center")) if part.get(on) is False]
            if off and isinstance(part.get("name"), str):
                found[part["name"]] = off
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return found


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
