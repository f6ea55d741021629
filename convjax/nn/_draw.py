"""Initial values, without a compilation for every shape.

A network has dozens of shapes, and outside of a compilation JAX compiles a draw or a constant anew
for each: most of the time to make a large network. Threefry's bits depend on the key and on the
place of an entry alone, so the first entries of a longer draw are the shorter draw: one program for
each power of two serves all shapes, with the same values.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike

LEAST = 1024  # entries of the smallest program


def draw(
    distribution: str, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, deviation: float
) -> jax.Array:
    """Return independent entries of mean 0, normal or uniform, of a standard deviation."""
    count = math.prod(shape)
    if isinstance(key, Tracer) or not _prefixes_agree(key) or not count:
        return _entries(distribution, key, shape, dtype, deviation)
    longer = max(LEAST, 1 << (count - 1).bit_length())
    # Scaled outside of the compilation, which would round differently from one to the next.
    entries = np.asarray(_compiled(distribution, key, (longer,), jnp.dtype(dtype)))
    factor = np.asarray(_factor(distribution, deviation, entries.dtype))
    return jnp.asarray((entries[:count] * factor).reshape(shape))


def full(shape: tuple[int, ...], value: float, dtype: DTypeLike) -> jax.Array:
    """Return an array of one value; a large one inside a compilation is made there."""
    if math.prod(shape) > LEAST:
        return jnp.full(shape, value, dtype)
    return jnp.asarray(np.full(shape, value, jax.dtypes.canonicalize_dtype(dtype)))


def _entries(
    distribution: str, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, deviation: float
) -> jax.Array:
    unit = _unit(distribution, key, shape, dtype)
    return unit * _factor(distribution, deviation, dtype)


def _factor(distribution: str, deviation: float, dtype: DTypeLike) -> jax.Array:
    factor = jnp.asarray(deviation, dtype)
    return factor if distribution == "normal" else factor * math.sqrt(3.0)


def _unit(distribution: str, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    if distribution == "normal":
        return jax.random.normal(key, shape, dtype)
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)


_compiled = functools.partial(jax.jit, static_argnums=(0, 2, 3))(_unit)


def _prefixes_agree(key: jax.Array) -> bool:
    """Whether the first entries of a long draw are those of a short one."""
    if not jax.config.jax_threefry_partitionable:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return str(jax.random.key_impl(key)) == "threefry2x32"
    return jax.config.jax_default_prng_impl == "threefry2x32"  # pyright: ignore
