"""Networks are pickled and copied whatever they were made with."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import nn


def swish(x):
    return x * jax.nn.sigmoid(x)


@pytest.mark.parametrize("name", sorted(nn.ACTIVATIONS))
def test_an_activation_is_copied_by_its_name(name):
    activation = nn.Activation(name)
    for again in (pickle.loads(pickle.dumps(activation)), copy.deepcopy(activation)):
        assert nnx.split(again)[0] == nnx.split(activation)[0]
        assert again.name == name
        assert nn.Activation(nn.ACTIVATIONS[name]).function == again.function


@pytest.mark.parametrize("function", [swish, jax.nn.celu, jnp.sin])
def test_functions_of_a_module_are_copied_by_reference(function):
    activation, x = nn.Activation(function), jnp.linspace(-2.0, 2.0, 5)
    for again in (pickle.loads(pickle.dumps(activation)), copy.deepcopy(activation)):
        assert nnx.split(again)[0] == nnx.split(activation)[0]
        np.testing.assert_array_equal(again(x), function(x))


def test_initialisers_that_are_closures_are_left_behind():
    rngs = nnx.Rngs(0)
    made = jax.nn.initializers.he_normal()
    conv = nn.Conv(4, 4, (3, 3), feature_group_count=2, kernel_init=made, rngs=rngs)
    again = pickle.loads(pickle.dumps(conv))
    assert again.origin.kernel_init is None
    assert again.origin.bias_init == nn.initializers.zeros()
    assert copy.deepcopy(conv).origin.kernel_init is made
    np.testing.assert_array_equal(again.kernel[...], conv.kernel[...])
