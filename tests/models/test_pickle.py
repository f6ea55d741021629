"""Networks of the zoo are pickled: structure, names, heads and all."""

import pickle

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import models


def outlined(name, **options):
    return nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), **options))


@pytest.mark.parametrize(
    ("name", "options"),
    [("mobilenetv3_small_050", {}), ("resnetv2_18d", {"shortcut": "gated"})],
)
def test_an_outline_is_pickled(name, options):
    net = outlined(name, **options)
    again = pickle.loads(pickle.dumps(net))
    assert again.name == name
    assert nnx.split(again)[0] == nnx.split(net)[0]
    assert jax.tree.leaves(nnx.state(again)) == jax.tree.leaves(nnx.state(net))


def test_a_network_with_values_is_pickled():
    net = models.resnet_cifar(8, width=4, rngs=nnx.Rngs(0))
    (graphdef, state), again = nnx.split(net), nnx.split(pickle.loads(pickle.dumps(net)))
    assert again[0] == graphdef
    jax.tree.map(np.testing.assert_array_equal, again[1], state)


def test_heads_beside_the_trunk_are_pickled():
    net = outlined("googlenet", width=0.125, auxiliary=True)
    again = pickle.loads(pickle.dumps(net))
    assert again.auxiliary_paths == net.auxiliary_paths
    assert nnx.split(again)[0] == nnx.split(net)[0]
