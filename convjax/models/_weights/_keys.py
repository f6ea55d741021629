"""What a reference calls an array of ours, and how it lays it out."""

import functools
import re
from typing import NamedTuple

import numpy as np

from convjax import nn
from convjax.models._network import FIELD, Network
from convjax.models._weights._leaves import Leaf

_TORCH = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_KERAS = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
_AUTOMATIC = re.compile(r"((?:depthwise_|separable_)?conv2d|batch_normalization|dense)(?:_(\d+))?")


class Key(NamedTuple):
    """An array's name in the reference, and whether it holds a matrix as a 1x1 convolution.

    Attributes:
      name: in full.
      form: ``""``, ``"1x1"`` (a dense kernel as a convolution's), ``"linear"`` (a convolution's as
        a matrix, channel by channel),
        ``"grouped"`` (a depthwise kernel as a grouped convolution's, in Keras), or ``"spatial"``
        (one number for each feature, with two dimensions of 1 behind it).
    """

    name: str
    form: str = ""


def key_of(net: Network, leaf: Leaf, names: str = "") -> Key:
    """Return what the network's reference calls a leaf.

    A rule that names the array itself comes before one that names its module.

    Args:
      net: the network.
      leaf: one of its arrays.
      names: whose names, ``"torchvision"`` say; ``""`` for those of the network's reference.

    Raises:
      ValueError: the family has no rules for the network's reference, or none of them fits.
    """
    names = names or net.reference
    keys = net.family.keys[names]
    if keys is None:
        name = net.family.name
        raise ValueError(
            f"net={net.name}: the family {name!r} has no key rules for {names}; "
            f"give models.Family({name!r}, {names}=…) some"
        )
    full = _apply(keys.rules, leaf.name)
    if full is not None:
        name, _, form = full.partition("@")
        return Key(name, form)
    module = _apply(keys.rules, leaf.path)
    if module is None:
        raise ValueError(
            f"net={net.name}: no key rule of the family {net.family.name!r} for {names} "
            f"fits {leaf.name!r}"
        )
    name, _, form = module.partition("@")
    joint = "." if net.reference == "torch" else "/"
    return Key(f"{name}{joint}{_weight(net.reference, leaf)}", form)


def _weight(reference: str, leaf: Leaf) -> str:
    if reference == "torch":
        return _TORCH.get(leaf.weight, leaf.weight)
    if isinstance(leaf.module, nn.DepthwiseConv) and leaf.weight == "kernel":
        return "depthwise_kernel"
    normed = not hasattr(leaf.module, "kernel")
    return _KERAS.get(leaf.weight, leaf.weight) if normed else leaf.weight


@functools.lru_cache(2**15)
def _apply(rules: tuple[tuple[str, str], ...], path: str) -> str | None:
    """Return what the first rule that fits makes of a path."""
    for ours, theirs in rules:
        found = _pattern(ours).fullmatch(path)
        if found:
            numbers = {name: int(value) for name, value in found.groupdict().items()}
            return FIELD.sub(lambda field, n=numbers: str(n[field[1]] + int(field[2] or 0)), theirs)
    return None


@functools.cache
def _pattern(rule: str) -> re.Pattern[str]:
    parts = FIELD.split(rule)  # text, name, offset, text, …
    text = re.escape(parts[0])
    for name, _, after in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        text += rf"(?P<{name}>\d+){re.escape(after)}"
    return re.compile(text)


def to_reference(array: np.ndarray, leaf: Leaf, key: Key, reference: str) -> np.ndarray:
    """Lay an array of ours out as the reference does."""
    if leaf.weight != "kernel":
        return array[..., None, None] if key.form == "spatial" else array
    if reference == "keras":
        if isinstance(leaf.module, nn.DepthwiseConv) and key.form != "grouped":
            groups = leaf.module.origin.groups
            return array.reshape(*array.shape[:-2], groups, -1)
        return array[None, None] if key.form == "1x1" else array
    array = np.moveaxis(array, (-1, -2), (0, 1))
    if key.form == "linear":
        return array.reshape(len(array), -1)
    return array[..., None, None] if key.form == "1x1" else array


def from_reference(
    array: np.ndarray, leaf: Leaf, key: Key, reference: str, shape: tuple[int, ...]
) -> np.ndarray | None:
    """Lay the reference's array out as ours, or return None where it is of another shape."""
    layout = to_reference(np.empty(shape, np.bool_), leaf, key, reference)
    if array.shape != layout.shape:
        return None
    if leaf.weight == "kernel" and reference == "torch":
        array = array.reshape(array.shape[:2]) if key.form == "1x1" else array
        array = array.reshape(-1, shape[-2], *shape[:-2]) if key.form == "linear" else array
        array = np.moveaxis(array, (0, 1), (-1, -2))
    return array.reshape(shape)


def layout_of(leaf: Leaf, key: Key, reference: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that the reference gives an array of ours."""
    return to_reference(np.empty(shape, np.bool_), leaf, key, reference).shape


def renumbered(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give Keras's automatic layer names numbers from 0: ``conv2d_7``, …: ``conv2d:0``, ….

    Keras counts such layers over a whole process, so the numbers in a file depend on what was made
    before; their order does not.
    """
    found: dict[str, set[int]] = {}
    for key in arrays:
        if layer := _AUTOMATIC.fullmatch(key.partition("/")[0]):
            found.setdefault(layer[1], set()).add(int(layer[2] or 0))
    places = {
        (kind, number): place
        for kind, numbers in found.items()
        for place, number in enumerate(sorted(numbers))
    }

    def renamed(key: str) -> str:
        layer, _, weight = key.partition("/")
        automatic = _AUTOMATIC.fullmatch(layer)
        if automatic is None:
            return key
        return f"{automatic[1]}:{places[automatic[1], int(automatic[2] or 0)]}/{weight}"

    return {renamed(key): array for key, array in arrays.items()}
