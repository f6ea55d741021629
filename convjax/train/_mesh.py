"""Devices: a mesh of one axis, over which the batch is spread and all else is the same."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from convjax import _check

AXIS = "data"


def mesh_of(devices: int | Sequence[Any] | Mesh | None) -> Mesh | None:
    """Return the mesh of some devices, None for a single one.

    Args:
      devices: how many, which, a mesh with one axis ``"data"``, or None for all that there are
        if there are several processes, and else for one.

    Raises:
      ValueError: more devices than there are, none, one twice; a mesh with other axes; devices of
        some processes and not of others.
    """
    chosen = _chosen(devices)
    if not chosen:
        raise ValueError(f"devices={_check.shown(devices)}: there must be at least one")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"devices: one is given twice: {', '.join(map(str, chosen))}")
    owners = {device.process_index for device in chosen}
    if left_out := set(range(jax.process_count())) - owners:
        raise ValueError(
            f"devices: process {min(left_out)} has none of the {len(chosen)}; each of the "
            f"{jax.process_count()} processes needs one, and None takes all that there are"
        )
    if chosen == [jax.devices()[0]] and not isinstance(devices, Mesh):
        return None
    # Made anew: of a mesh from elsewhere the axis may be of a type that shard_map refuses.
    return Mesh(np.array(chosen), (AXIS,))


def _chosen(devices: int | Sequence[Any] | Mesh | None) -> list[Any]:
    there = jax.devices()
    if isinstance(devices, Mesh):
        if devices.axis_names != (AXIS,):
            raise ValueError(
                f"devices: the mesh has the axes {devices.axis_names}; it must have one, {AXIS!r}"
            )
        return list(devices.devices)
    if devices is None:
        return there if jax.process_count() > 1 else there[:1]
    right = "how many devices, a sequence of them, a mesh, or None"
    if hasattr(devices, "__index__"):
        count = _check.integer("devices", devices)
        if not 1 <= count <= len(there):
            raise ValueError(f"devices={count} must lie between 1 and the {len(there)} there are")
        return there[:count]
    if isinstance(devices, str | bytes) or not isinstance(devices, Iterable):
        _check.wrong_type("devices", devices, right)
    return [
        _check.instance(f"devices[{i}]", one, jax.Device, "a device, as jax.devices() returns them")
        for i, one in enumerate(devices)
    ]


def check_divides(batch_size: int, mesh: Mesh | None) -> None:
    """Refuse a batch that the devices cannot share."""
    if mesh is not None and batch_size % mesh.size:
        raise ValueError(f"batch_size={batch_size} must be a multiple of the {mesh.size} devices")


def everywhere(tree: Any, mesh: Mesh | None) -> Any:
    """Return a tree of equal values on every device of the mesh."""
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, tree)
    return _placed(tree, NamedSharding(mesh, PartitionSpec()))


def spread(inputs: Any, mesh: Mesh | None, axis: int = 1) -> Any:
    """Return inputs with the batch spread over the mesh: their second axis, after the steps."""
    if mesh is None:
        return inputs
    return _placed(inputs, NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS)))


def here(tree: Any, mesh: Mesh | None) -> Any:
    """Return what is the same everywhere as this process's first device of the mesh holds it."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    def place(leaf: Any) -> jax.Array:
        if jax.numpy.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key):
            data = place(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(place, tree)
