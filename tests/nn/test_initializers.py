"""Initialisers: variances by sampling, fans by counting, isometries through the convolution."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import nn, ops
from convjax.nn import initializers

pytestmark = pytest.mark.usefixtures("quick_compilation")

KERNELS = {
    "dense": ((3, 5, 4, 6), 1),
    "matrix": ((8, 5), 1),
    "grouped": ((3, 1, 4, 6), 2),
    "depthwise": ((3, 3, 1, 12), 6),
    "1-D": ((5, 3, 4), 1),
}
every_kernel = pytest.mark.parametrize("kernel", sorted(KERNELS))


def made(name, groups=1):
    return initializers.for_groups(initializers.get(name), groups)


def image(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("kernel", sorted(set(KERNELS) - {"matrix"}))
def test_fans_are_the_connections_counted(kernel):
    shape, groups = KERNELS[kernel]
    x = jnp.zeros((1, *(side + 2 for side in shape[:-2]), shape[-2] * groups))

    def convolve(x):
        return ops.conv(x, jnp.ones(shape), padding="CIRCULAR", feature_group_count=groups)

    joined = np.asarray(jax.jacobian(convolve)(x)).reshape(convolve(x).size, x.size)
    fan_in, fan_out = initializers.fans(shape, feature_group_count=groups)
    assert set(joined.sum(1)) == {fan_in}
    assert set(joined.sum(0)) == {fan_out}


@pytest.mark.every(2)
@every_kernel
@pytest.mark.parametrize("name", initializers.NAMES)
def test_empirical_variance_is_the_variance_told(name, kernel):
    shape, groups = KERNELS[kernel]
    init, draws = made(name, groups), 400
    kernels = jax.jit(jax.vmap(lambda key: init(key, shape)))(
        jax.random.split(jax.random.key(1), draws)
    )
    error = 5 * math.sqrt(2 / kernels.size)  # that of a Gaussian; uniform entries scatter less
    np.testing.assert_allclose(np.mean(np.square(kernels)), init.variance(shape), rtol=error)
    if name != "dirac":
        mean = abs(float(jnp.mean(kernels)))
        assert mean <= 5 * math.sqrt(init.variance(shape) / kernels.size)


def test_variances_are_those_of_the_papers():
    shape, fan_in, fan_out = (3, 3, 8, 16), 72, 144
    expected = {
        "he": 2 / fan_in,
        "he_uniform": 2 / fan_in,
        "lecun": 1 / fan_in,
        "lecun_uniform": 1 / fan_in,
        "glorot": 2 / (fan_in + fan_out),
        "glorot_uniform": 2 / (fan_in + fan_out),
        "torch": 1 / (3 * fan_in),
        "zero": 0,
    }
    for name, variance in expected.items():
        assert made(name).variance(shape) == pytest.approx(variance), name
    assert initializers.VarianceScaling(3.0, "fan_out").variance(shape) == 3 / fan_out


def test_uniform_entries_reach_sqrt_three_deviations_and_no_further():
    draw = np.asarray(made("he_uniform")(jax.random.key(0), (50, 400)))
    bound = math.sqrt(3 * 2 / 50)
    assert 0.999 * bound < draw.max() <= bound
    assert -0.999 * bound > draw.min() >= -bound


def test_jax_takes_a_depthwise_fan_out_for_a_dense_one():
    """Why the library has initialisers of its own: JAX's kernel variance is too small by C."""
    channels = 64
    shape, key = (3, 3, 1, channels), jax.random.key(0)
    theirs = jax.nn.initializers.variance_scaling(1.0, "fan_out", "normal")(key, shape)
    own = initializers.VarianceScaling(1.0, "fan_out", feature_group_count=channels)
    np.testing.assert_allclose(own.variance(shape), 1 / 9)
    np.testing.assert_allclose(np.var(own(key, shape)), 1 / 9, rtol=0.3)
    np.testing.assert_allclose(np.var(theirs) * channels, 1 / 9, rtol=0.3)


@pytest.mark.parametrize("name", ["he", "glorot", "lecun"])
def test_dense_kernels_agree_with_jax(name):
    kind = {"he": (2.0, "fan_in"), "glorot": (1.0, "fan_avg"), "lecun": (1.0, "fan_in")}[name]
    theirs = jax.nn.initializers.variance_scaling(*kind, "normal")
    kernel = made(name)(jax.random.key(3), (3, 2, 4, 6))
    np.testing.assert_allclose(kernel, theirs(jax.random.key(3), (3, 2, 4, 6)), rtol=1e-5)


@every_kernel
def test_orthogonal_columns_or_rows_are_orthonormal_in_every_group(kernel):
    shape, groups = KERNELS[kernel]
    matrix = np.asarray(initializers.Orthogonal(1.5, groups)(jax.random.key(0), shape), np.float64)
    for group in np.split(matrix.reshape(-1, shape[-1]), groups, axis=1):
        tall = group if group.shape[0] >= group.shape[1] else group.T
        np.testing.assert_allclose(tall.T @ tall, 1.5**2 * np.eye(tall.shape[1]), atol=1e-5)
    assert len(np.unique(np.abs(matrix).round(6))) > matrix.size // 2  # no group copies another


@pytest.mark.parametrize("channels, out, groups", [(4, 4, 1), (4, 6, 1), (6, 6, 2), (5, 10, 5)])
def test_delta_orthogonal_is_an_isometry_at_every_place(channels, out, groups):
    kernel = made("delta_orthogonal", groups)(jax.random.key(0), (3, 5, channels // groups, out))
    x = image(2, 7, 6, channels)
    y = ops.conv(x, kernel, feature_group_count=groups)

    def norms(z):
        return jnp.sum(jnp.square(z.reshape(2, 7, 6, groups, -1)), axis=-1)

    np.testing.assert_allclose(norms(y), norms(x), rtol=1e-4)


@pytest.mark.parametrize("channels, out, groups", [(4, 4, 1), (6, 6, 2), (5, 5, 5), (4, 8, 2)])
def test_dirac_is_the_identity_of_every_group(channels, out, groups):
    kernel = made("dirac", groups)(jax.random.key(0), (3, 5, channels // groups, out))
    x = image(2, 7, 6, channels)
    y = ops.conv(x, kernel, feature_group_count=groups).reshape(2, 7, 6, groups, out // groups)
    inner = channels // groups
    np.testing.assert_array_equal(y[..., :inner], x.reshape(2, 7, 6, groups, inner))
    assert not y[..., inner:].any()


@pytest.mark.parametrize("name", ["delta_orthogonal", "dirac"])
def test_a_window_without_centre_is_refused(name):
    with pytest.raises(ValueError, match=r"kernel window \(3, 2\) has an even side"):
        made(name)(jax.random.key(0), (3, 2, 4, 4))


@pytest.mark.parametrize("name", initializers.NAMES)
def test_every_initialiser_is_hashable_and_keeps_the_dtype(name, x64):
    one, other = made(name, 2), made(name, 2)
    assert one == other
    assert hash(one) == hash(other)
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64):
        kernel = one(jax.random.key(0), (3, 4, 6), dtype)
        assert kernel.dtype == dtype
        square = np.mean(np.square(np.asarray(kernel, np.float64)))
        if name in ("orthogonal", "delta_orthogonal", "dirac", "zero"):
            np.testing.assert_allclose(square, one.variance((3, 4, 6)), rtol=0.01)


def test_names_lead_to_initialisers_and_misspelt_ones_to_the_nearest():
    assert initializers.get("he") == initializers.he_normal()
    assert initializers.get(initializers.zeros()) is not None
    draw = jax.nn.initializers.he_normal()
    assert initializers.get(draw) is draw
    with pytest.raises(ValueError, match=r"init='ortogonal' .* did you mean 'orthogonal'"):
        initializers.get("ortogonal")
    with pytest.raises(ValueError, match=r"mode='fanin' .* did you mean 'fan_in'"):
        initializers.VarianceScaling(1.0, "fanin")
    with pytest.raises(ValueError, match=r"distribution='gauss' is not known; .*normal, uniform"):
        initializers.VarianceScaling(1.0, "fan_in", "gauss")
    with pytest.raises(ValueError, match=r"scale=-1.0 must be at least 0"):
        initializers.VarianceScaling(-1.0)
    with pytest.raises(ValueError, match=r"shape=\(3,\) has no fans"):
        initializers.fans((3,))


def test_leaves_take_initialisers_of_jax_and_tell_their_own_the_groups():
    rngs = nnx.Rngs(params=jax.random.key(4))
    key = nnx.Rngs(params=jax.random.key(4)).params()
    theirs = nn.Conv(4, 6, 3, kernel_init=jax.nn.initializers.he_normal(), rngs=rngs)
    expected = jax.nn.initializers.he_normal()(key, (3, 3, 4, 6))
    np.testing.assert_array_equal(theirs.kernel[...], expected)
    init = initializers.VarianceScaling(2.0, "fan_out")
    own = nn.DepthwiseConv(50, 5, kernel_init=init, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(np.var(own.kernel[...]), 2 / 25, rtol=0.2)
