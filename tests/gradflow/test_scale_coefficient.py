"""The gradient scale coefficient against dense Jacobians in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, nn
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")


def _normal(*shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)


def _coefficients(net, x):
    """Return every unit's coefficient from the dense Jacobian of the units behind it."""

    def run(x, units):
        for unit in units:
            x = nnx.clone(unit)(x, train=True)
        return x

    @jax.jit
    def parts(x):
        cuts = range(len(net) + 1)
        values = [run(x, list(net)[:i]) for i in cuts]
        return values, [jax.jacrev(partial(run, units=list(net)[i:]))(values[i]) for i in cuts]

    def norm(a):
        return np.linalg.norm(np.ravel(a))

    values, jacobians = parts(x)
    sizes = [norm(j) / np.sqrt(v.size) * norm(v) for v, j in zip(values, jacobians, strict=True)]
    return dict(zip(["input", *net.names], np.array(sizes) / norm(values[-1]), strict=True))


def _chain():
    shared = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64}
    return nn.Chain(
        conv=nn.Conv(2, 3, (3,), **shared),
        scale=nn.Scale(0.1),
        norm=nn.BatchNorm(3, epsilon=0.0, **shared),
        unit=nn.Residual(nn.Chain(tanh=nn.Activation("tanh"), dense=nn.Dense(3, 3, **shared))),
        pool=nn.GlobalPool(),
        head=nn.Dense(3, 1, **shared),
    )


@pytest.mark.usefixtures("x64")
def test_the_scale_coefficient_is_that_of_the_dense_jacobian():
    key = jax.random.key(3)
    # One output: every cotangent gives the whole Jacobian, and nothing scatters.
    x = _normal(1, 6, 2, dtype=np.float64)
    net = _chain()
    found = gradflow.gradient_scale_coefficient(net, x, train=True, key=key, samples=2)
    for path, expected in _coefficients(net, x).items():
        np.testing.assert_allclose(found[path], np.log(expected), atol=1e-9)
    assert np.abs(found.log_error).max() < 1e-9


@pytest.mark.usefixtures("x64")
def test_many_outputs_give_the_scale_coefficient_within_its_standard_error():
    x = _normal(3, 6, dtype=np.float64)
    dense = nn.Dense(6, 4, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    net = nn.Chain(tanh=nn.Activation("tanh"), dense=dense)
    found = gradflow.gradient_scale_coefficient(
        net, x, train=False, key=jax.random.key(3), samples=20
    )
    inside, kernel = np.tanh(x), np.asarray(dense.kernel[...])
    squares = {
        "input": np.sum((1 - inside**2)[:, :, None] ** 2 * kernel**2),
        "tanh": 3 * np.sum(kernel**2),
    }
    for path, signal in (("input", np.asarray(x)), ("tanh", inside)):
        norm = np.sqrt(squares[path] / signal.size)
        expected = norm * np.linalg.norm(signal) / np.linalg.norm(net(x))
        error = found.log_error[found.paths.index(path)]
        assert 1e-3 < error < 0.1 and abs(found[path] - np.log(expected)) < 4 * error
    assert found["dense"] == found[""] == 0


def test_the_scale_coefficient_is_blind_to_scale_and_one_for_a_map_that_only_scales():
    x, key = _normal(2, 6, 2), jax.random.key(3)
    shared = {"use_bias": False, "rngs": nnx.Rngs(0)}
    first, last = nn.Dense(2, 5, **shared), nn.Dense(5, 4, **shared)
    slope = nn.Activation("leaky_relu")

    def found(*scales):
        # Learnable, so that one program serves them all.
        down, up, out = (nn.Scale(s, learnable=True) for s in scales)
        net = nn.Chain(first=first, down=down, slope=slope, last=last, up=up, out=out)
        return gradflow.gradient_scale_coefficient(net, x, train=False, key=key, samples=4)

    plain, scaled = found(1.0, 1.0, 1.0), found(1e-4, 1e3, 1e-5)
    assert plain.paths == scaled.paths
    np.testing.assert_allclose(scaled.log_coefficient, plain.log_coefficient, atol=1e-5)
    np.testing.assert_allclose(scaled["last"], 0, atol=1e-6)
    np.testing.assert_allclose(scaled["down"], scaled["first"], atol=1e-6)
    assert plain["input"] != plain["first"]
    with pytest.raises(KeyError, match="'nowhere' was not measured; the paths are input, first"):
        plain["nowhere"]


def test_a_coefficient_that_means_nothing_is_refused():
    x, key = jnp.full((1, 3), 0.5), jax.random.key(0)
    with pytest.raises(ValueError, match="samples=1 must be at least 2"):
        gradflow.gradient_scale_coefficient(nn.Identity(), x, train=False, key=key, samples=1)
    with pytest.raises(ValueError, match="the output of net at x is zero"):
        gradflow.gradient_scale_coefficient(nn.Scale(0.0), x, train=False, key=key)
