"""Every array of a network by its path, however it is stored: repeats are taken apart."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from convjax import nn
from convjax._check import instance


class Leaf(NamedTuple):
    """One array of a network.

    Attributes:
      path: of the module that owns it, such as ``stage2/0/branch/conv1``.
      weight: its name there: ``kernel``, ``bias``, ``scale``, ``mean``, ``var``, ``value``.
      module: the owner.
      address: where it lies in the network's state.
      index: which units of the repeats around it, outermost first.
    """

    path: str
    weight: str
    module: nnx.Module
    address: tuple[Any, ...]
    index: tuple[int, ...]

    @property
    def name(self) -> str:
        """Path and weight."""
        return nn.join(self.path, self.weight)


def leaves(net: nnx.Module, tree: Any = None) -> list[Leaf]:
    """Return the leaves of a network, or those of them that ``tree``, a state of it, holds."""
    state = nnx.state(net, nnx.Param, nnx.BatchStat)
    flat = dict(nnx.to_flat_state(nnx.merge_state(*state)))
    if tree is not None:
        instance("tree", tree, nnx.State, "a state of the network, as nnx.state returns, or None")
    found = flat if tree is None else dict(nnx.to_flat_state(tree))
    if foreign := [address for address in found if address not in flat]:
        raise ValueError(
            f"tree holds {'/'.join(map(str, foreign[0]))!r}, which {type(net).__name__} has not; "
            "give a state of this network, or gradients with respect to one"
        )
    return [leaf for address in found for leaf in _at(net, address)]


def _at(net: nnx.Module, address: tuple[Any, ...]) -> Iterator[Leaf]:
    """Yield the leaf at an address, once for every unit of the repeats around it."""
    found = [("", net, ())]
    for key in address[:-1]:
        found = [step for path, module, index in found for step in _into(path, module, index, key)]
    for path, module, index in found:
        yield Leaf(path, str(address[-1]), module, address, index)


def _into(
    path: str, module: Any, index: tuple[int, ...], key: Any
) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    below = module[key] if isinstance(module, list | tuple | dict) else getattr(module, str(key))
    if isinstance(module, nn.Repeat):
        for i in range(module.n):
            yield nn.join(path, str(i)), below, (*index, i)
    else:
        yield nn.join(path, str(key)), below, index


def values(tree: Any) -> dict[tuple[Any, ...], Any]:
    """Return the arrays of a state by address, where ``Leaf.address`` and ``index`` find them."""
    return {
        address: leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
        for address, leaf in nnx.to_flat_state(tree)
    }


def pick(array: Any, index: tuple[int, ...]) -> np.ndarray:
    """Return one unit's slice of a stacked array."""
    return np.asarray(array)[index] if index else np.asarray(array)
