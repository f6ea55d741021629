"""export_weights: a network's arrays, or a tree like them, by the reference's names and layouts."""

from os import PathLike
from typing import Any

import numpy as np
from flax import nnx

from convjax.models._network import named
from convjax.models._weights._formats import write_safetensors
from convjax.models._weights._keys import key_of, to_reference
from convjax.models._weights._leaves import leaves, pick, values


def export_weights(net: nnx.Module, tree: Any = None) -> dict[str, np.ndarray]:
    """Return arrays as the network's reference names and lays them out.

    The inverse of ``models.load_weights``. ``tree`` may be anything of the shape of the
    network's state or a part of it: gradients, moments of an optimiser, differences of weights.

    Args:
      net: what ``models.create`` or a family's function returned.
      tree: a state of it; None means its own parameters and batch statistics.

    Returns:
      The reference's name of every array to the array, in torch's layouts (convolutions
      (out, in, height, width), dense (out, in)) or in Keras's.

    Raises:
      ValueError: a tree that is not of this network.

    Example:
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = models.create("mobilenetv2_035", rngs=nnx.Rngs(0))
      >>> gradients = nnx.state(net, nnx.Param)  # for want of better ones
      >>> models.export_weights(net, gradients)["conv_stem.weight"].shape
      (16, 3, 3, 3)
    """
    net = named(net, "export_weights")
    own = values(nnx.merge_state(*nnx.state(net, nnx.Param, nnx.BatchStat)))
    found = leaves(net, tree)
    given = own if tree is None else values(tree)
    arrays = {address: np.asarray(value) for address, value in given.items()}
    exported = {}
    for leaf in found:
        shape, right = arrays[leaf.address].shape, own[leaf.address].shape
        if shape != right:
            raise ValueError(f"tree holds {leaf.name!r} of the shape {shape}, and it is {right}")
        key = key_of(net, leaf)
        array = pick(arrays[leaf.address], leaf.index)
        exported[key.name] = to_reference(array, leaf, key, net.reference)
    return exported


def save(net: nnx.Module, file: str | PathLike[str]) -> None:
    """Write a network's weights as safetensors, by the names that timm gives them.

    The file appears whole or not at all. ``timm.create_model(net.name)`` loads it as it is.

    Args:
      net: what ``models.create`` or a family's function returned, following ``"torch"``.
      file: ends in ``.safetensors``.

    Raises:
      ValueError: another extension, a folder that is not there, a network that follows Keras.

    Example:
      >>> import tempfile
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = models.create("mobilenetv2_035", rngs=nnx.Rngs(0))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     models.save(net, f"{folder}/model.safetensors")
      ...     loaded = models.load_weights(net, f"{folder}/model.safetensors")
      >>> loaded.count
      262
    """
    net = named(net, "save")
    if net.reference != "torch":
        raise ValueError(
            f"net follows {net.reference}; a file for timm needs a network with reference='torch'"
        )
    write_safetensors(file, export_weights(net), {"format": "pt", "network": net.name})
