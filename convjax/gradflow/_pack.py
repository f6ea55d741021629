"""Many small results of a compiled program as few arrays: each array costs its own transfer."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Later:
    """Sums over all but the first axes of an array, and what is picked of them, on the host."""

    array: jax.Array
    axes: int
    picked: tuple[Any, ...] = ()

    def __getitem__(self, key: Any) -> "Later":
        return dataclasses.replace(self, picked=(*self.picked, key))


class Place(NamedTuple):
    """Where a leaf lies: in which array, from where to where, its shape and axes, what of it."""

    which: int
    start: int
    stop: int
    shape: tuple[int, ...]
    axes: int
    picked: tuple[Any, ...]

    def of(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Return the leaf."""
        found = arrays[self.which][self.start : self.stop].reshape(self.shape)
        if self.axes < len(self.shape):
            rest = tuple(range(self.axes, len(self.shape)))
            with np.errstate(over="ignore"):
                found = found.sum(axis=rest, dtype=np.float64).astype(found.dtype)
        for key in self.picked:
            found = found[key]
        return np.asarray(found)


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Where each leaf of a pytree lies: which array, from which entry to which, in which shape.

    What is known while JAX traces stands in the place itself.
    """

    structure: Any
    places: tuple[Any, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """The leaves of a pytree, one after the other: one array for each dtype."""

    arrays: tuple[Any, ...]
    layout: Layout = dataclasses.field(metadata={"static": True})

    def unpacked(self) -> Any:
        """Return the pytree, its leaves as views of NumPy arrays."""
        flat = jax.device_get(self.arrays)
        leaves = [
            place.of(flat) if isinstance(place, Place) else place for place in self.layout.places
        ]
        return jax.tree.unflatten(self.layout.structure, leaves)


def packed(tree: Any) -> Packed:
    """Pack a pytree of arrays, where JAX traces."""
    leaves, structure = jax.tree.flatten(tree)
    later = [Later(a, a.ndim) if isinstance(a, jax.Array) else a for a in leaves]
    arrays = {id(a.array): a.array for a in later if isinstance(a, Later)}
    dtypes = list(dict.fromkeys(array.dtype for array in arrays.values()))
    ends = [0] * len(dtypes)
    starts: dict[int, tuple[int, int, int, tuple[int, ...]]] = {}
    for key, array in arrays.items():
        which = dtypes.index(array.dtype)
        starts[key] = (which, ends[which], ends[which] + array.size, array.shape)
        ends[which] += array.size
    places = [
        Place(*starts[id(a.array)], a.axes, a.picked) if isinstance(a, Later) else np.asarray(a)
        for a in later
    ]
    joined = [_joined([a for a in arrays.values() if a.dtype == dtype]) for dtype in dtypes]
    return Packed(tuple(joined), Layout(structure, tuple(places)))


def _joined(leaves: Sequence[jax.Array]) -> jax.Array:
    flat = [jax.lax.reshape(leaf, (leaf.size,)) for leaf in leaves]
    return flat[0] if len(flat) == 1 else jax.lax.concatenate(flat, 0)
