"""spectrum against numpy's singular values of a Jacobian by finite differences, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, nn
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")


def _narrowing(rngs):
    shared = {"rngs": rngs, "param_dtype": jnp.float64}
    return nn.Chain(
        conv=nn.Conv(3, 4, (3,), strides=2, **shared),
        norm=nn.BatchNorm(4, **shared),
        tanh=nn.Activation("tanh"),
        dense=nn.Dense(4, 2, **shared),
    )


def _widening(rngs):
    shared = {"rngs": rngs, "param_dtype": jnp.float64}
    return nn.Chain(tanh=nn.Residual(nn.Activation("tanh")), dense=nn.Dense(3, 5, **shared))


def _normal(*shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)


def _jacobian(net, x, *, train, step=1e-5):
    """Central differences, one input at a time."""
    graphdef, state = nnx.split(net)

    @jax.jit
    def run(x):
        return nnx.merge(graphdef, state, copy=True)(x, train=train)

    columns = []
    for i in range(x.size):
        shift = np.zeros(x.size)
        shift[i] = step
        shift = shift.reshape(x.shape)
        difference = np.asarray(run(x + shift)) - np.asarray(run(x - shift))
        columns.append(difference.ravel() / (2 * step))
    return np.stack(columns, axis=1)


@pytest.mark.every(2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make, shape", [(_narrowing, (4, 5, 3)), (_widening, (2, 3, 2, 3))])
def test_every_method_agrees_with_finite_differences(make, shape):
    net = make(nnx.Rngs(0))
    x = _normal(*shape, dtype=np.float64)
    jacobian = _jacobian(net, np.asarray(x), train=True)
    exact = np.linalg.svd(jacobian, compute_uv=False)
    moments = np.mean(exact**2), np.var(exact**2) / np.mean(exact**2) ** 2

    dense = gradflow.spectrum(net, x, train=True)
    assert dense.method == "dense" and dense.complete and dense.shape == jacobian.shape
    np.testing.assert_allclose(dense.singular_values, exact, atol=1e-8 * exact[0])
    np.testing.assert_allclose((dense.mean_square, dense.relative_variance), moments, rtol=1e-7)
    assert dense.mean_square_error == dense.relative_variance_error == 0

    steps = len(exact) // 2 + 1
    part = gradflow.spectrum(net, x, train=True, method="lanczos", steps=steps)
    assert not part.complete and part.rank is None and np.isnan(part.mean_square)
    assert len(part.singular_values) == steps
    nearest = np.abs(part.singular_values[:, None] - exact).min(axis=1)
    assert (nearest <= part.errors + 1e-8 * exact[0]).all() and part.errors.max() > 1e-6
    assert 0.97 * exact[0] < part.largest <= exact[0] * (1 + 1e-8)
    assert part.smallest >= exact[-1] - 1e-8 * exact[0]

    probed = gradflow.spectrum(net, x, train=True, method="hutchinson", samples=200)
    assert len(probed.singular_values) == 0 and np.isnan(probed.largest)
    for measured, error, value in (
        (probed.mean_square, probed.mean_square_error, moments[0]),
        (probed.relative_variance, probed.relative_variance_error, moments[1]),
    ):
        assert 0 < error < 0.2 * value and abs(measured - value) < 4 * error


def test_batch_norm_has_no_singular_value_along_the_mean_and_the_running_one_does():
    net = nn.BatchNorm(3, epsilon=0.0, rngs=nnx.Rngs(0))
    x = _normal(5, 3)
    batch = gradflow.spectrum(net, x, train=True)
    # Per channel: the mean and the direction of the signal itself are lost.
    assert batch.rank == 3 * (5 - 2) and batch.condition == batch.isometry == np.inf
    scatter = np.asarray(x).std(axis=0)
    expected = np.sort(np.repeat(1 / scatter, 3))[::-1]
    np.testing.assert_allclose(batch.singular_values[:9], expected, rtol=1e-5)
    running = gradflow.spectrum(net, x, train=False)
    assert running.rank == 15 and running.isometry < 1e-6 and abs(running.condition - 1) < 1e-6


def test_equal_singular_values_are_all_found():
    options = {"kernel_init": "orthogonal", "use_bias": False, "rngs": nnx.Rngs(0)}
    net = nn.Chain(a=nn.Dense(9, 9, **options), relu=nn.Activation("relu"))
    x = _normal(2, 9)
    alive = int((np.asarray(net(x)) > 0).sum())
    for method in ("dense", "lanczos"):
        found = gradflow.spectrum(net, x, train=False, method=method)
        assert found.complete and found.rank == alive
        np.testing.assert_allclose(found.singular_values, np.arange(18) < alive, atol=1e-5)
    probed = gradflow.spectrum(net, x, train=False, method="hutchinson", samples=400)
    expected = 18 / alive - 1
    assert abs(probed.relative_variance - expected) < 4 * probed.relative_variance_error


def test_standard_errors_are_the_scatter_over_keys():
    net = nn.Chain(tanh=nn.Activation("tanh"), dense=nn.Dense(6, 7, rngs=nnx.Rngs(0)))
    x = _normal(4, 6)
    exact = gradflow.spectrum(net, x, train=False)
    probed = [
        gradflow.spectrum(net, x, train=False, method="hutchinson", samples=50, key=key)
        for key in list(jax.random.split(jax.random.key(2), 20))
    ]
    for moment in ("mean_square", "relative_variance"):
        values = np.array([getattr(one, moment) for one in probed])
        errors = np.array([getattr(one, f"{moment}_error") for one in probed])
        assert 0.6 < errors.mean() / values.std(ddof=1) < 1.6
        bias = values.mean() - getattr(exact, moment)
        assert abs(bias) < 4 * values.std(ddof=1) / np.sqrt(len(values))


@pytest.mark.parametrize(
    "draw, activation, per_layer",
    [
        ("normal", "relu", 2),
        ("orthogonal", "relu", 1),
        ("normal", "linear", 1),
        ("orthogonal", "linear", 0),
    ],
)
def test_relative_variance_at_initialization_is_that_of_theory(draw, activation, per_layer):
    depth, width = 3, 96
    random = np.random.default_rng(0)
    units = [nn.Dense(width, width, use_bias=False, rngs=nnx.Rngs(0)) for _ in range(depth)]
    net = nn.Chain([part for unit in units for part in (unit, nn.Activation(activation))])

    def found():
        for unit in units:
            kernel = random.normal(size=(width, width)) / np.sqrt(width)
            if draw == "orthogonal":
                kernel = np.linalg.qr(kernel)[0]
            gain = np.sqrt(2) if activation == "relu" else 1.0
            unit.kernel[...] = jnp.asarray(gain * kernel, jnp.float32)
        x = jnp.asarray(random.normal(size=(1, width)), jnp.float32)
        return gradflow.spectrum(net, x, train=False)

    every = [found() for _ in range(6)]
    mean = np.mean([one.mean_square for one in every])
    variance = np.mean([one.relative_variance for one in every])
    np.testing.assert_allclose(mean, 1, atol=0.1 if per_layer else 1e-5)
    np.testing.assert_allclose(variance, per_layer * depth, rtol=0.12, atol=1e-5)


def test_the_choice_goes_by_size():
    x = _normal(2, 12, 11, 5)
    found = gradflow.spectrum(nn.Activation("tanh"), x, train=False, samples=40)
    assert found.method == "lanczos, hutchinson" and len(found.singular_values) == 64
    slopes = np.sort(1 - np.tanh(np.asarray(x, np.float64)).ravel() ** 2)
    assert abs(found.largest - slopes[-1]) < 0.01 and found.smallest > slopes[0]
    # On a diagonal, signs scatter not at all.
    np.testing.assert_allclose(found.mean_square, np.mean(slopes**2), rtol=1e-5)
    assert found.mean_square_error < 1e-5
    expected = np.var(slopes**2) / np.mean(slopes**2) ** 2
    np.testing.assert_allclose(found.relative_variance, expected, rtol=1e-4)


@pytest.mark.parametrize("method", ["dense", "lanczos", "hutchinson"])
def test_squares_that_float32_cannot_hold_are_right(method):
    scale = nn.Scale(1.0, learnable=True)
    net = nn.Chain(dense=nn.Dense(6, 7, rngs=nnx.Rngs(0)), scale=scale)
    x = _normal(1, 6)

    def found(value):
        scale.value[...] = jnp.asarray(value)
        return gradflow.spectrum(net, x, train=False, method=method)

    plain, tiny = found(1.0), found(1e-25)
    np.testing.assert_allclose(tiny.singular_values, 1e-25 * plain.singular_values, rtol=1e-4)
    np.testing.assert_allclose(tiny.relative_variance, plain.relative_variance, rtol=1e-4)
    np.testing.assert_allclose(tiny.mean_square, 1e-50 * plain.mean_square, rtol=1e-4)
    with pytest.raises(ValueError, match="the Jacobian is zero: the network is constant"):
        found(0.0)
    with pytest.raises(ValueError, match="the activation of unit 'scale' is NaN or infinite"):
        found(np.nan)


def test_dropout_is_one_draw_and_nothing_moves():
    net = nn.Chain(norm=nn.BatchNorm(4, rngs=nnx.Rngs(0)), drop=nn.Dropout(0.5))
    x = _normal(8, 4)
    before = jax.tree.map(np.asarray, nnx.state(net))
    rngs = nnx.Rngs(dropout=3)
    kept = int((np.asarray(nnx.clone(net)(x, train=True, rngs=nnx.Rngs(dropout=3))) != 0).sum())
    dense = gradflow.spectrum(net, x, train=True, rngs=rngs)
    probed = gradflow.spectrum(net, x, train=True, rngs=rngs, method="hutchinson")
    assert 0 < dense.rank <= kept < 32
    assert abs(probed.mean_square - dense.mean_square) < 4 * probed.mean_square_error
    assert int(rngs.dropout.count[...]) == 0
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(net)))


def test_bad_input_is_refused():
    net, x = nn.Activation("tanh"), jnp.full((1, 3), 0.5)
    with pytest.raises(ValueError, match="method='lanzcos' is not known; did you mean 'lanczos'"):
        gradflow.spectrum(net, x, train=False, method="lanzcos")
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        gradflow.spectrum(net, x, train=False, steps=0)
    with pytest.raises(ValueError, match="samples=1 must be at least 2"):
        gradflow.spectrum(net, x, train=False, samples=1)
    with pytest.raises(ValueError, match="x has dtype int32; gradients need a floating one"):
        gradflow.spectrum(net, jnp.ones((1, 3), jnp.int32), train=False)
    with pytest.raises(ValueError, match=r"x has shape \(0, 3\); it must be"):
        gradflow.spectrum(net, jnp.ones((0, 3)), train=False)
    with pytest.raises(ValueError, match="the Jacobian is not finite"):
        gradflow.spectrum(nn.Activation(lambda x: jnp.sqrt(x)), 0 * x, train=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["dense", "lanczos", "hutchinson"])
def test_an_input_that_is_not_finite_has_no_perfect_spectrum(method, bad):
    with pytest.raises(ValueError, match="the activation of unit 'input' is NaN or infinite"):
        gradflow.spectrum(
            nn.Residual(nn.Activation("relu")), jnp.full((1, 3), bad), train=False, method=method
        )
