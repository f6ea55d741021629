"""Networks of four frameworks, measured as they are, against the frameworks' own gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype.roar import BeartypeCallHintParamViolation
from flax import nnx

from convjax import gradflow, nn
from tests.foreign import equinox_networks, haiku_networks, linen_networks, nnx_networks, odd
from tests.foreign.arrays import cotangent_of, norm, normal
from tests.foreign.conftest import default_promotion as default_promotion
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")
MODES = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])


@pytest.fixture(scope="module", autouse=True)
def forgetting():
    """Every network is compiled several times: a process that kept all programs might end."""
    yield
    jax.clear_caches()


SINGLE, DOUBLE = 1e-5, 1e-10
SILENT = re.compile("dropout", re.IGNORECASE)
"""Modules that do nothing in a program where nothing is dropped, and so have no row."""


def assert_same(profile, found, tolerance, plain=str):
    """Hold a profile against references: every leaf module's row, and every parameter.

    Args:
      profile: what was measured.
      found: the references.
      tolerance: relative.
      plain: a path without what rows and references write differently.
    """
    rows = {plain(path): row for path, row in profile.items()}
    units = {plain(path): norms for path, norms in found.units.items()}
    for path in sorted(units.keys() & rows.keys()):
        row = rows[path]
        measured = [float(row.activation.norm), float(row.gradient.norm)]
        np.testing.assert_allclose(measured, units[path], tolerance, err_msg=path)
    containers = {path for path in units if any(p.startswith(f"{path}/") for p in units)}
    missing = units.keys() - containers - rows.keys()
    assert not [path for path in missing if not SILENT.search(path)]

    # A parameter of a module that holds others has a row of its own, which bears its name.
    gradients = {
        path if path.rpartition("/")[2] == name else f"{path}/{name}": float(gradient.norm)
        for path, row in rows.items()
        for name, gradient in row.parameter_gradients.items()
    }
    for path, expected in found.parameters.items():
        small = tolerance * max(found.parameters.values())  # such as a bias before a norm
        np.testing.assert_allclose(
            gradients[plain(path)], expected, tolerance, atol=small, err_msg=path
        )


def measured_nnx(name, train, dtype=jnp.float32):
    net, options = nnx_networks.made(name, train, dtype)
    x = normal(nnx_networks.NETWORKS[name].shape, dtype=dtype)
    found = nnx_networks.references(net, x, **options)
    said = train if options else None
    return gradflow.profile(net, x, cotangent=cotangent_of(found.output), train=said), found


@pytest.mark.slow
@pytest.mark.parametrize("name", nnx_networks.NETWORKS)
@MODES
def test_nnx(name, train):
    assert_same(*measured_nnx(name, train), SINGLE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet", "efficientnet", "unet"])
@MODES
def test_nnx_in_float64(name, train, x64):
    assert_same(*measured_nnx(name, train, jnp.float64), DOUBLE)


def measured_linen(name, train, dtype=jnp.float32):
    _, variables, apply = linen_networks.made(name, train, dtype)
    x = normal(linen_networks.SHAPE, dtype=dtype)
    found = linen_networks.references(apply, variables, x)
    net = nn.Function(apply, variables)
    return gradflow.profile(net, x, cotangent=cotangent_of(found.output)), found


@pytest.mark.later
@pytest.mark.parametrize("name", linen_networks.NETWORKS)
@MODES
def test_linen(name, train):
    assert_same(*measured_linen(name, train), SINGLE)


@pytest.mark.slow
@pytest.mark.parametrize("name", linen_networks.NETWORKS)
@MODES
def test_linen_in_float64(name, train, x64):
    assert_same(*measured_linen(name, train, jnp.float64), DOUBLE)


def measured_haiku(train, dtype=jnp.float32):
    params, apply = haiku_networks.made(train, dtype)
    x = normal(haiku_networks.SHAPE, dtype=dtype)
    found = haiku_networks.references(apply, params, x)
    net = nn.Function(apply, params)
    return gradflow.profile(net, x, cotangent=cotangent_of(found.output)), found


def without_tildes(path):
    return path.replace("/~/", "/")


@pytest.mark.later
@MODES
def test_haiku(train):
    assert_same(*measured_haiku(train), SINGLE, without_tildes)


@pytest.mark.slow
@MODES
def test_haiku_in_float64(train, x64):
    assert_same(*measured_haiku(train, jnp.float64), DOUBLE, without_tildes)


def measured_equinox(train, dtype=jnp.float32):
    arrays, rest, state = equinox_networks.made(train, dtype)
    x = normal(equinox_networks.SHAPE, dtype=dtype)
    found = equinox_networks.references(arrays, rest, state, x)
    net = nn.Function(equinox_networks.applied(rest, state), arrays)
    return gradflow.profile(net, x, cotangent=cotangent_of(found.output)), found


@pytest.mark.later
@MODES
def test_equinox(train):
    assert_same(*measured_equinox(train), SINGLE)


@pytest.mark.slow
@MODES
def test_equinox_in_float64(train, x64):
    assert_same(*measured_equinox(train, jnp.float64), DOUBLE)


# Depth.


def test_a_scan_has_the_profile_of_its_loop():
    net = nnx_networks.Scanned(3, rngs=nnx.Rngs(0))
    x = normal((2, 5, 4, 8))
    found = nnx_networks.references(nnx_networks.unrolled(net), x)
    profile = gradflow.profile(net, x, cotangent=cotangent_of(found.output))
    for i in range(3):
        unit = profile[f"blocks/{i}/conv"]
        measured = [float(unit.activation.norm), float(unit.gradient.norm)]
        np.testing.assert_allclose(measured, found.units[f"layers/{i}"], SINGLE)


@pytest.mark.slow
@pytest.mark.later
def test_ten_thousand_layers_by_scan():
    net = nnx_networks.Scanned(10_000, rngs=nnx.Rngs(0))
    profile = gradflow.profile(net, normal((2, 5, 4, 8)), cotangent=jax.random.key(0))
    unit = profile["blocks/*/conv"]
    assert unit.gradient.log_norm.shape == (10_000,)
    assert np.isfinite(unit.gradient.log_norm).all() and unit.gradient.log_norm[0] < -1000


# Odd ones.


@pytest.mark.parametrize("name", odd.CASES)
def test_odd(name):
    case = odd.CASES[name]
    net, x, options = case.make()
    if case.expected == odd.REFUSED:
        # A wrong type is refused by these tests' import hook, before it comes to the room.
        with pytest.raises((ValueError, BeartypeCallHintParamViolation), match=case.message):
            gradflow.profile(net, x, cotangent=jax.random.key(0), **options)
        return
    call = options.get("call", odd.plainly(options))
    output, pullback = jax.vjp(lambda x: call(nnx.clone(net), x), x)
    cotangent = cotangent_of(output)
    profile = gradflow.profile(net, x, cotangent=cotangent, **options)
    tolerance = 1e-5 if x.dtype == jnp.float32 else 1e-2
    ends = [float(profile.units[-1].activation.norm), float(profile["input"].gradient.norm)]
    np.testing.assert_allclose(ends, [norm(output), norm(*pullback(cotangent))], tolerance)
