"""What memory can hold: larger arrays are refused, before XLA ends the process over them."""

import functools
import math
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

# An array and the random numbers that it is made from.
COPIES = 2
_GIB = 2**30


def check_held(what: str, shape: tuple[int, ...], dtype: Any, made: jax.Array) -> None:
    """Refuse an array that memory cannot hold; ``made`` is of the computation that makes it.

    While JAX traces, under ``nnx.eval_shape`` say, nothing is made, and no array is too large that
    has fewer than 2^63 bytes.
    """
    if not jnp.issubdtype(dtype, jax.dtypes.prng_key):  # which says its size as it is
        dtype = jnp.dtype(dtype)
    needed = math.prod(shape) * dtype.itemsize
    outlined = isinstance(made, Tracer)
    most = 2**63 if outlined else memory() // COPIES
    if needed >= most:
        there = "fewer than 2^63 bytes" if outlined else f"at most {most / _GIB:.3g} GiB"
        hint = "" if outlined else "; nnx.eval_shape outlines a network without its values"
        raise ValueError(
            f"{what}: an array of the shape {shape} takes {needed / _GIB:.3g} GiB, and must take "
            f"{there} here{hint}"
        )


@functools.cache
def memory() -> int:
    """Return the bytes of the memory that arrays are made in, or a guess beyond all that is."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return 2**50
    # What a container may take, after which the kernel ends the process.
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(found, int(text)) if text.isdigit() else found
