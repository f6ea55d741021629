"""correlation and line against per-input gradients in NumPy, and against theory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, models, nn
from convjax.gradflow import oracles
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = (3, 4, 5, 4)


def _net(norm="none"):
    shared = {"param_dtype": jnp.float64, "rngs": nnx.Rngs(3)}
    return nn.Chain(
        stack=models.deep_stack(2, 4, activation="tanh", norm=norm, **shared),
        pool=nn.GlobalPool("avg"),
        head=nn.Dense(4, 3, **shared),
    )


def _gradients(net, x, v):
    """Return every example's gradient of <v, net(x_i)>, one ``jax.grad`` each, as rows."""
    of = jax.jit(jax.grad(lambda one: jnp.vdot(v, net(one[None])[0])))
    return np.stack([np.ravel(np.asarray(of(one), np.float64)) for one in x])


def _expected(rows):
    """Return the correlation from rows (samples, N, size), pair by pair."""
    n = rows.shape[1]
    result = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            product = sum(g[i] @ g[j] for g in rows)
            result[i, j] = product / np.sqrt(sum(g[i] @ g[i] for g in rows))
            result[i, j] /= np.sqrt(sum(g[j] @ g[j] for g in rows))
    return result


@pytest.mark.usefixtures("x64")
def test_equals_the_gradients_of_one_input_after_the_other():
    net = _net("batch")
    x = jax.random.normal(jax.random.key(1), IMAGE, jnp.float64)
    found = gradflow.correlation(net, x, cotangent=jax.random.key(2), samples=2, train=False)
    rows = np.stack([_gradients(net, x, v) for v in jax.random.normal(jax.random.key(2), (2, 3))])
    np.testing.assert_allclose(found.matrix, _expected(rows), rtol=1e-9)
    norms = np.linalg.norm(rows, axis=-1)
    np.testing.assert_allclose(found.norms.norm, norms, rtol=1e-9)
    units = rows / norms[..., None]
    np.testing.assert_allclose(found.cosines, units @ units.swapaxes(1, 2), rtol=1e-9)
    different = _expected(rows)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(found.mean, different.mean(), rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_batch_statistics_make_it_the_gradient_of_all_outputs_together():
    net = _net("batch")
    graphdef, state = nnx.split(net)
    x = jax.random.normal(jax.random.key(1), IMAGE, jnp.float64)
    v = jnp.array([0.3, -1.2, 0.7], jnp.float64)

    def whole(x):
        return jnp.sum(nnx.merge(graphdef, state, copy=True)(x, train=True) @ v)

    rows = np.asarray(jax.jit(jax.grad(whole))(x)).reshape(1, IMAGE[0], -1)
    found = gradflow.correlation(net, x, cotangent=v, train=True)
    np.testing.assert_allclose(found.matrix, _expected(rows), rtol=1e-9)
    jax.tree.map(np.testing.assert_array_equal, state, nnx.state(net))


@pytest.mark.every(2)
@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_two_orthogonal_inputs_shatter_as_theory_says(kind):
    depth, width, nets = 6, 256, 24
    u, v = np.random.default_rng(0).normal(size=(2, width))
    v -= u * (u @ v) / (u @ u)
    x = np.stack([u, v * np.linalg.norm(u) / np.linalg.norm(v)]).reshape(2, 1, 1, width)
    # The plain layer's activation comes last: the inputs meet a convolution first.
    options = {"shortcut": "none", "order": "post"} if kind == "plain" else {}

    def one(key):
        net = models.deep_stack(
            depth, width, kernel_size=(1, 1), convs_per_unit=1, rngs=nnx.Rngs(key), **options
        )
        v = jax.random.fold_in(key, 1)
        return gradflow.correlation(net, jnp.float32(x), cotangent=v, samples=8, train=False)

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), nets)).check()
    assert found.mean.shape == (nets,)
    error = found.mean.std(ddof=1) / nets**0.5
    expected = {k: oracles.gradient_correlation(depth, k) for k in ("plain", "centred", "residual")}
    assert error < 0.02
    # At this width the mean itself lies some 0.006 above that of wide networks, a term in 1/width.
    assert abs(found.mean.mean() - expected[kind]) < 3 * error
    for other in set(expected) - {kind}:
        assert abs(found.mean.mean() - expected[other]) > 3 * error


def test_a_linear_network_has_one_gradient_even_where_float32_has_none():
    dense = nn.Dense(4, 3, rngs=nnx.Rngs(0))
    net = nn.Chain(first=nn.Scale(1e-30), dense=dense, last=nn.Scale(1e-30))
    x, v = jax.random.normal(jax.random.key(1), (2, 4)), jnp.asarray([0.5, -1.0, 2.0])
    plain = jax.jit(lambda x: jax.vjp(lambda x: net(x), x)[1](jnp.stack([v, v]))[0])(x)
    assert not plain.any()
    found = gradflow.correlation(net, x, cotangent=v, train=False)
    np.testing.assert_allclose(found.matrix, np.ones((2, 2)), rtol=1e-5)
    norm = np.linalg.norm(np.asarray(dense.kernel[...], np.float64) @ v)
    np.testing.assert_allclose(
        found.norms.log_norm, np.full((1, 2), np.log(norm) - 60 * np.log(10)), rtol=1e-6
    )


def test_half_precision_is_compared_in_float32():
    dtype = jnp.float16
    net = nn.Chain(act=nn.Activation("tanh"), dense=nn.Dense(4, 2, dtype=dtype, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(1), (3, 4))
    exact = gradflow.correlation(net, x, cotangent=jnp.ones(2), train=False)
    found = gradflow.correlation(net, x.astype(dtype), cotangent=jnp.ones(2), train=False)
    assert found.cosines.dtype == jnp.float32
    np.testing.assert_allclose(found.matrix, exact.matrix, atol=0.03)


def test_a_gradient_of_zero_has_no_direction():
    x = jnp.asarray([[1.0, 2.0], [-1.0, -2.0], [3.0, -1.0]])
    found = gradflow.correlation(nn.Activation("relu"), x, cotangent=jnp.ones(2), train=False)
    nan = np.nan
    expected = [[1, nan, 0.5**0.5], [nan, nan, nan], [0.5**0.5, nan, 1]]
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-6)
    np.testing.assert_allclose(found.cosines[0], expected, rtol=1e-6)
    assert np.isneginf(found.norms.log_norm[0, 1])


def test_bad_input_is_refused_where_it_enters():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)

    def measure(x=x, net=None, **options):
        net = net or nn.Activation("tanh")
        options = {"cotangent": jax.random.key(0), "train": False} | options
        return gradflow.correlation(net, x, **options)

    with pytest.raises(ValueError, match="samples=0 must be at least 1"):
        measure(samples=0)
    with pytest.raises(ValueError, match=re.escape("x has shape (1, 2); pairs need")):
        measure(x[:1])
    with pytest.raises(ValueError, match="samples=2 are drawn from a PRNG key, and cotangent"):
        measure(cotangent=jnp.ones(2), samples=2)
    message = "cotangent has shape (3, 2), the output of one example (2,)"
    with pytest.raises(ValueError, match=re.escape(message)):
        measure(cotangent=x)
    with pytest.raises(ValueError, match="the gradient at example 1 is NaN or infinite"):
        measure(jnp.abs(x).at[1, 0].set(0), nn.Activation(lambda x: jnp.sqrt(x)))
    # Their slopes are finite, and those at NaN even look perfect.
    for bad in (jnp.nan, jnp.inf):
        with pytest.raises(ValueError, match="the activation of unit 'input' is NaN or infinite"):
            measure(x.at[1, 0].set(bad), nn.Activation("relu"))
        with pytest.raises(ValueError, match="the activation of unit 'input' is NaN or infinite"):
            gradflow.line(
                nn.Activation("relu"), x[0], x[1] + bad, cotangent=jax.random.key(0), train=False
            )
    logs = nn.Chain(log=nn.Activation(lambda x: jnp.log(x)), act=nn.Activation("relu"))
    with pytest.raises(ValueError, match="the activation of unit 'log' is NaN or infinite"):
        measure(x, logs)
    inside = jax.jit(lambda x: measure(x, nn.Activation("relu")))(x.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="the gradient at example 0 is NaN"):
        inside.check()
    for ends, points, message in (
        (x[:2], 2, "points=2 must be at least 3"),
        ((x[0], x[1, :1]), 9, "start has shape (2,), end (1,); both must be one input"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            gradflow.line(
                nn.Identity(), *ends, points=points, cotangent=jax.random.key(0), train=False
            )


@pytest.mark.usefixtures("x64")
def test_the_autocorrelation_along_a_line_is_that_of_its_gradients():
    net = _net()
    start, end = np.random.default_rng(0).normal(size=(2, *IMAGE[1:]))
    points, v = 7, jnp.asarray([1.0, -2.0, 0.5])
    found = gradflow.line(net, start, end, points=points, cotangent=v, train=False)
    inputs = np.stack([start + i / (points - 1) * (end - start) for i in range(points)])
    rows = _gradients(net, jnp.asarray(inputs), v)
    rows -= rows.mean(axis=0)
    expected = [
        sum(rows[i] @ rows[i + lag] for i in range(points - lag)) / np.sum(rows**2)
        for lag in range(points)
    ]
    np.testing.assert_allclose(found.autocorrelation, expected, rtol=1e-8)
    apart = [np.linalg.norm(np.ravel(inputs[lag] - inputs[0])) for lag in range(points)]
    np.testing.assert_allclose(found.lags, apart, rtol=1e-12)


@pytest.mark.later
def test_along_a_line_batch_norm_shatters_plain_networks_more_than_residual_ones():
    start, end = np.random.default_rng(0).normal(size=(2, 1, 1, 48)).astype(np.float32)
    shared = {"norm": "batch", "kernel_size": (1, 1), "convs_per_unit": 1}

    def next_to_it(shortcut):
        def one(key):
            net = models.deep_stack(20, 48, shortcut=shortcut, rngs=nnx.Rngs(key), **shared)
            v = jax.random.fold_in(key, 1)
            return gradflow.line(net, start, end, points=96, cotangent=v, samples=4, train=True)

        found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 3))
        assert found.autocorrelation.shape == found.lags.shape == (3, 96)
        return found.autocorrelation[:, 1]

    plain, residual = next_to_it("none"), next_to_it("identity")
    assert abs(plain.mean()) < 0.15 and residual.mean() > 0.4
