"""The networks of other frameworks are what they say, and their references agree with jax.grad."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.foreign import equinox_networks, haiku_networks, linen_networks, nnx_networks, same
from tests.foreign.arrays import cotangent_of, norm, normal
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")
MODES = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])


def assert_sound(found, gradients, tolerance=1e-5):
    """Hold references against plain gradients, and the last module's against the cotangent."""
    for value in (*found.parameters.values(), *(v for unit in found.units.values() for v in unit)):
        assert np.isfinite(value)
    assert found.parameters.keys() == gradients.keys()
    small = tolerance * max(found.parameters.values())  # such as a bias before a norm
    for path, expected in gradients.items():
        mine = found.parameters[path]
        np.testing.assert_allclose(mine, norm(expected), tolerance, atol=small, err_msg=path)
    last = [unit for unit in found.units.values() if np.isclose(unit[0], norm(found.output))]
    assert last
    np.testing.assert_allclose(last[0][1], norm(cotangent_of(found.output)), 1e-6)


def plain(apply, params, x):
    """Return the gradients by plain jax.grad."""

    def loss(params):
        output = apply(params, x)
        return jnp.sum(output * cotangent_of(output))

    return jax.jit(jax.grad(loss))(params)


@pytest.mark.later
@pytest.mark.parametrize("name", nnx_networks.NETWORKS)
@MODES
def test_every_module_of_nnx_is_called(name, train):
    """Shapes only: nothing is compiled."""
    net, options = nnx_networks.made(name, train)
    x = normal(nnx_networks.NETWORKS[name].shape)
    assert len(list(nnx.iter_modules(net))) > 3
    output = nnx.eval_shape(lambda net: net(x, **options), net)
    assert output.shape[0] == len(x) and output.dtype == jnp.float32


@pytest.mark.every(18)
@pytest.mark.parametrize("name", sorted(nnx_networks.NETWORKS.keys() - {"deep"}, reverse=True))
@MODES
def test_nnx_references(name, train):
    net, options = nnx_networks.made(name, train)
    x = normal(nnx_networks.NETWORKS[name].shape)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    gradients = plain(lambda p, x: nnx.merge(graphdef, p, rest, copy=True)(x, **options), params, x)
    flat = {"/".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(gradients)}
    assert_sound(nnx_networks.references(net, x, **options), flat)


@pytest.mark.later
@pytest.mark.parametrize("name", linen_networks.NETWORKS)
@MODES
def test_linen_references(name, train):
    _, variables, apply = linen_networks.made(name, train)
    x = normal(linen_networks.SHAPE)
    rest = {k: v for k, v in variables.items() if k != "params"}
    gradients = plain(lambda p, x: apply({"params": p, **rest}, x), variables["params"], x)
    flat = linen_networks.flatten_dict(gradients, sep="/")
    assert_sound(linen_networks.references(apply, variables, x), flat)


@pytest.mark.later
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_haiku_references(train):
    params, apply = haiku_networks.made(train)
    x = normal(haiku_networks.SHAPE)
    gradients = plain(apply, params, x)
    flat = {f"{m}/{name}": g for m, held in gradients.items() for name, g in held.items()}
    assert_sound(haiku_networks.references(apply, params, x), flat)


@pytest.mark.later
@MODES
def test_equinox_references(train):
    arrays, rest, state = equinox_networks.made(train)
    x = normal(equinox_networks.SHAPE)
    gradients = plain(equinox_networks.applied(rest, state), arrays, x)
    flat = equinox_networks.by_path(gradients)
    assert_sound(equinox_networks.references(arrays, rest, state, x), flat)


def test_float64(x64):
    net, options = nnx_networks.made("deep", True, jnp.float64)
    x = normal((2, 5, 4, 8), dtype=jnp.float64)
    found = nnx_networks.references(net, x, **options)
    assert found.output.dtype == np.float64
    single, options = nnx_networks.made("deep", True)
    once = nnx_networks.references(single, x.astype(jnp.float32), **options)
    for path, (activation, gradient) in found.units.items():
        np.testing.assert_allclose(once.units[path], (activation, gradient), 1e-5)


def test_a_scan_is_its_loop():
    net = nnx_networks.Scanned(3, rngs=nnx.Rngs(0))
    x = normal((2, 5, 4, 8))
    loop = nnx_networks.unrolled(net)
    np.testing.assert_allclose(net(x), loop(x), 1e-5)


def test_plain_gradients_vanish_with_depth():
    found = nnx_networks.references(nnx_networks.Deep(3, rngs=nnx.Rngs(0)), normal((2, 5, 4, 8)))
    gradients = [gradient for _, gradient in found.units.values()]
    assert sorted(gradients) == gradients and gradients[0] < gradients[-1]


@MODES
def test_the_same_network_three_times(train):
    ours, in_linen, in_nnx = same.outputs(train, normal(same.SHAPE))
    np.testing.assert_allclose(ours, in_nnx, 1e-5, 1e-5)
    np.testing.assert_allclose(in_linen, in_nnx, 1e-5, 1e-5)
