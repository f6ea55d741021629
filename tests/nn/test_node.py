"""Paths: the walk over a network, and the node at a path."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import nn

pytestmark = pytest.mark.usefixtures("quick_compilation")


def network():
    def unit(rngs):
        return nn.Residual(nn.Chain(conv=nn.Conv(2, 2, 3, rngs=rngs)), nn.Scale(0.5))

    rngs = nnx.Rngs(0)
    return nn.Chain(
        stem=nn.Conv(3, 2, 3, rngs=rngs),
        body=nn.Repeat(lambda rngs: nn.Repeat(unit, 2, rngs=rngs), 3, rngs=rngs),
        head=nn.Parallel([nn.Identity(), nn.Residual(nn.Identity(), "none")]),
    )


def test_walk_visits_children_first_with_the_repeats_around_them():
    visited = [(path, repeats) for path, _, repeats in nn.walk(network())]
    assert visited == [
        ("stem", ()),
        ("body/*/*/branch/conv", (3, 2)),
        ("body/*/*/branch", (3, 2)),
        ("body/*/*/shortcut", (3, 2)),
        ("body/*/*", (3, 2)),
        ("body/*", (3,)),
        ("body", ()),
        ("head/0", ()),
        ("head/1/branch", ()),
        ("head/1", ()),
        ("head", ()),
        ("", ()),
    ]


def test_walk_may_start_below_a_root():
    visits = list(nn.walk(nn.Chain(a=nn.Identity()), "stage", (7,)))
    assert [(path, repeats) for path, _, repeats in visits] == [("stage/a", (7,)), ("stage", (7,))]


def test_parameters_lead_with_the_repeats():
    for path, node, repeats in nn.walk(network()):
        if isinstance(node, nn.Conv):
            assert node.kernel.shape[: len(repeats)] == repeats, path


def test_at_finds_what_walk_visits():
    net = network()
    for path, node, _ in nn.walk(net):
        assert nn.at(net, path) is node


def test_a_number_inside_a_repeat_picks_one_unit():
    net = network()
    stacked = nn.at(net, "body/*/*/branch/conv").kernel[...]
    for i, j in ((0, 0), (2, 1)):
        one = nn.at(net, f"body/{i}/{j}/branch/conv")
        np.testing.assert_array_equal(one.kernel[...], stacked[i, j])
    half = nn.at(net, "body/1")
    assert isinstance(half, nn.Repeat)
    np.testing.assert_array_equal(half.unit.branch["conv"].kernel[...], stacked[1])


@pytest.mark.parametrize(
    "path, message",
    [
        ("trunk", r"path='trunk': no node 'trunk' in Chain \(stem, body, head\)"),
        ("stem/conv", r"no node 'conv' in Conv \(no children\)"),
        ("body/3", r"no node '3' in Repeat \(\*\)"),
        ("body/*/0/branch/relu", r"no node 'relu' in Chain \(conv\)"),
        ("head/1/shortcut", r"no node 'shortcut' in Residual \(branch\)"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ended(path, message):
    with pytest.raises(ValueError, match=message):
        nn.at(network(), path)


def test_a_node_without_a_forward_pass_says_so():
    class Idle(nn.Node):
        pass

    with pytest.raises(NotImplementedError, match="Idle has no forward pass"):
        Idle()(jnp.zeros((1, 2)))
