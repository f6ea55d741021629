"""The norms against NumPy and against Flax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import nn

pytestmark = pytest.mark.usefixtures("quick_compilation")


def drawn(*shape, seed=1):
    """Channels of different means and spreads, so that no statistic is that of another channel."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=shape) * np.arange(1, shape[-1] + 1) + np.arange(shape[-1])


def batch_norm(seed=0, **options):
    """A batch norm with random parameters and statistics."""
    norm = nn.BatchNorm(3, rngs=nnx.Rngs(seed), **options)
    generator = np.random.default_rng(seed)
    for variable in (norm.scale, norm.bias, norm.mean, norm.var):
        variable[...] = jnp.asarray(0.5 + generator.random(3), jnp.float32)
    return norm


def f32(x):
    return jnp.asarray(x, jnp.float32)


def test_batch_norm_by_its_formula_in_both_modes():
    norm, x = batch_norm(momentum=0.8, epsilon=0.1), drawn(4, 5, 2, 3)
    scale, bias, mean, var = (
        np.asarray(v[...], np.float64) for v in (norm.scale, norm.bias, norm.mean, norm.var)
    )
    expected = (x - mean) / np.sqrt(var + 0.1) * scale + bias
    np.testing.assert_allclose(norm(f32(x)), expected, rtol=1e-4, atol=1e-5)
    own_mean, own_var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = (x - own_mean) / np.sqrt(own_var + 0.1) * scale + bias
    np.testing.assert_allclose(norm(f32(x), train=True), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.8 * mean + 0.2 * own_mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.8 * var + 0.2 * own_var, rtol=1e-5)


def test_batch_norm_is_that_of_flax():
    ours = batch_norm(momentum=0.7, epsilon=1e-3)
    theirs = nnx.BatchNorm(3, momentum=0.7, epsilon=1e-3, use_fast_variance=False, rngs=nnx.Rngs(0))
    for name in ("scale", "bias", "mean", "var"):
        getattr(theirs, name)[...] = getattr(ours, name)[...]
    for seed in range(3):
        x = f32(drawn(4, 5, 2, 3, seed=seed))
        expected = theirs(x, use_running_average=False)
        np.testing.assert_allclose(ours(x, train=True), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.mean[...], theirs.mean[...], rtol=1e-5)
    np.testing.assert_allclose(ours.var[...], theirs.var[...], rtol=1e-5)
    expected = theirs(x, use_running_average=True)
    np.testing.assert_allclose(ours(x), expected, rtol=1e-4, atol=1e-4)


def test_running_statistics_carry_no_gradient():
    def moved(x):
        norm = nn.BatchNorm(3, rngs=nnx.Rngs(0))
        norm(x, train=True)
        return jnp.sum(norm.mean[...]) + jnp.sum(norm.var[...])

    assert not jax.grad(moved)(f32(drawn(4, 5, 3))).any()


def test_an_axis_name_gives_every_device_the_statistics_of_the_whole_batch():
    parts = drawn(6, 2, 5, 3)
    parts += np.arange(6).reshape(6, 1, 1, 1)  # means that differ, or their spread is not seen
    graphdef, state = nnx.split(batch_norm(axis_name="devices"))

    def run(x):
        norm = nnx.merge(graphdef, state, copy=True)
        y = norm(x, train=True)
        return y, norm.mean[...], norm.var[...]

    y, mean, var = jax.vmap(run, axis_name="devices")(f32(parts))
    whole = batch_norm()
    expected = whole(f32(parts.reshape(12, 5, 3)), train=True)
    np.testing.assert_allclose(y.reshape(12, 5, 3), expected, rtol=1e-4, atol=1e-4)
    for own, all_over in ((mean, whole.mean), (var, whole.var)):
        np.testing.assert_allclose(own, np.tile(all_over[...], (6, 1)), rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_by_its_formula(groups):
    norm, x = nn.GroupNorm(6, num_groups=groups, epsilon=0.1, rngs=nnx.Rngs(0)), drawn(4, 5, 2, 6)
    norm.scale[...], norm.bias[...] = f32(np.arange(1, 7)), f32(np.arange(6))
    grouped = x.reshape(4, 10, groups, 6 // groups)
    mean, var = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    expected = ((grouped - mean) / np.sqrt(var + 0.1)).reshape(x.shape)
    expected = expected * np.arange(1, 7) + np.arange(6)
    np.testing.assert_allclose(norm(f32(x)), expected, rtol=1e-4, atol=1e-5)


def test_layer_norm_by_its_formula():
    norm, x = nn.LayerNorm(6, epsilon=0.1, rngs=nnx.Rngs(0)), drawn(4, 5, 2, 6)
    norm.scale[...], norm.bias[...] = f32(np.arange(1, 7)), f32(np.arange(6))
    mean, var = (f(x, axis=-1, keepdims=True) for f in (np.mean, np.var))
    expected = (x - mean) / np.sqrt(var + 0.1) * np.arange(1, 7) + np.arange(6)
    np.testing.assert_allclose(norm(f32(x)), expected, rtol=1e-4, atol=1e-5)


def test_response_norm_by_its_formula():
    norm, x = nn.ResponseNorm(6, epsilon=0.1, rngs=nnx.Rngs(0)), drawn(4, 5, 2, 6)
    np.testing.assert_allclose(norm(f32(x)), x, rtol=1e-6)  # scale and bias are 0 at first
    norm.scale[...], norm.bias[...] = f32(np.arange(1, 7)), f32(np.arange(6))
    size = np.sqrt((x**2).sum(axis=(1, 2), keepdims=True))
    share = size / (size.mean(axis=-1, keepdims=True) + 0.1)
    expected = x + np.arange(1, 7) * x * share + np.arange(6)
    np.testing.assert_allclose(norm(f32(x)), expected, rtol=1e-4, atol=1e-5)
    silent = f32(x).at[..., 0].set(0)  # whose size has no derivative
    assert jnp.isfinite(jax.grad(lambda x: norm(x).sum())(silent)).all()


@pytest.mark.parametrize("name", ["batch", "group", "layer"])
def test_scale_and_bias_can_be_left_out_or_silenced(name):
    x = f32(drawn(4, 5, 2, 6))
    full = nn.norm(name, 6, rngs=nnx.Rngs(0))
    bare = nn.norm(name, 6, use_scale=False, use_bias=False, rngs=nnx.Rngs(0))
    assert not jax.tree.leaves(nnx.state(bare, nnx.Param))
    np.testing.assert_array_equal(bare(x, train=True), full(x, train=True))
    assert not nn.norm(name, 6, scale_init="zero", rngs=nnx.Rngs(0))(x, train=True).any()


def test_norm_finds_the_largest_group_count_that_divides():
    counts = {c: nn.norm("group", c, rngs=nnx.Rngs(0)).num_groups for c in (1, 7, 48, 64, 66)}
    assert counts == {1: 1, 7: 7, 48: 24, 64: 32, 66: 22}
    assert nn.norm("group", 6, num_groups=3, rngs=nnx.Rngs(0)).num_groups == 3
    assert isinstance(nn.norm("none", 6, rngs=nnx.Rngs(0)), nn.Identity)
    assert {"none", "batch", "group", "layer"} == set(nn.NORMS)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda rngs: nn.norm("bacth", 3, rngs=rngs), "name='bacth' .* did you mean 'batch'"),
        (lambda rngs: nn.BatchNorm(0, rngs=rngs), "num_features=0 must be at least 1"),
        (
            lambda rngs: nn.BatchNorm(3, momentum=1.1, rngs=rngs),
            "momentum=1.1 must be .* at most 1",
        ),
        (
            lambda rngs: nn.LayerNorm(3, epsilon=-1.0, rngs=rngs),
            "epsilon=-1.0 must be at least 0",
        ),
        (lambda rngs: nn.GroupNorm(6, num_groups=4, rngs=rngs), "num_groups=4 must divide num_fe"),
        (lambda rngs: nn.GroupNorm(6, num_groups=0, rngs=rngs), "num_groups=0 must be at least 1"),
        (
            lambda rngs: nn.BatchNorm(3, rngs=rngs)(jnp.zeros((2, 4))),
            "x has 4 channels, the norm 3",
        ),
        (
            lambda rngs: nn.ResponseNorm(3, rngs=rngs)(jnp.zeros((2, 4))),
            "x has 4 channels, the norm 3",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(nnx.Rngs(0))
