"""Initial values: the draws of jax.random, whatever the shape, compiled for few of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax.nn import _draw, initializers

SHAPES = [(3, 3, 5, 7), (1, 1, 40, 65), (7,), (2, 600), (0, 3)]


def plain(distribution, key, shape, dtype):
    if distribution == "normal":
        return jax.random.normal(key, shape, dtype)
    return jax.random.uniform(key, shape, dtype, -1, 1) * np.sqrt(3).astype(dtype)


@pytest.mark.every(2)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_the_entries_are_those_of_jax(shape, distribution):
    key = jax.random.key(3)
    drawn = _draw.draw(distribution, key, shape, jnp.float32, 1.0)
    expected = plain(distribution, key, shape, jnp.float32)
    assert drawn.shape == shape
    np.testing.assert_allclose(drawn, expected, rtol=1e-6)


def test_a_compilation_draws_the_same():
    key, shape = jax.random.key(1), (3, 2, 9, 11)
    init = initializers.he_normal()
    inside = jax.jit(lambda key: init(key, shape))(key)
    # The deviation is a constant there, and folded into another: one more rounding, or one less.
    np.testing.assert_allclose(init(key, shape), inside, rtol=5e-7)


def test_float64(x64):
    key = jax.random.key(2)
    drawn = _draw.draw("normal", key, (5, 3), jnp.float64, 0.5)
    np.testing.assert_allclose(drawn, 0.5 * jax.random.normal(key, (5, 3), jnp.float64), rtol=1e-15)


@pytest.mark.parametrize("key", [jax.random.key(5, impl="rbg"), jax.random.PRNGKey(5)], ids=str)
def test_other_keys(key):
    drawn = _draw.draw("normal", key, (6, 4), jnp.float32, 1.0)
    np.testing.assert_allclose(drawn, jax.random.normal(key, (6, 4)), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_blocks_join_to_the_entries_of_jax_bit_for_bit(distribution, dtype):
    key, count = jax.random.key(7), 2 * _draw.BLOCK + 5
    drawn = _draw._unit_in_blocks(distribution, key, count, jnp.dtype(dtype))
    whole = jax.jit(lambda key: _draw._unit(distribution, key, (4 * _draw.BLOCK,), dtype))(key)
    np.testing.assert_array_equal(drawn, np.asarray(whole)[:count])


def test_all_shapes_are_one_compilation():
    _draw._compiled.clear_cache()
    init = initializers.he_normal()
    for n in (1, 3, 20, 29, 61):
        init(jax.random.key(n), (3, 3, n, n))
    assert _draw._compiled._cache_size() == 1


def test_constants_of_any_size():
    for shape in ((3,), (50, 60)):
        np.testing.assert_array_equal(_draw.full(shape, 2.5, jnp.float32), np.full(shape, 2.5))
    assert _draw.full((3,), 1.0, jnp.bfloat16).dtype == jnp.bfloat16
    assert jax.jit(lambda: _draw.full((3,), 1.0, jnp.float32))().shape == (3,)
