"""The leaves with a kernel against Flax's, with the same parameters."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import nn, ops

pytestmark = pytest.mark.usefixtures("quick_compilation")

STREAMS = {"rngs": nnx.Rngs(0)}


def drawn(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_same(ours, theirs, x):
    """Give both the same random parameters, the bias among them, and compare."""
    for i, name in enumerate(("kernel", "bias")):
        own = getattr(ours, name)
        if own is None:
            assert getattr(theirs, name) is None
            continue
        value = drawn(*own.shape, seed=i)
        own[...] = value
        getattr(theirs, name)[...] = value
    expected = theirs(x)
    assert expected.size > 1
    np.testing.assert_allclose(ours(x), expected, rtol=1e-4, atol=1e-5)


CONVS = {
    "plain": ((2, 7, 5, 4), {}),
    "strides": ((2, 7, 5, 4), {"strides": (2, 3)}),
    "valid": ((2, 7, 5, 4), {"padding": "VALID", "use_bias": False}),
    "explicit padding": ((2, 7, 5, 4), {"padding": [(0, 2), (1, 0)], "strides": 2}),
    "circular": ((2, 7, 5, 4), {"padding": "CIRCULAR"}),
    "dilation": ((2, 9, 7, 4), {"kernel_dilation": (2, 3), "padding": "VALID"}),
    "groups": ((2, 7, 5, 4), {"feature_group_count": 2, "strides": (1, 2)}),
    "1-D": ((2, 9, 4), {"kernel_size": (3,), "padding": "CAUSAL"}),
    "3-D": ((2, 4, 3, 5, 4), {"kernel_size": (3, 1, 2), "strides": (1, 2, 2)}),
}


@pytest.mark.parametrize("case", sorted(CONVS))
def test_conv(case):
    shape, options = CONVS[case]
    options = {"kernel_size": (3, 2), **options}
    ours = nn.Conv(4, 6, **options, **STREAMS)
    assert_same(ours, nnx.Conv(4, 6, **options, **STREAMS), drawn(*shape))


@pytest.mark.parametrize("options", [{}, {"strides": 2, "padding": "VALID"}, {"use_bias": False}])
def test_depthwise_conv_is_a_conv_of_as_many_groups_as_channels(options):
    ours = nn.DepthwiseConv(4, (3, 2), channel_multiplier=2, **options, **STREAMS)
    theirs = nnx.Conv(4, 8, (3, 2), feature_group_count=4, **options, **STREAMS)
    assert_same(ours, theirs, drawn(2, 7, 5, 4))


@pytest.mark.parametrize("shape", [(2, 9, 4), (2, 7, 5, 4), (2, 3, 4, 5, 4)])
def test_pointwise_conv_is_a_conv_of_window_one(shape):
    rank = len(shape) - 2
    ours = nn.PointwiseConv(4, 6, strides=2, rank=rank, **STREAMS)
    theirs = nnx.Conv(4, 6, (1,) * rank, strides=2, padding="VALID", **STREAMS)
    assert_same(ours, theirs, drawn(*shape))


@pytest.mark.parametrize("strides", [1, 2, (3, 1)])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_conv_transpose(strides, padding):
    options = {"strides": strides, "padding": padding}
    ours = nn.ConvTranspose(4, 6, (3, 4), **options, **STREAMS)
    assert_same(ours, nnx.ConvTranspose(4, 6, (3, 4), **options, **STREAMS), drawn(2, 5, 3, 4))


def test_conv_transpose_takes_what_its_operation_takes():
    options = {
        "strides": (2, 3),
        "padding": ((1, 0), (0, 2)),
        "kernel_dilation": (2, 1),
        "feature_group_count": 2,
        "output_padding": (1, 2),
        "precision": "highest",
    }
    layer, x = (
        nn.ConvTranspose(4, 6, (3, 4), use_bias=False, **options, **STREAMS),
        drawn(2, 5, 3, 4),
    )
    assert layer.kernel.shape == (3, 4, 2, 6)
    taken = set(inspect.signature(ops.conv_transpose).parameters) - {"x", "kernel"}
    assert taken == set(options)
    np.testing.assert_array_equal(layer(x), ops.conv_transpose(x, layer.kernel[...], **options))


@pytest.mark.parametrize("use_bias", [True, False])
def test_dense(use_bias):
    ours = nn.Dense(4, 6, use_bias=use_bias, **STREAMS)
    assert_same(ours, nnx.Linear(4, 6, use_bias=use_bias, **STREAMS), drawn(2, 3, 4))


def test_separable_conv_is_the_product_of_its_two_kernels():
    unit = nn.separable_conv(4, 6, (3, 2), strides=2, padding=1, **STREAMS)
    deep, mix = unit["depthwise"].kernel[...], unit["pointwise"].kernel[...]
    assert unit["depthwise"].bias is None
    product = nnx.Conv(4, 6, (3, 2), strides=2, padding=((1, 1), (1, 1)), **STREAMS)
    product.kernel[...] = jnp.einsum("hwc,co->hwco", deep[:, :, 0], mix[0, 0])
    x = drawn(2, 7, 5, 4)
    np.testing.assert_allclose(unit(x), product(x), rtol=1e-4, atol=1e-5)


def test_a_standardised_kernel_has_no_mean_and_the_gain_for_norm():
    conv = nn.Conv(5, 3, (3, 2), standardize=True, gain=1.7, padding="VALID", **STREAMS)
    conv.kernel[...] = 3 + drawn(3, 2, 5, 3)
    plane = np.eye(30, dtype=np.float32).reshape(30, 3, 2, 5)  # each picks one entry of the kernel
    seen = np.asarray(conv(jnp.asarray(plane)), np.float64).reshape(30, 3)
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose((seen**2).sum(0), 1.7**2, rtol=1e-4)


def test_an_unscaled_standardised_kernel_has_the_variance_of_its_gain():
    form = {"standardize": True, "scaled": False, "gain": 0.7, "epsilon": 1e-3}
    conv = nn.Conv(
        5, 4, (3, 2), padding="VALID", use_bias=False, feature_group_count=1, **form, **STREAMS
    )
    kernel = 3 + drawn(3, 2, 5, 4)
    conv.kernel[...] = kernel
    x = drawn(2, 6, 5, 5, seed=3)
    wide = np.asarray(kernel, np.float64)
    away = wide - wide.mean((0, 1, 2))
    plain = nnx.Conv(5, 4, (3, 2), padding="VALID", use_bias=False, **STREAMS)
    plain.kernel[...] = jnp.asarray(
        0.7 * away / np.sqrt((away**2).mean((0, 1, 2)) + 1e-3), jnp.float32
    )
    np.testing.assert_allclose(conv(x), plain(x), rtol=1e-4, atol=1e-4)


def test_a_bias_is_drawn_by_its_own_initialiser_and_key():
    conv = nn.Conv(3, 5, 3, bias_init=jax.nn.initializers.normal(1.0), rngs=nnx.Rngs(0))
    assert len(set(conv.bias[...].tolist())) == 5
    without = nn.Conv(3, 5, 3, use_bias=False, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(conv.kernel[...], without.kernel[...])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: nn.Conv(3, 4, 3, feature_group_count=2, **STREAMS), "feature_group_count=2 must"),
        (lambda: nn.Conv(4, 3, 3, feature_group_count=2, **STREAMS), "and out_features=3"),
        (lambda: nn.Conv(0, 4, 3, **STREAMS), "in_features=0 must be at least 1"),
        (lambda: nn.Conv(3, 4, (3, 0), **STREAMS), r"kernel_size\[1\]=0 must be at least 1"),
        (lambda: nn.DepthwiseConv(3, 3, channel_multiplier=0, **STREAMS), "channel_multiplier=0"),
        (lambda: nn.PointwiseConv(3, 4, rank=0, **STREAMS), "rank=0 must be at least 1"),
        (lambda: nn.ConvTranspose(3, -1, 3, **STREAMS), "out_features=-1 must be at least 1"),
        (lambda: nn.Dense(3, 0, **STREAMS), "out_features=0 must be at least 1"),
        (lambda: nn.Conv(3, 4, 3, kernel_init="hee", **STREAMS), "did you mean 'he'"),
        (lambda: nn.Conv(3, 4, 3, **STREAMS)(drawn(2, 5, 4, 2)), "x has 2 channels"),
    ],
)
def test_bad_sizes_are_refused_by_name_and_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()
