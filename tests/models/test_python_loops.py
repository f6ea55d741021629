"""Layers of a loop that is written in Python are picked by their own names."""

from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import models
from convjax.nn._reading import _alike, _read
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Dense(nnx.Module):
    """Ten matrices, each followed by tanh."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(10)])

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


@pytest.mark.parametrize("fewest", [8, 10**6])
def test_features_and_frozen_layers_of_a_loop(fewest):
    net, x = Dense(nnx.Rngs(0)), jnp.ones((2, 3))
    with mock.patch.object(_alike, "FEWEST", fewest), mock.patch.dict(_read._TEMPLATES, clear=True):
        found = models.features(net, x, ["layers/4", "layers/tanh#10"])
        split = models.freeze(net, "layers/4", x=x)
    expected = x
    for layer in net.layers[:4]:
        expected = jnp.tanh(layer(expected))
    np.testing.assert_allclose(found["layers/4"], net.layers[4](expected), rtol=1e-5)
    np.testing.assert_allclose(found["layers/tanh#10"], net(x), rtol=1e-5)
    assert split.count == {"frozen": 60, "trainable": 60}
