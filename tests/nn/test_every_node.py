"""What holds for every leaf and combinator: no public node can be left out."""

import copy
import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.leaks import checking_leaks
from tests.nn.registry import CASES, image, make, public_makers, takes_dtype

pytestmark = pytest.mark.usefixtures("quick_compilation")
every_node = pytest.mark.parametrize("name", sorted(CASES))


def call(graphdef, state, x, train):
    """One call as a pure function: the output, and the state that it leaves."""
    net = nnx.merge(graphdef, state, copy=True)
    y = net(x, train=train, rngs=nnx.Rngs(dropout=5) if train else None)
    return y, nnx.to_pure_dict(nnx.state(net))


def both_modes(graphdef, state, x):
    return call(graphdef, state, x, False), call(graphdef, state, x, True)


def assert_close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), a, b)


def test_every_public_node_is_registered():
    assert set(CASES) == public_makers()


@every_node
def test_is_called_with_input_mode_and_streams_alone(name):
    signature = inspect.signature(type(make(name)).__call__)
    given = {p.name: p.default for p in list(signature.parameters.values())[1:]}
    assert given == {"x": inspect.Parameter.empty, "train": False, "rngs": None}


@pytest.mark.every(2)
@every_node
def test_jit_changes_nothing_and_leaks_nothing(name):
    graphdef, state = nnx.split(make(name))
    expected = both_modes(graphdef, state, image(name))
    with checking_leaks():
        given = jax.jit(both_modes, static_argnums=0)(graphdef, state, image(name))
    assert_close(given, expected)


@pytest.mark.every(2)
@every_node
def test_a_batch_of_networks_is_a_loop(name):
    def run(key, x):
        return both_modes(*nnx.split(make(name, key)), x)

    keys = jax.random.split(jax.random.key(2), 3)
    x = jnp.stack([image(name), -image(name), 2 * image(name)])
    together, one = jax.jit(jax.vmap(run))(keys, x), jax.jit(run)
    singly = [one(keys[i], x[i]) for i in range(3)]
    assert_close(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *singly))


@pytest.mark.every(2)
@every_node
def test_gradients_have_the_structure_of_the_parameters_and_are_finite(name):
    graphdef, params, rest = nnx.split(make(name), nnx.Param, ...)

    @jax.jit
    def slopes(params, x):
        def loss(params, x):
            y, _ = call(graphdef, nnx.merge_state(params, rest), x, True)
            return jnp.sum(jax.random.normal(jax.random.key(3), y.shape) * y)

        return jax.grad(loss, (0, 1))(params, x)

    for_params, for_input = slopes(params, image(name))
    assert jax.tree.structure(for_params) == jax.tree.structure(params)
    assert jax.tree.leaves(jax.tree.map(jnp.shape, for_params)) == jax.tree.leaves(
        jax.tree.map(jnp.shape, params)
    )
    for slope in jax.tree.leaves((for_params, for_input)):
        assert jnp.isfinite(slope).all()
        assert float(jnp.abs(slope).max()) > 0


@every_node
def test_structure_can_key_a_compilation(name):
    one, other = (nnx.split(make(name, seed))[0] for seed in (0, 1))
    assert one == other
    assert hash(one) == hash(other)


@every_node
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda node: pickle.loads(pickle.dumps(node))])
def test_a_copy_is_an_equal_network(name, copied):
    node = make(name)
    (graphdef, state), (structure, values) = nnx.split(node), nnx.split(copied(node))
    assert structure == graphdef
    assert hash(structure) == hash(graphdef)
    jax.tree.map(np.testing.assert_array_equal, values, state)


@every_node
def test_the_mode_is_no_part_of_the_node(name):
    node = make(name)
    graphdef, state = nnx.split(node)
    before = nnx.to_pure_dict(state)
    for switch in (node.train, node.eval):
        switch()
        assert nnx.split(node)[0] == graphdef
        jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(node)), before)


@every_node
def test_without_training_nothing_moves(name):
    node, streams = make(name), nnx.Rngs(dropout=5)
    before = nnx.to_pure_dict(nnx.state(make(name)))  # a twin's: the node's own would move with it
    y = node(image(name), rngs=streams)
    np.testing.assert_array_equal(node(image(name)), y)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(node)), before)
    assert int(streams.dropout.count[...]) == 0


@pytest.mark.parametrize("name", sorted(n for n, case in CASES.items() if case.draws))
def test_random_numbers_are_asked_for(name):
    with pytest.raises(ValueError, match=r"train=True needs rngs, for example rngs=nnx.Rngs"):
        make(name)(image(name), train=True)


def dtypes_of(name, x, **dtypes):
    """Dtypes of the outputs in both modes, and of the state, found without computing."""

    def run(x):
        return both_modes(*nnx.split(make(name, **dtypes)), x)

    shapes = jax.eval_shape(run, x)
    outputs, states = zip(*shapes, strict=True)
    return {y.dtype for y in outputs}, {leaf.dtype for leaf in jax.tree.leaves(states)}


@every_node
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtype_in_is_dtype_out(name, dtype, x64):
    dtype = jnp.dtype(dtype)
    out, state = dtypes_of(name, image(name, dtype), dtype=dtype, param_dtype=dtype)
    assert out == {dtype}
    assert state <= {dtype}


@pytest.mark.parametrize("name", sorted(filter(takes_dtype, CASES)))
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_dtype_of_the_computation_is_the_dtype_out(name, dtype, x64):
    dtype = jnp.dtype(dtype)
    x = image(name, dtype if CASES[name].keeps_dtype else jnp.float32)
    out, state = dtypes_of(name, x, dtype=dtype, param_dtype=jnp.float32)
    assert out == {dtype}
    assert state == {jnp.dtype("float32")}
