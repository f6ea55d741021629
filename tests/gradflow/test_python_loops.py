"""Loops of equal layers that are written in Python: read as one repeat, with every layer's name."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import gradflow, nn
from convjax.nn._reading import _alike, _read
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def promoting():
    """Other people's networks count on what JAX does if nobody forbids it."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


class Block(nnx.Module):
    """Convolution, norm and ReLU, added to the input."""

    def __init__(self, features, rngs):
        self.conv = nnx.Conv(features, features, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(features, use_running_average=True, rngs=rngs)

    def __call__(self, x):
        return x + 0.1 * jax.nn.relu(self.norm(self.conv(x)))


class Deep(nnx.Module):
    """A stem, many blocks, a head."""

    def __init__(self, depth, features, rngs):
        self.stem = nnx.Conv(3, features, (3, 3), rngs=rngs)
        self.blocks = nnx.List([Block(features, rngs) for _ in range(depth)])
        self.head = nnx.Linear(features, 2, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class Dense(nnx.Module):
    """Many matrices, with what no module names between them."""

    def __init__(self, depth, features, rngs, tied=False, bias=True):
        made = [nnx.Linear(features, features, use_bias=bias, rngs=rngs) for _ in range(depth)]
        self.layers = nnx.List(made)
        if tied:
            self.layers[depth - 1] = self.layers[depth - 2]

    def __call__(self, x):
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x


def flat(p, x):
    """Layers that a function holds, each by a name of its own."""
    for i in range(12):
        x = jnp.tanh(x @ p[f"w{i}"])
    return x


def named(seed=0):
    keys = jax.random.split(jax.random.key(seed), 12)
    return nn.Function(flat, {f"w{i}": jax.random.normal(k, (4, 4)) for i, k in enumerate(keys)})


IMAGE, ROW = (2, 6, 5, 3), (3, 4)
NETWORKS = {
    "residual": (lambda: Deep(12, 4, nnx.Rngs(0)), IMAGE),
    "dense": (lambda: Dense(12, 4, nnx.Rngs(0)), ROW),
    "tied": (lambda: Dense(12, 4, nnx.Rngs(0), tied=True), ROW),
    "flat": (named, ROW),
}


def squares(y):
    return jnp.sum(y**2)


def everything(net, x):
    """What each interpreter says, by name, as arrays."""
    key = jax.random.key(1)
    read = nn.read(net, x)
    profile = gradflow.profile(net, x, cotangent=key)
    predicted = gradflow.predict(net, x)
    # Refused where a parameter is shared.
    tied = isinstance(net, Dense) and net.layers[10] is net.layers[11]
    examples = {} if tied else gradflow.per_example_norms(net, x, loss=squares).log_norms
    names = {
        "labels": read.labels,
        "paths": profile.paths,
        "parameters": tuple((*u.parameters, *u.parameter_gradients) for u in profile.units),
        "examples": tuple(examples),
        "unknown": (profile.opaque, predicted.unknown, convjax.cost(net, x.shape).unknown),
        "text": str(profile),
    }
    values = {
        "output": read(x),
        "profile": profile.table(),
        "parameter gradients": [u.parameter_gradients for u in profile.units],
        "cost": convjax.cost(net, x.shape).table(),
        "predict": predicted.table(),
        "examples": examples,
        "correlation": gradflow.correlation(net, x, cotangent=key).matrix,
    }
    noise = gradflow.noise_scale(net, x, loss=squares)
    values["noise"] = [noise.gradient_square, noise.trace]
    if isinstance(net, Deep):
        values["lengths"] = gradflow.paths(net, x, cotangent=key)
    return names, values


def read_with(fewest, net, x, what):
    with mock.patch.object(_alike, "FEWEST", fewest), mock.patch.dict(_read._TEMPLATES, clear=True):
        return what(net, x)


@pytest.mark.parametrize(
    "name",
    ["flat", "tied", *(pytest.param(n, marks=pytest.mark.later) for n in ("residual", "dense"))],
)
def test_a_loop_measures_as_its_layers_one_by_one(name):
    make, shape = NETWORKS[name]
    net, x = make(), jax.random.normal(jax.random.key(3), shape)
    names, values = read_with(8, net, x, everything)
    apart, expected = read_with(10**6, net, x, everything)
    assert names == apart
    same = jax.tree.map(np.asarray, values), jax.tree.map(np.asarray, expected)
    assert jax.tree.structure(same[0]) == jax.tree.structure(same[1])
    for found, right in zip(*map(jax.tree.leaves, same), strict=True):
        if found.dtype.kind == "f":
            np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize(("name", "turns"), [("residual", 12), ("flat", 12), ("tied", 10)])
def test_equal_layers_are_one_repeat_and_shared_ones_are_not(name, turns):
    make, shape = NETWORKS[name]
    read = read_with(8, make(), jax.ShapeDtypeStruct(shape, jnp.float32), nn.read)
    assert [unit.n for unit in read if isinstance(unit, nn.Repeat)] == [turns]


def test_under_a_transformation_a_loop_has_one_row_until_it_is_written_out():
    net, x = named(), jnp.ones(ROW)

    def measure(net, x):
        return jax.jit(lambda x: gradflow.profile(net, x, cotangent=jnp.ones(ROW)))(x)

    found = read_with(8, net, x, measure)
    assert found.paths == ("input", "w*", "tanh*", "")
    assert found["w7"].parameters["w7"].squares.shape == ()
    plain = gradflow.profile(net, x, cotangent=jnp.ones(ROW))
    found, plain = (p.table()["gradient_log_norm"] for p in (found, plain))
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)


def test_three_hundred_layers_are_finite_where_a_gradient_is_zero():
    net, x = Dense(300, 16, nnx.Rngs(0), bias=False), jax.random.normal(jax.random.key(3), (3, 16))
    table = gradflow.profile(net, x, cotangent=jnp.ones(x.shape)).table()
    assert len(table["path"]) == 602
    assert np.isfinite(table["gradient_log_norm"]).all()
    assert table["path"][1:6:2].tolist() == ["layers/0", "layers/1", "layers/2"]


@pytest.mark.later
def test_a_thousand_residual_blocks_are_finite():
    net, x = Deep(1000, 8, nnx.Rngs(0)), jax.random.normal(jax.random.key(3), (2, 6, 6, 3))
    profile = gradflow.profile(net, x, cotangent=jax.random.key(1))
    table = profile.table()
    assert np.isfinite(table["gradient_log_norm"]).all()
    assert {"blocks/0/conv", "blocks/999/norm", "blocks/999/add"} <= {*table["path"]}
    assert len(convjax.cost(net, x.shape).paths) == len(profile.paths) - 1


def test_runs():
    marks = [7, *[1, 2] * 9, 1, 3, *[4] * 8, 5]
    assert _alike.runs(marks, 8) == [(1, 2, 9), (21, 1, 8)]
    assert _alike.runs(marks, 10) == []
