"""The leaves of a pytree, from the device to the host's memory and back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


def leaves_of(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by their paths, written as Python would index them."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def copies(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return copies on the host; afterwards the buffers on the device may be donated."""
    data = {k: jax.random.key_data(leaf) if _is_key(leaf) else leaf for k, leaf in leaves.items()}
    for array in data.values():
        array.copy_to_host_async()
    # np.asarray would be a view of the buffer on CPU, and would keep it from being donated.
    return {name: np.array(array) for name, array in data.items()}


def placed(host: np.ndarray, like: Any) -> jax.Array:
    """Return an array with the bytes of ``host``, on the devices of ``like``."""
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(host), impl=jax.random.key_impl(like))
    sharding = getattr(like, "sharding", None)
    if sharding is not None and len(sharding.device_set) > 1:
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
    array = jnp.asarray(host)
    # Left uncommitted on the default device, as the arrays of a new run are.
    return array if sharding in (None, array.sharding) else jax.device_put(array, sharding)


def least(value: int) -> int:
    """Return the least of what the processes say."""
    if jax.process_count() == 1:
        return int(value)
    return int(np.min(multihost_utils.process_allgather(np.int32(value))))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
