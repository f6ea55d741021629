"""Intermediate outputs against a second interpreter, written on the units alone."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import nn
from convjax.models._features import features, headless

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 4, 3)), jnp.float32)


def unit(rngs):
    """A residual unit with every kind of leaf that moves or draws."""
    inner = nn.Chain(norm=nn.BatchNorm(4, rngs=rngs), act=nn.Activation("tanh"))
    twice = nn.Repeat(lambda rngs: nn.PointwiseConv(4, 4, rngs=rngs), 2, rngs=rngs)
    branch = nn.Chain(inner=inner, twice=twice, drop=nn.Dropout(0.3))
    return nn.Residual(branch, nn.Gate(4, bias=0.5, rngs=rngs), activation=nn.Activation("tanh"))


@functools.cache
def made():
    rngs = nnx.Rngs(0)
    sides = nn.Parallel(
        wide=nn.Conv(3, 3, (3, 1), padding="SAME", rngs=rngs),
        high=nn.Chain(conv=nn.Conv(3, 1, (1, 3), padding="SAME", rngs=rngs)),
    )
    dense = nn.Dense(4, 5, rngs=rngs)
    return nn.Chain(
        stem=sides,
        stage1=nn.Repeat(unit, 2, rngs=rngs),
        stage2=nn.Chain([unit(rngs), nn.Scale(0.5)]),
        head=nn.Chain(pool=nn.GlobalPool("avg"), dense=dense),
    )


def network():
    """A new copy, since drawing the values takes longer than most tests."""
    return nnx.clone(made())


def compiled(function, *args):
    """Call ``function(net, *args)`` in one compilation; return its result and the net's state."""
    graphdef, state = nnx.split(network())

    def call(state, *args):
        net = nnx.merge(graphdef, state, copy=True)
        return function(net, *args), nnx.state(net)

    return jax.jit(call)(state, *args)


def everything(node, x, path="", found=None, **mode):
    """The twin: every output by path, repeats unrolled into copies."""
    found = {} if found is None else found

    def inside(name, child, x):
        where = f"{path}/{name}" if path else name
        return everything(child, x, where, found, **mode)[0]

    if isinstance(node, nn.Repeat):
        node = node.unrolled()
    if isinstance(node, nn.Chain):
        y = x
        for name, child in node.items():
            y = inside(name, child, y)
    elif isinstance(node, nn.Parallel):
        y = jnp.concatenate([inside(name, child, x) for name, child in node.items()], -1)
    elif isinstance(node, nn.Residual):
        branch, gate = inside("branch", node.branch, x), inside("shortcut", node.shortcut, x)
        y = inside("activation", node.activation, gate * branch + (1 - gate) * x)
    else:
        y = node(x, **mode)
    found[path] = y
    return y, found


def arrays(state):
    return {path: np.asarray(leaf) for path, leaf in nnx.to_flat_state(state)}


def equal(left, right, **tolerance):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_allclose(left[key], right[key], err_msg=str(key), **tolerance)


def test_every_node_of_a_network_gives_its_output():
    def both(net, x):
        expected = everything(net, x)[1]
        found = features(net, x, list(expected))
        assert list(found) == list(expected) and nnx.split(net)[0] == nnx.split(made())[0]
        return found, expected

    (found, expected), state = compiled(both, IMAGE)
    assert len(found) == 44 and "stage1/1/branch/twice/1" in found
    equal(found, expected, rtol=1e-5, atol=1e-6)
    assert all(float(jnp.std(output)) > 0.01 for output in found.values())
    equal(arrays(state), arrays(nnx.state(made())), rtol=0)


def test_a_pass_outside_of_a_compilation_is_the_same():
    net = network()
    path = "stage1/1/branch/inner/norm"
    found = features(net, IMAGE, path)
    expected, _ = compiled(lambda net, x: everything(net, x)[1][path], IMAGE)
    assert list(found) == [path] and float(jnp.std(expected)) > 0.1
    np.testing.assert_allclose(found[path], expected, rtol=1e-5, atol=1e-6)
    assert nnx.split(net)[0] == nnx.split(made())[0]
    equal(arrays(nnx.state(net)), arrays(nnx.state(made())), rtol=0)


def test_gradients_flow_through_what_is_recorded():
    paths = ["stem/wide", "stage1/1/branch/twice/0"]

    def loss(outputs):
        return sum(jnp.mean(outputs[path] ** 3) for path in paths)

    def gradients(net, x):
        graphdef, params, rest = nnx.split(net, nnx.Param, ...)

        def by(function):
            def total(params, x):
                return loss(function(nnx.merge(graphdef, params, rest, copy=True), x))

            return jax.grad(total, (0, 1))(params, x)

        closed = jax.grad(lambda x: loss(features(net, x, paths)))(x)
        return by(lambda net, x: features(net, x, paths)), by(lambda *a: everything(*a)[1]), closed

    (found, expected, closed), _ = compiled(gradients, IMAGE)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)
    assert float(jnp.abs(found[1]).max()) > 1e-4
    np.testing.assert_allclose(closed, found[1], rtol=1e-4, atol=1e-7)


def trained(function):
    """Return outputs, draws and state after one call in training mode."""

    def run(net, x):
        rngs = nnx.Rngs(dropout=5)
        return function(net, x, train=True, rngs=rngs), rngs.dropout.count[...]

    (found, drawn), state = compiled(run, IMAGE)
    return found, int(drawn), arrays(state)


@functools.cache
def plainly_trained():
    return trained(lambda net, *args, **mode: net(*args, **mode))


@pytest.mark.parametrize("path", ["stage1/1/branch/drop", "stem/high"])
def test_training_moves_and_draws_what_a_plain_call_does(path):
    found, drawn, moved = trained(functools.partial(features, paths=["", path]))
    expected, count, state = plainly_trained()
    np.testing.assert_allclose(found[""], expected, rtol=1e-4, atol=1e-5)
    equal(moved, state, rtol=1e-5, atol=1e-6)
    before = arrays(nnx.state(made()))
    assert sum(not np.array_equal(v, before[k]) for k, v in moved.items()) == 4
    assert drawn == count == 3
    if path.endswith("drop"):
        assert 0.1 < float(jnp.mean(found[path] == 0)) < 0.6


def test_globs_match_name_by_name():
    net = network()

    def names(paths):
        return list(jax.eval_shape(lambda x: features(net, x, paths), IMAGE))

    assert sorted(names("stage*")) == ["stage1", "stage2"]
    found = names(["head/*", "stage1/*", "st?m"])
    expected = ["head/pool", "head/dense", "stage1/0", "stage1/1", "stem"]
    assert sorted(found) == sorted(expected)
    assert names("stage1/[1-9]/branch/twice/*") == [f"stage1/1/branch/twice/{j}" for j in (0, 1)]


@pytest.mark.parametrize(
    "paths, words",
    [
        ([], "paths is empty"),
        (["stem", "st*m"], "paths: 'stem' is asked for twice, the second time by 'st*m'"),
        (["stage1/1", "stage1/1"], "'stage1/1' is asked for twice"),
        ("stages*", "path='stages*': no node 'stages*' in Chain (stem, stage1, stage2, head)"),
        ("stage1/2", "path='stage1/2': no node '2' in Repeat (*)"),
        ("stem/wyde", "path='stem/wyde': no node 'wyde' in Parallel (wide, high)"),
        ("stage1/*/bra", "no node 'bra' in Residual (branch, shortcut, activation)"),
        ("stage1/01", "paths: 'stage1/01' matches no node"),
    ],
)
def test_what_names_no_node_is_refused(paths, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        features(network(), IMAGE, paths)


def test_what_stands_behind_is_not_computed_under_jit():
    net = network()

    def operations(call):
        return jax.jit(call).lower(IMAGE).compile().cost_analysis()["flops"]

    for path in ("stem/wide", "stem"):
        alone = operations(nn.at(net, path))
        assert operations(lambda x, path=path: features(net, x, path)[path]) == alone
    assert operations(net) > 2 * alone


def test_headless_gives_the_input_of_the_classifier():
    def both(net, x):
        return headless(net)(x), everything(net, x)[1]["head/pool"]

    (found, pooled), _ = compiled(both, IMAGE)
    np.testing.assert_allclose(found, pooled, rtol=1e-5, atol=1e-6)
    net = network()
    body = headless(net)
    assert body.names == net.names and body["head"].names == ("pool",)
    assert net["head"].names == ("pool", "dense")


def test_headless_shares_its_variables():
    def moved(net, x):
        headless(net)(x, train=True, rngs=nnx.Rngs(dropout=0))

    _, state = compiled(moved, IMAGE)
    before = arrays(nnx.state(made()))
    assert sum(not np.array_equal(v, before[k]) for k, v in arrays(state).items()) == 4


def test_headless_of_what_has_no_classifier_is_refused():
    dense = nn.Dense(3, 2, rngs=nnx.Rngs(0))
    for net, words in [
        (nn.Chain(stem=nn.Identity(), pool=nn.Identity()), "head/dense; it has stem, pool"),
        (nn.Chain(stem=nn.Identity(), head=dense), "it has stem, head"),
        (nn.Chain(head=nn.Chain(dense=dense, soft=nn.Identity())), "it has head/dense, head/soft"),
        (nn.Chain(head=nn.Chain(dense=dense), pool=nn.Identity()), "it has head, pool"),
        (nn.Chain(head=nn.Chain(dense=dense)), "nothing but its classifier"),
        (dense, "net=Dense .* it has no units"),
    ]:
        with pytest.raises(ValueError, match=words):
            headless(net)
    bare = nn.Chain(stem=nn.Scale(2.0), head=nn.Chain(dense=dense))
    assert headless(bare).names == ("stem",)
