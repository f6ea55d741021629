"""Initial values, without a compilation for every shape.

A network has dozens of shapes, and outside of a compilation JAX compiles random entries or a
constant anew for each: most of the time to make a large network. Threefry's bits depend on the key
and on the place of an entry alone, so entries of any shape are the entries of blocks one after the
other: one program, which is told where its block begins, serves all shapes, with the same values.
"""

import functools
import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike

BLOCK = 1 << 15  # entries of a block, a power of two
LEAST = 1024  # entries of a constant that a compilation is given as one


def draw(
    distribution: str, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, deviation: float
) -> jax.Array:
    """Return independent entries of mean 0, normal or uniform, of a standard deviation."""
    count = math.prod(shape)
    if isinstance(key, Tracer) or not _places_decide(key) or not count:
        return _entries(distribution, key, shape, dtype, deviation)
    # Scaled outside of the compilation, which would round differently from one to the next.
    entries = _unit_in_blocks(distribution, key, count, jnp.dtype(dtype))
    factor = np.asarray(_factor(distribution, deviation, entries.dtype))
    return _on_device((entries * factor).reshape(shape))


def full(shape: tuple[int, ...], value: float, dtype: DTypeLike) -> jax.Array:
    """Return an array of one value; a large one inside a compilation is made there."""
    if math.prod(shape) > LEAST:
        return jnp.full(shape, value, dtype)
    return _on_device(np.full(shape, value, jax.dtypes.canonicalize_dtype(dtype)))


def _on_device(values: np.ndarray) -> jax.Array:
    """Return JAX's array; ``jnp.asarray`` would be a compilation for every shape."""
    return jax.device_put(values)


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


def _unit_in_blocks(distribution: str, key: jax.Array, count: int, dtype: np.dtype) -> np.ndarray:
    """Return the first entries that a key gives, as an array on the host."""
    words = _words(key)
    # All blocks are begun before the first is waited for.
    blocks = []
    for start in range(0, count, BLOCK):
        place = np.array([*words, start >> 32, start & 0xFFFFFFFF], np.uint32)
        blocks.append(_compiled(distribution, place, dtype))
    if len(blocks) == 1:
        return np.asarray(blocks[0])[:count]
    return np.concatenate([np.asarray(block) for block in blocks])[:count]


def _words(key: jax.Array) -> np.ndarray:
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    return np.asarray(key)


def _block(distribution: str, place: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Return the entries of a block; ``place`` is a key's two words and the two of its start."""
    key = jax.random.wrap_key_data(place, impl=_FROM)
    return _unit(distribution, key, (BLOCK,), dtype)


_compiled = functools.partial(jax.jit, static_argnums=(0, 2))(_block)


def _bits_from(place: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    """Return threefry's bits at the places from a start on, as JAX has them for whole arrays."""
    high = jnp.full(shape, place[2])
    low = place[3] + jax.lax.iota(np.uint32, math.prod(shape)).reshape(shape)
    first, second = jax.extend.random.threefry2x32_p.bind(place[0], place[1], high, low)
    if bit_width == 64:
        return (first.astype(np.uint64) << np.uint64(32)) | second.astype(np.uint64)
    return (first ^ second).astype(f"uint{bit_width}")


def _no_more_keys(*_):
    raise NotImplementedError("a place in a stream of random bits makes no further keys")


# A stream of threefry's bits from a place on, which JAX's own laws then turn into numbers.
_FROM = jax.extend.random.define_prng_impl(
    key_shape=(4,),
    seed=_no_more_keys,
    split=_no_more_keys,
    random_bits=_bits_from,
    fold_in=_no_more_keys,
    name="threefry2x32_from",
    tag="convjax_from",
)


def _places_decide(key: jax.Array) -> bool:
    """Whether an entry depends on the key and on its place alone, and not on the array's size."""
    if key.ndim != (0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else 1):
        return False
    if not jax.config.jax_threefry_partitionable:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return str(jax.random.key_impl(key)) == "threefry2x32"
    return jax.config.jax_default_prng_impl == "threefry2x32"  # pyright: ignore
