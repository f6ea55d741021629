"""Networks of every framework, accelerated: the same steps."""

import functools
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from convjax import ops
from tests.foreign import equinox_networks, haiku_networks, linen_networks, nnx_networks
from tests.foreign.arrays import cotangent_of, normal
from tests.nn.conftest import quick_compilation as quick_compilation
from tests.ops.test_accelerate import of_lax

pytestmark = pytest.mark.usefixtures("quick_compilation")


def assert_same(found, expected, tolerance=1e-10):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        large = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * large)


def check(apply, params, x):
    """Hold the gradient of a loss, accelerated inside and outside, against the plain one."""

    def loss(apply, params):
        output = apply(params, x)
        return jnp.sum(output * cotangent_of(output))

    plain = jax.value_and_grad(functools.partial(loss, apply))
    inside = ops.accelerate(jax.jit(plain))
    outside = jax.value_and_grad(functools.partial(loss, ops.accelerate(apply)))
    assert of_lax(plain, params) > 0
    assert of_lax(inside, params) == of_lax(outside, params) == 0
    expected = jax.jit(plain)(params)
    assert_same(inside(params), expected)
    return outside, expected


@pytest.mark.later
def test_linen(x64):
    module, variables, _ = linen_networks.made("resnet", True, jnp.float64)
    x = normal(linen_networks.SHAPE, dtype=jnp.float64)

    def apply(variables, x):
        return module.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    outside, expected = check(apply, variables, x)
    assert_same(jax.jit(outside)(variables), expected)


@pytest.mark.later
def test_equinox(x64):
    arrays, rest, state = equinox_networks.made(True, jnp.float64)
    x = normal(equinox_networks.SHAPE, dtype=jnp.float64)
    check(equinox_networks.applied(rest, state), arrays, x)


def test_haiku(x64):
    params, apply = haiku_networks.made(True, jnp.float64)
    check(apply, params, normal(haiku_networks.SHAPE, dtype=jnp.float64))


def test_a_module_of_equinox_and_filter_jit():
    conv = eqx.nn.Conv2d(3, 4, 3, key=jax.random.key(0))
    x = normal((3, 6, 5))
    for f in (conv, eqx.filter_jit(conv)):
        np.testing.assert_allclose(ops.accelerate(f)(x), conv(x), rtol=1e-5, atol=1e-5)
    step = ops.accelerate(eqx.filter_jit(lambda net, x: net(x).sum()))
    assert_same(step(conv, x), jnp.asarray(conv(x).sum()), 1e-5)


class Small(nnx.Module):
    def __init__(self, *, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(jax.nn.relu(self.norm(self.conv(x))))

    def twice(self, x, *, scale: float = 1.0):
        return scale * self(x) + self(x)


def step(net, optimiser, x, rate: float):
    def loss(net):
        return rate * jnp.mean(net(x) ** 2)

    value, gradients = nnx.value_and_grad(loss)(net)
    optimiser.update(net, gradients)
    return value


X = normal((2, 6, 5, 3))


def trained(f):
    net = Small(rngs=nnx.Rngs(0))
    optimiser = nnx.Optimizer(net, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)
    values = [f(net, optimiser, X, 2.0) for _ in range(2)]
    return values, nnx.to_pure_dict(nnx.state((net, optimiser)))


def test_modules_of_nnx_are_changed_as_by_the_function_itself():
    before = trained(nnx.jit(step))
    for f in (step, nnx.jit(step)):
        found = trained(ops.accelerate(f))
        keys = [jax.tree.map(lambda a: jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key), v)
                for v in (found, before)]  # fmt: skip
        assert keys[0] == keys[1]
        data = [
            jax.tree.map(
                lambda a: (
                    jax.random.key_data(a)
                    if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)
                    else a
                ),
                value,
            )
            for value in (found, before)
        ]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *data)
    assert int(found[1][0]["drop"]["rngs"]["count"]) == 2


def test_a_module_of_nnx_as_the_function_and_its_methods():
    found, expected = (Small(rngs=nnx.Rngs(0)) for _ in range(2))
    fast, twice = ops.accelerate(found), ops.accelerate(found.twice)
    assert inspect.signature(twice) == inspect.signature(expected.twice)
    np.testing.assert_allclose(fast(X), expected(X), rtol=1e-4, atol=1e-5)
    y = expected.twice(X, scale=2.0)
    np.testing.assert_allclose(twice(X, scale=2.0), y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.norm.mean[...], expected.norm.mean[...], rtol=1e-4, atol=1e-6)
    assert int(found.drop.rngs.count[...]) == 3


def test_objects_come_back_as_themselves_and_new_ones_new():
    net = Small(rngs=nnx.Rngs(0))

    def f(net, x):
        return net, {"new": Small(rngs=nnx.Rngs(1)), "y": net.conv(x), "inner": net.conv}

    back, rest = ops.accelerate(f)(net, X)
    assert back is net
    assert rest["new"].conv.kernel.shape == rest["inner"].kernel.shape == (3, 3, 3, 4)
    np.testing.assert_allclose(rest["y"], net.conv(X), rtol=1e-5, atol=1e-5)


def test_an_object_that_gets_other_parts_is_refused():
    def f(net, x):
        net.more = nnx.Param(x)

    with pytest.raises(ValueError, match="accelerate: f changes what its NNX objects consist of"):
        ops.accelerate(f)(Small(rngs=nnx.Rngs(0)), X)


@pytest.mark.later
@pytest.mark.parametrize("name", sorted(nnx_networks.NETWORKS.keys() - {"deep"}))
def test_nnx(name, x64):
    net, options = nnx_networks.made(name, True)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    widen = lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a  # noqa: E731
    params, rest = jax.tree.map(widen, (params, rest))
    x = normal(nnx_networks.NETWORKS[name].shape, dtype=jnp.float64)
    check(lambda p, x: nnx.merge(graphdef, p, rest, copy=True)(x, **options), params, x)


@pytest.mark.later
def test_keras_trains_as_it_did(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    if keras.config.backend() != "jax":
        pytest.skip("Keras has another backend")

    def losses(accelerated):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Conv2D(4, 3, strides=2), keras.layers.DepthwiseConv2D(3)]
        layers += [keras.layers.BatchNormalization(), keras.layers.MaxPooling2D(2)]
        model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile(optimizer="sgd", loss="mse")
        if accelerated:
            model.train_step = ops.accelerate(model.train_step)
        x, y = np.asarray(normal((8, 12, 11, 3))), np.asarray(normal((8, 1)))
        return model.fit(x, y, batch_size=4, epochs=3, verbose=0).history["loss"]

    np.testing.assert_allclose(losses(True), losses(False), rtol=1e-5)
