"""Many small results of a compiled program as few arrays: each array costs its own transfer."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each leaf of a pytree lies: which array, from which entry, in which shape."""

    structure: Any
    places: tuple[tuple[int, int, tuple[int, ...]], ...]


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
            flat[which][start : start + math.prod(shape)].reshape(shape)
            for which, start, shape in self.layout.places
        ]
        return jax.tree.unflatten(self.layout.structure, leaves)


def packed(tree: Any) -> Packed:
    """Pack a pytree of arrays, where JAX traces."""
    leaves, structure = jax.tree.flatten(tree)
    dtypes = list(dict.fromkeys(leaf.dtype for leaf in leaves))
    ends, places = [0] * len(dtypes), []
    for leaf in leaves:
        which = dtypes.index(leaf.dtype)
        places.append((which, ends[which], leaf.shape))
        ends[which] += leaf.size
    arrays = [_joined([leaf for leaf in leaves if leaf.dtype == dtype]) for dtype in dtypes]
    return Packed(tuple(arrays), Layout(structure, tuple(places)))


def _joined(leaves: Sequence[jax.Array]) -> jax.Array:
    flat = [jax.lax.reshape(leaf, (leaf.size,)) for leaf in leaves]
    return flat[0] if len(flat) == 1 else jax.lax.concatenate(flat, 0)
