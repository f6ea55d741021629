"""Depths, magnitudes and dtypes at which a plain backward pass is lost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, models, nn
from convjax.gradflow._norm import measure, suspect
from convjax.gradflow._pack import Later, packed
from convjax.gradflow._tap import TOKEN, Signal, cut, restore
from tests.nn.conftest import quick_compilation as quick_compilation

quickly = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.every(2)
@quickly
@pytest.mark.parametrize("shortcut", ["none", "identity"])
def test_depth_ten_thousand_is_finite_and_compiles_to_the_program_of_depth_one_hundred(shortcut):
    x = jax.random.normal(jax.random.key(1), (2, 6, 5, 8))

    def stack(depth):
        return models.deep_stack(depth, 8, shortcut=shortcut, rngs=nnx.Rngs(0))

    def program(depth):
        def run(net, x):
            return gradflow.profile(net, x, cotangent=jax.random.key(2), train=True)

        shapes = nnx.eval_shape(lambda: stack(depth))
        return len(jax.jit(run).lower(shapes, x).as_text().splitlines())

    assert program(10_000) == program(100)
    table = gradflow.profile(stack(10_000), x, cotangent=jax.random.key(2), train=True).table()
    assert len(table["path"]) == 2 + 5_000 * (6 if shortcut == "none" else 7)
    for name, column in table.items():
        if name.endswith("log_norm"):
            assert np.isfinite(column[~np.isnan(column)]).all(), name
    # He's plain stack is tamed by nothing but its padding; un-normalised residuals double.
    gradient = table["gradient_log_norm"][0]
    assert gradient < -300 if shortcut == "none" else gradient > 1000


@quickly
def test_a_zero_branch_is_zero_and_not_lost():
    net = models.deep_stack(8, 4, branch_scale=0.0, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 6, 5, 4))
    table = gradflow.profile(net, x, cotangent=jax.random.key(2), train=True).table()
    inside = np.array(["branch" in path for path in table["path"]])
    assert np.isneginf(table["gradient_log_norm"][inside]).all()
    trunk = table["gradient_log_norm"][[p.isdigit() for p in table["path"]]]
    np.testing.assert_allclose(trunk, trunk[0], rtol=1e-6)


@quickly
def test_a_branch_too_small_to_square_is_still_measured():
    shared = {"cotangent": jax.random.key(2), "train": True}
    x = jax.random.normal(jax.random.key(1), (2, 6, 5, 4))
    one = gradflow.profile(models.deep_stack(4, 4, rngs=nnx.Rngs(0)), x, **shared)
    tiny = models.deep_stack(4, 4, branch_scale=1e-25, rngs=nnx.Rngs(0))
    last = "1/branch/conv2"
    shift = (
        gradflow.profile(tiny, x, **shared)[last].gradient.log_norm - one[last].gradient.log_norm
    )
    np.testing.assert_allclose(shift, np.log(1e-25), rtol=1e-5)


@functools.cache
def _faded(dtype):
    options = {"shortcut": "none", "activation": "linear", "init": "lecun", "dtype": dtype}
    net = models.deep_stack(200, 8, rngs=nnx.Rngs(0), **options)
    x = jax.random.normal(jax.random.key(1), (2, 6, 5, 8)).astype(dtype)
    measured = gradflow.profile(net, x, cotangent=jax.random.key(2), train=False)
    return measured.table()["gradient_log_norm"]


@pytest.mark.every(2)
@quickly
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_reaches_depths_that_its_range_does_not(dtype):
    # The drawn cotangents differ with the dtype, so only the fall along the stack compares.
    half, single = _faded(dtype), _faded(jnp.float32)
    assert single[0] - single[-1] < -8
    np.testing.assert_allclose(half[0] - half[-1], single[0] - single[-1], atol=1.5)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-15, 1.0, 1e15, 1e30, 3e38])
@pytest.mark.parametrize("size", [1, 255, 256, 1000])
def test_a_careful_norm_is_right_at_every_magnitude(scale, size):
    x = np.random.default_rng(size).uniform(-1, 1, size).astype(np.float32) * np.float32(scale)
    exact = np.log(max(np.linalg.norm(x.astype(np.float64)), 1e-300))
    norm = jax.device_get(measure(jnp.asarray(x), jnp.zeros(()), careful=True))
    if scale >= 1e-37:  # below lie denormals, which XLA flushes to zero
        np.testing.assert_allclose(norm.log_norm, exact, rtol=1e-6, atol=2e-6)
    fast = jax.device_get(measure(jnp.asarray(x), jnp.zeros(()), careful=False))
    assert suspect([fast]) or abs(fast.log_norm - exact) < 2e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_norm_of_something_not_finite_is_not_finite(bad):
    x = jnp.asarray([1.0, bad, 2.0], jnp.float32)
    for careful in (True, False):
        norm = jax.device_get(measure(x, jnp.zeros(()), careful=careful))
        assert not np.isfinite(norm.log_norm) and norm.log_norm != -np.inf
    zero = jax.device_get(measure(jnp.zeros(3), jnp.zeros(()), careful=True))
    assert zero.log_norm == -np.inf


def test_a_cut_hands_back_the_cotangent_divided_by_a_power_of_two_and_nothing_else():
    g = jax.random.normal(jax.random.key(0), (3, 7), jnp.float32) * 1e-20
    _, pullback = jax.vjp(lambda s, t: cut(s, t, True), Signal(g, jnp.zeros(())), jnp.zeros(TOKEN))
    handed, token = pullback(Signal(g, jnp.asarray(-5.0)))
    power = int(handed.exponent) + 5
    np.testing.assert_array_equal(np.ldexp(np.asarray(handed.x), power), g)
    assert 0.5 < float(jnp.sqrt(jnp.mean(handed.x**2))) <= 2
    squares, divisor, exponent = np.asarray(token, np.float64)
    norm = divisor * np.sqrt(squares) * 2.0**exponent
    np.testing.assert_allclose(norm, np.linalg.norm(np.float64(g)) * 2.0**-5, rtol=1e-6)


def test_what_was_taken_out_is_put_back_exactly():
    x = jax.random.normal(jax.random.key(0), (5,), jnp.float32)
    for power in (-140.0, -3.0, 0.0, 90.0):
        np.testing.assert_array_equal(
            restore(Signal(x, jnp.asarray(power))).x,
            np.ldexp(x, int(power)) if power > -120 else 0 * x,
        )
    assert np.isinf(restore(Signal(x, jnp.asarray(9000.0))).x).all()


def test_the_whole_pass_without_rescaling_is_bit_for_bit_the_plain_one():
    net = nn.Chain(
        stack=models.deep_stack(6, 4, shortcut="none", init="lecun", rngs=nnx.Rngs(0)),
        head=nn.Dense(4, 2, rngs=nnx.Rngs(1)),
    )
    x = jax.random.normal(jax.random.key(1), (2, 6, 5, 4))
    cotangent = jax.random.normal(jax.random.key(2), (2, 6, 5, 2))
    measured = gradflow.profile(net, x, cotangent=cotangent, train=False)
    plain = jax.jit(lambda x: jax.vjp(lambda x: net(x), x)[1](cotangent)[0])(x)
    norm = np.linalg.norm(np.asarray(plain, np.float64))
    np.testing.assert_allclose(
        np.exp(jax.device_get(measured)["input"].gradient.log_norm), norm, rtol=1e-6
    )


@quickly
def test_what_is_summed_on_the_host_is_what_is_taken_carefully():
    net = models.resnet_cifar(14, width=4, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 10, 9, 3))

    def run(net, x):
        return gradflow.profile(net, x, cotangent=jax.random.key(2), train=True)

    plain, careful = run(net, x), jax.jit(run)(net, x)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(plain))
    ours, theirs = plain.table(), careful.table()
    assert ours["path"].tolist() == theirs["path"].tolist()
    for name, column in ours.items():
        if name.endswith("log_norm"):
            np.testing.assert_allclose(column, theirs[name], atol=1e-5, err_msg=name)


def test_sums_and_picks_are_done_where_a_packed_tree_is_unpacked():
    def few(a):
        sums = Later(a, 1)
        return packed({"all": a, "last": sums[-1], "sums": sums, "known": np.ones(2)})

    a = np.arange(12.0, dtype=np.float32).reshape(3, 2, 2)
    found = jax.jit(few)(a)
    assert [array.shape for array in found.arrays] == [(12,)]
    tree = found.unpacked()
    np.testing.assert_array_equal(tree["all"], a)
    np.testing.assert_array_equal(tree["sums"], a.sum((1, 2)))
    assert tree["last"] == a[2].sum() and tree["known"].tolist() == [1, 1]
