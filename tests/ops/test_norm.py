import functools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import ops
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.ops.test_conv import close, draw

pytestmark = pytest.mark.usefixtures("quick_compilation")


def affine(x, scale, bias):
    return np.asarray(x) * np.asarray(scale) + np.asarray(bias)


@pytest.mark.parametrize("shape", [(6, 3), (2, 7, 5, 3)], ids=str)
def test_batch_moments(shape):
    x = draw(*shape)
    mean, variance = ops.batch_moments(x)
    axes = tuple(range(len(shape) - 1))
    close(mean, np.mean(np.asarray(x, np.float64), axes))
    close(variance, np.var(np.asarray(x, np.float64), axes))


@pytest.mark.parametrize("shape", [(1 << 20, 2), (16, 256, 256, 2)], ids=str)
def test_batch_moments_are_accurate_over_a_million_elements_far_from_zero(shape):
    x = draw(*shape) + 1000
    mean, variance = ops.batch_moments(x)
    exact = np.asarray(x, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-5 if len(shape) == 2 else 1e-6)
    if len(shape) == 4:
        np.testing.assert_allclose(variance, exact.var(0), rtol=1e-5)


def test_moments_of_half_precision_are_single_and_of_double_double(x64):
    x = draw(4, 5, 3)
    assert {m.dtype for m in ops.batch_moments(x)} == {jnp.dtype("float64")}
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        assert {m.dtype for m in ops.batch_moments(x.astype(dtype))} == {jnp.dtype("float32")}
    large = jnp.full((64, 64, 1), 300.0, jnp.float16)  # its square is beyond float16
    mean, variance = ops.batch_moments(large)
    assert mean[0] == 300 and variance[0] == 0


def test_batch_norm_is_normalize_by_the_moments_with_every_derivative(x64):
    x, scale, bias = draw(3, 4, 5, 6) * 2 + 3, draw(6, seed=1), draw(6, seed=2)
    weights, along = draw(3, 4, 5, 6, seed=3), draw(3, 4, 5, 6, seed=4)

    def in_two(x, scale, bias):
        mean, variance = ops.batch_moments(x)
        return ops.normalize(x, mean, variance, scale, bias, epsilon=1e-3), mean, variance

    def derivatives(norm):
        def f(x, scale, bias):
            y, mean, variance = norm(x, scale, bias)
            return (y * weights + y**3).sum() + jnp.sin(mean).sum() + (variance**2).sum()

        gradient = jax.grad(f, (0, 1, 2))
        return jax.jvp(gradient, (x, scale, bias), (along, scale, bias))

    in_one = functools.partial(ops.batch_norm, epsilon=1e-3)
    jax.tree.map(lambda a, b: close(a, b, 1e-12), *map(derivatives, (in_one, in_two)))


def test_normalize():
    x, scale, bias = draw(2, 4, 5, 3), draw(3, seed=1), draw(3, seed=2)
    mean, variance = draw(3, seed=3), jnp.square(draw(3, seed=4))
    deviation = np.asarray(x) - np.asarray(mean)
    expected = affine(deviation / np.sqrt(np.asarray(variance) + 0.1), scale, bias)
    close(ops.normalize(x, mean, variance, scale, bias, epsilon=0.1), expected)
    per_example = jnp.mean(x, (1, 2), keepdims=True), jnp.var(x, (1, 2), keepdims=True)
    y = np.asarray(ops.normalize(x, *per_example, epsilon=0.0))
    np.testing.assert_allclose(y.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((1, 2)), 1, atol=1e-5)


def test_normalize_mixes_half_precision_images_with_single_precision_statistics():
    x = draw(4, 5, 3)
    mean, variance = ops.batch_moments(x)
    y = ops.normalize(x.astype(jnp.bfloat16), mean, variance, jnp.array([1.0, 2.0, 3.0]))
    assert y.dtype == jnp.bfloat16


@pytest.mark.every(2)
@pytest.mark.parametrize("shape", [(2, 6), (2, 5, 6), (2, 4, 5, 6), (2, 3, 2, 4, 6)], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_agrees_with_numpy_and_flax(shape, groups):
    x, scale, bias = draw(*shape) + 2, draw(6, seed=1), draw(6, seed=2)
    y = ops.group_norm(x, scale, bias, num_groups=groups, epsilon=1e-3)
    flat = np.asarray(x, np.float64).reshape(2, -1, groups, 6 // groups)
    mean, variance = flat.mean((1, 3), keepdims=True), flat.var((1, 3), keepdims=True)
    expected = affine(((flat - mean) / np.sqrt(variance + 1e-3)).reshape(shape), scale, bias)
    close(y, expected, 1e-4)
    layer = flax.linen.GroupNorm(groups, epsilon=1e-3, use_fast_variance=False)
    close(y, layer.apply({"params": {"scale": scale, "bias": bias}}, x), 1e-4)


@pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 4, 5, 6)], ids=str)
def test_layer_norm_agrees_with_numpy_and_flax(shape):
    x, scale, bias = draw(*shape) + 2, draw(6, seed=1), draw(6, seed=2)
    y = ops.layer_norm(x, scale, bias, epsilon=1e-3)
    exact = np.asarray(x, np.float64)
    deviation = exact - exact.mean(-1, keepdims=True)
    expected = affine(deviation / np.sqrt(exact.var(-1, keepdims=True) + 1e-3), scale, bias)
    close(y, expected, 1e-4)
    layer = flax.linen.LayerNorm(epsilon=1e-3, use_fast_variance=False)
    close(y, layer.apply({"params": {"scale": scale, "bias": bias}}, x), 1e-4)


@pytest.mark.parametrize("norm", [ops.layer_norm, functools.partial(ops.group_norm, num_groups=2)])
@pytest.mark.parametrize("shape", [(0, 3, 3, 4), (2, 0, 3, 4)])
def test_an_empty_batch_stays_empty(norm, shape):
    x, ones = jnp.zeros(shape), jnp.ones(4)
    y, pull = jax.vjp(norm, x, ones, ones)
    assert y.shape == shape
    assert [g.tolist() for g in pull(y)] == [x.tolist(), [0.0] * 4, [0.0] * 4]
