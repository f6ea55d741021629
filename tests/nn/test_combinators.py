"""Chain, Parallel, Residual and Gate: their sums and orders, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import nn

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = np.random.default_rng(2).normal(size=(2, 4, 3, 5))
IMAGE = jnp.asarray(X, jnp.float32)


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def square():
    return nn.Activation(jnp.square)


def test_a_chain_applies_its_units_in_order():
    assert_close(nn.Chain(a=nn.Scale(2.0), b=square())(IMAGE), 4 * X**2)
    assert_close(nn.Chain(b=square(), a=nn.Scale(2.0))(IMAGE), 2 * X**2)


def test_a_chain_is_a_sequence_and_a_mapping():
    units = [nn.Scale(float(i)) for i in range(4)]
    listed = nn.Chain(units)
    assert listed.names == ("0", "1", "2", "3")
    assert list(listed) == units and len(listed) == 4
    assert listed[-1] is listed["3"] is units[3]
    mixed = nn.Chain({"stem": units[0]}, head=units[1])
    assert list(mixed.items()) == [("stem", units[0]), ("head", units[1])]
    with pytest.raises(KeyError, match=r"'tail'; there are stem, head"):
        mixed["tail"]
    with pytest.raises(IndexError):
        mixed[2]


def test_paths_of_the_state_are_paths_of_units():
    net = nn.Chain(stage=nn.Chain([nn.Dense(5, 5, rngs=nnx.Rngs(0))]))
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(net))]
    assert paths == [("stage", "0", "bias"), ("stage", "0", "kernel")]


@pytest.mark.parametrize("kind", [nn.Chain, nn.Parallel])
def test_units_that_cannot_be_are_refused(kind):
    unit = nn.Identity()
    for make, message in (
        (lambda: kind(), "units is empty; give at least one"),
        (lambda: kind([]), "units is empty"),
        (lambda: kind({"a/b": unit}), "'a/b' cannot name a unit"),
        (lambda: kind({"*": unit}), r"'\*' cannot name a unit"),
        (lambda: kind({"": unit}), "'' cannot name a unit"),
        (lambda: kind(items=unit), "'items' cannot name a unit"),
        (lambda: kind(names=unit), "'names' cannot name a unit"),
        (lambda: kind({"a": unit}, a=unit), "two units are named a"),
        (lambda: kind([unit], **{"0": unit}), "two units are named 0"),
    ):
        with pytest.raises(ValueError, match=f"{kind.__name__}: .*{message}"):
            make()


def test_parallel_concatenates_on_channels():
    net = nn.Parallel(same=nn.Identity(), square=square(), pool=nn.GlobalPool(keepdims=True))
    with pytest.raises(ValueError, match=r"all axes but the last: .*pool \(2, 1, 1, 5\)"):
        net(IMAGE)
    net = nn.Parallel([nn.Scale(2.0), square(), nn.ZeroPadShortcut(5, 6)])
    expected = np.concatenate([2 * X, X**2, X, np.zeros((2, 4, 3, 1))], -1)
    assert_close(net(IMAGE), expected)


def test_residual_adds_what_it_is_told_to_add():
    after = nn.Activation("relu")
    for shortcut, beside in (("identity", X), ("none", 0), (nn.Scale(0.3), 0.3 * X)):
        assert_close(nn.Residual(square(), shortcut)(IMAGE), beside + X**2)
        assert_close(nn.Residual(square(), shortcut, scale=-0.7)(IMAGE), beside - 0.7 * X**2)
        both = nn.Residual(square(), shortcut, scale=-0.7, activation=after)
        assert_close(both(IMAGE), np.maximum(beside - 0.7 * X**2, 0))


def test_residual_with_a_projection_may_change_the_shape():
    rngs = nnx.Rngs(0)
    branch = nn.Conv(5, 6, 3, strides=2, rngs=rngs)
    projection = nn.PointwiseConv(5, 6, strides=2, rngs=rngs)
    expected = np.asarray(branch(IMAGE)) + np.asarray(projection(IMAGE))
    assert_close(nn.Residual(branch, projection)(IMAGE), expected)


def test_shapes_that_do_not_add_are_told_apart():
    branch = nn.ZeroPadShortcut(5, 6, strides=2)
    with pytest.raises(
        ValueError,
        match=r"branch gives shape \(2, 2, 2, 6\), the shortcut \(2, 4, 3, 5\); .* projection or a",
    ):
        nn.Residual(branch)(IMAGE)
    assert nn.Residual(branch, "none")(IMAGE).shape == (2, 2, 2, 6)
    with pytest.raises(ValueError, match=r"shortcut='identiy' .* did you mean 'identity'"):
        nn.Residual(branch, "identiy")


def test_a_gate_shares_the_signal_out_between_branch_and_carry():
    gate = nn.Gate(5, bias=-1.0, kernel_init="he", rngs=nnx.Rngs(0))
    kernel = np.asarray(gate.conv.kernel[...], np.float64)[0, 0]
    assert_close(gate.conv.bias[...], -np.ones(5))
    t = 1 / (1 + np.exp(-(X @ kernel - 1)))
    assert_close(gate(IMAGE), t)
    net = nn.Residual(square(), gate, scale=0.4)
    assert_close(net(IMAGE), t * 0.4 * X**2 + (1 - t) * X)


def test_the_plain_twin_lacks_one_term_only():
    def net(shortcut):
        branch = nn.Chain(
            norm=nn.BatchNorm(5, rngs=(r := nnx.Rngs(3))), conv=nn.Conv(5, 5, 3, rngs=r)
        )
        return nn.Residual(branch, shortcut)

    with_skip, without = net("identity"), net("none")
    states = [nnx.to_pure_dict(nnx.state(n)) for n in (with_skip, without)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    difference = with_skip(IMAGE, train=True) - without(IMAGE, train=True)
    assert_close(difference, X)
