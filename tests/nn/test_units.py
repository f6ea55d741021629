"""Units that know nothing of convjax: modules of Flax NNX as they are, and plain functions."""

import functools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import nn
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")
X = jax.random.normal(jax.random.key(0), (3, 5, 4, 4))


class Mine(nnx.Module):
    """A block as NNX writes it: called with x alone, its mode set from outside."""

    def __init__(self, features, rngs):
        self.conv = nnx.Conv(features, features, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(features, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return x + self.drop(nnx.relu(self.bn(self.conv(x))))


class Asked(nnx.Module):
    """Writes down how it is called."""

    def __call__(self, x, is_training, rngs=None):
        self.asked = f"{is_training} {type(rngs).__name__}"
        return x


class Hard(nnx.Module):
    def __call__(self, x, *, inference):
        return x if inference else -x


def layers(theirs, rngs):
    """The same layers in NNX and in convjax."""
    if theirs:
        return {
            "conv": nnx.Conv(4, 4, (3, 3), rngs=rngs),
            "bn": nnx.BatchNorm(4, momentum=0.9, rngs=rngs),
            "act": functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
            "gn": nnx.GroupNorm(4, num_groups=2, rngs=rngs),
            "ln": nnx.LayerNorm(4, rngs=rngs),
            "drop": nnx.Dropout(0.5),
            "dense": nnx.Linear(4, 4, rngs=rngs),
        }
    return {
        "conv": nn.Conv(4, 4, (3, 3), rngs=rngs),
        "bn": nn.BatchNorm(4, epsilon=1e-5, momentum=0.9, rngs=rngs),
        "act": nn.Activation(functools.partial(jax.nn.leaky_relu, negative_slope=0.2)),
        "gn": nn.GroupNorm(4, num_groups=2, epsilon=1e-6, rngs=rngs),
        "ln": nn.LayerNorm(4, epsilon=1e-6, rngs=rngs),
        "drop": nn.Dropout(0.5),
        "dense": nn.Dense(4, 4, rngs=rngs),
    }


def network(theirs, rngs=None):
    rngs = nnx.Rngs(0) if rngs is None else rngs
    return nn.Chain(
        layers(theirs, rngs),
        residual=nn.Residual(nn.Chain(layers(theirs, rngs)), activation=jax.nn.relu),
        parallel=nn.Parallel(a=nn.Chain(layers(theirs, rngs)), b=jnp.tanh),
        mean=lambda x: x.mean((1, 2)),
    )


def pair():
    """The two networks, with the same values."""
    ours, theirs = network(False), network(True)
    flat = {path: v[...] for path, v in nnx.to_flat_state(nnx.state(ours))}
    for path, variable in nnx.to_flat_state(nnx.state(theirs)):
        same = flat.pop(path)
        assert same.shape == variable[...].shape
    assert not flat
    _, state = nnx.split(ours)
    graphdef, other = nnx.split(theirs)
    values = dict(nnx.to_flat_state(state))
    other = [(p, v.replace(values[p][...])) for p, v in nnx.to_flat_state(other)]
    return ours, nnx.merge(graphdef, nnx.from_flat_state(other))


@pytest.mark.parametrize("train", [False, True])
def test_layers_of_flax_compute_what_ours_do_and_move_the_same_statistics(train):
    both = pair()
    outputs = [net(X, train=train, rngs=nnx.Rngs(dropout=3)) for net in both]
    np.testing.assert_allclose(*outputs, rtol=2e-4, atol=2e-5)
    ours, theirs = (dict(nnx.to_flat_state(nnx.state(net, nnx.BatchStat))) for net in both)
    assert len(ours) == 6 and set(ours) == set(theirs)
    for path, value in ours.items():
        # Flax's momentum is of the variance divided by N, ours as well.
        np.testing.assert_allclose(value[...], theirs[path][...], rtol=1e-4, atol=1e-5)
    moved = any(np.any(np.asarray(v[...]) != 0) for p, v in theirs.items() if p[-1] == "mean")
    assert moved == train


def test_a_module_that_takes_no_mode_is_in_the_mode_of_the_call_and_left_as_it_was():
    net = nn.Chain(mine=Mine(4, nnx.Rngs(0)))
    mine = net["mine"]
    bare = nnx.clone(mine)
    bare.eval()
    np.testing.assert_array_equal(net(X), bare(X))
    assert mine.bn.use_running_average is False and mine.drop.deterministic is False
    mine.eval()
    before = np.asarray(mine.bn.mean[...])
    net(X, train=True)
    assert np.any(np.asarray(mine.bn.mean[...]) != before) and mine.bn.use_running_average


def test_a_mode_is_passed_by_the_name_that_the_call_has():
    asked = Asked()
    nn.Chain(a=asked)(X, train=True, rngs=nnx.Rngs(0))
    assert asked.asked == "True Rngs"
    np.testing.assert_array_equal(nn.Chain(a=Hard())(X, train=True), -X)
    np.testing.assert_array_equal(nn.applied(Hard(), X), X)


def test_a_repeat_of_a_module_of_flax_is_its_unrolled_chain():
    net = nn.Repeat(lambda rngs: Mine(4, rngs), 3, rngs=nnx.Rngs(0))
    unrolled = net.unrolled()
    np.testing.assert_allclose(net(X, train=True), unrolled(X, train=True), rtol=1e-4, atol=1e-5)
    units: list = list(unrolled)
    stacked = np.stack([unit.bn.mean[...] for unit in units])
    moved: Any = net.unit
    np.testing.assert_allclose(moved.bn.mean[...], stacked, rtol=1e-4, atol=1e-6)


def test_functions_with_equal_arguments_are_equal_and_can_be_pickled():
    def act(slope):
        return nn.Activation(functools.partial(jax.nn.leaky_relu, negative_slope=slope))

    assert nnx.split(nn.Chain(a=act(0.2)))[0] == nnx.split(nn.Chain(a=act(0.2)))[0]
    assert nnx.split(nn.Chain(a=act(0.2)))[0] != nnx.split(nn.Chain(a=act(0.1)))[0]
    again = pickle.loads(pickle.dumps(act(0.2)))
    assert again.function == act(0.2).function and nn.kind_of(again) == "leaky_relu (own)"


def test_gradients_pass_through_what_is_not_ours():
    ours, theirs = pair()

    def loss(net):
        return jnp.sum(net(X) ** 2)

    found = [
        nnx.to_flat_state(jax.grad(_of(net, loss))(nnx.state(net, nnx.Param)))
        for net in (ours, theirs)
    ]
    for (path, a), (other, b) in zip(*found, strict=True):
        assert path == other
        np.testing.assert_allclose(a[...], b[...], rtol=1e-3, atol=1e-4)


def _of(net, loss):
    graphdef, _, rest = nnx.split(net, nnx.Param, ...)
    return lambda params: loss(nnx.merge(graphdef, params, rest, copy=True))
