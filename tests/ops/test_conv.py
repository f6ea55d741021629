import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import ops
from tests.ops import oracle

NAMED = ["SAME", "SAME_LOWER", "VALID", "CIRCULAR", "REFLECT"]


def draw(*shape, seed=0):
    values = np.random.default_rng((seed, *shape)).normal(size=shape)
    return jnp.asarray(values, jnp.float64 if jax.config.jax_enable_x64 else jnp.float32)


def close(a, b, tolerance=2e-5):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dilation", [1, (2, 1)])
@pytest.mark.parametrize("strides", [1, (2, 3)])
@pytest.mark.parametrize("padding", [*NAMED, 1, (0, 2), [(1, 2), (0, 3)]], ids=str)
def test_conv_2d_is_the_sum_over_its_window(padding, strides, dilation, groups):
    x, kernel = draw(2, 7, 6, 4), draw(3, 2, 4 // groups, 6)
    options = {
        "padding": padding,
        "strides": strides,
        "kernel_dilation": dilation,
        "feature_group_count": groups,
    }
    close(ops.conv(x, kernel, **options), oracle.conv(x, kernel, **options))


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("strides", [1, 3])
@pytest.mark.parametrize("padding", [*NAMED, "CAUSAL", 2, [(1, 3)]], ids=str)
def test_conv_1d_is_the_sum_over_its_window(padding, strides, dilation):
    x, kernel = draw(2, 9, 3), draw(4, 3, 2)
    options = {"padding": padding, "strides": strides, "kernel_dilation": dilation}
    close(ops.conv(x, kernel, **options), oracle.conv(x, kernel, **options))


@pytest.mark.parametrize("padding", [*NAMED, 1, [(0, 1), (1, 0), (2, 1)]], ids=str)
def test_conv_3d_is_the_sum_over_its_window(padding):
    x, kernel = draw(1, 4, 5, 3, 2), draw(2, 3, 2, 1, 4)
    options = {
        "padding": padding,
        "strides": (1, 2, 1),
        "kernel_dilation": (2, 1, 1),
        "feature_group_count": 2,
    }
    close(ops.conv(x, kernel, **options), oracle.conv(x, kernel, **options))


@pytest.mark.parametrize("strides", [1, (3, 2)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR", 1], ids=str)
def test_conv_with_a_window_of_one(padding, strides):
    x, kernel = draw(2, 7, 6, 4), draw(1, 1, 4, 3)
    options = {"padding": padding, "strides": strides}
    close(ops.conv(x, kernel, **options), oracle.conv(x, kernel, **options))


@pytest.mark.parametrize("strides", [1, (2, 1)])
@pytest.mark.parametrize("padding", [*NAMED, 1], ids=str)
def test_depthwise_conv_keeps_channels_apart(padding, strides):
    x, kernel = draw(2, 7, 6, 3), draw(3, 2, 1, 6)
    options = {"padding": padding, "strides": strides, "kernel_dilation": (1, 2)}
    close(ops.depthwise_conv(x, kernel, **options), oracle.depthwise_conv(x, kernel, **options))


@pytest.mark.parametrize("shape", [(2, 7, 3), (2, 5, 6, 3), (1, 4, 3, 5, 3)], ids=str)
@pytest.mark.parametrize("strides", [1, 2])
def test_pointwise_conv_is_a_conv_with_a_window_of_one(shape, strides):
    x, kernel = draw(*shape), draw(*(1,) * (len(shape) - 2), 3, 4)
    close(ops.pointwise_conv(x, kernel, strides=strides), oracle.conv(x, kernel, strides=strides))


def test_separable_conv_is_a_conv_with_the_product_kernel():
    x, deep, mix = draw(2, 6, 5, 3), draw(3, 2, 1, 6), draw(1, 1, 6, 4)
    per_channel = deep.reshape(3, 2, 3, 2)  # window, C, M
    product = jnp.einsum("hwcm,cmo->hwco", per_channel, mix.reshape(3, 2, 4))
    options = {"strides": (2, 1), "padding": "SAME", "kernel_dilation": (1, 2)}
    close(ops.separable_conv(x, deep, mix, **options), oracle.conv(x, product, **options))


@pytest.mark.parametrize("padding", [*NAMED, 2, [(0, 1), (2, 1)]], ids=str)
def test_spatial_separable_conv_is_a_conv_with_the_product_kernel(padding):
    x, column, row = draw(2, 7, 6, 2), draw(3, 1, 2, 3), draw(1, 4, 3, 2)
    product = jnp.einsum("kcd,lde->klce", column[:, 0], row[0])
    options = {"padding": padding, "strides": (2, 1), "kernel_dilation": (2, 1)}
    close(ops.spatial_separable_conv(x, column, row, **options), oracle.conv(x, product, **options))


def test_spatial_separable_conv_in_one_and_three_dimensions_and_groups():
    x, kernel = draw(2, 9, 4), draw(3, 2, 4)
    close(
        ops.spatial_separable_conv(x, kernel, padding="CAUSAL", feature_group_count=2),
        oracle.conv(x, kernel, padding="CAUSAL", feature_group_count=2),
    )
    x = draw(1, 4, 5, 3, 1)
    a, b, c = draw(2, 1, 1, 1, 1), draw(1, 3, 1, 1, 1), draw(1, 1, 2, 1, 1)
    close(ops.spatial_separable_conv(x, a, b, c), oracle.conv(x, a * b * c))


@pytest.mark.parametrize("padding", [*NAMED, [(1, 2), (0, 3)]], ids=str)
def test_conv_and_its_derivative_are_adjoint(x64, padding):
    x, kernel = draw(2, 7, 6, 4), draw(3, 2, 2, 6)
    options = {
        "padding": padding,
        "strides": (2, 1),
        "kernel_dilation": (1, 2),
        "feature_group_count": 2,
    }
    y, pull = jax.vjp(lambda x, k: ops.conv(x, k, **options), x, kernel)
    g = draw(*y.shape, seed=1)
    to_x, to_kernel = pull(g)
    np.testing.assert_allclose(jnp.vdot(y, g), jnp.vdot(x, to_x), rtol=1e-12)
    np.testing.assert_allclose(jnp.vdot(y, g), jnp.vdot(kernel, to_kernel), rtol=1e-12)


@pytest.mark.parametrize("strides", [1, (2, 3)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR", "REFLECT", 1, [(1, 2), (0, 1)]])
@pytest.mark.parametrize("api", [flax.nnx, flax.linen], ids=["nnx", "linen"])
def test_conv_agrees_with_flax(api, padding, strides):
    x, kernel = draw(2, 7, 6, 4), draw(3, 4, 2, 6)
    options = {
        "padding": padding,
        "strides": strides,
        "kernel_dilation": (2, 1),
        "feature_group_count": 2,
    }
    if api is flax.nnx:
        layer = api.Conv(4, 6, (3, 4), use_bias=False, rngs=flax.nnx.Rngs(0), **options)
        layer.kernel[...] = kernel
        expected = layer(x)
    else:
        layer = api.Conv(6, (3, 4), use_bias=False, **options)
        expected = layer.apply({"params": {"kernel": kernel}}, x)
    close(ops.conv(x, kernel, **options), expected)


def test_causal_conv_agrees_with_flax():
    x, kernel = draw(2, 9, 3), draw(3, 3, 4)
    options = {"padding": "CAUSAL", "strides": 2, "kernel_dilation": 2}
    layer = flax.linen.Conv(4, (3,), use_bias=False, **options)
    close(ops.conv(x, kernel, **options), layer.apply({"params": {"kernel": kernel}}, x))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_long_sums_of_short_floats_are_rounded_once(dtype):
    x, kernel = (draw(1, 4, 3, 512) + 1).astype(dtype), (draw(3, 3, 512, 2) + 1).astype(dtype)
    wide = ops.conv(x.astype(jnp.float32), kernel.astype(jnp.float32))
    narrow = ops.conv(x, kernel).astype(jnp.float32)
    np.testing.assert_allclose(narrow, wide, rtol=float(jnp.finfo(dtype).eps))
    mix = kernel[:1, :1]
    wide = ops.pointwise_conv(x.astype(jnp.float32), mix.astype(jnp.float32))
    narrow = ops.pointwise_conv(x, mix).astype(jnp.float32)
    np.testing.assert_allclose(narrow, wide, rtol=float(jnp.finfo(dtype).eps))
