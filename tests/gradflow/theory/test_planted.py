"""Faults planted in plain and residual networks: the unit is found, and the cause named by looking.

The whole list, eight seeds each, takes minutes: it is for later.
"""

import jax
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, models
from convjax.gradflow import _look
from experiments.benchmarks import planted
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")

SEEN = (
    "equal channels",
    "shared weights",
    "constant kernel",
    "large epsilon",
    "doubled activation",
    "float16 underflow in a branch",
    "a skip before the norm",
    "three terms where two were declared",
)


@pytest.mark.parametrize("name", SEEN)
def test_a_planted_fault_is_found_and_named(name):
    fault = planted.FAULTS[name]
    comparison = planted.found(fault, 0, residual=name != "doubled activation")
    assert planted.judged(fault, comparison) == (True, True, False)


@pytest.mark.later
@pytest.mark.parametrize("name", planted.FAULTS)
def test_planted_faults_are_found_in_most_networks(name):
    fault = planted.FAULTS[name]
    found = [
        planted.judged(fault, planted.found(fault, seed, residual=residual))
        for residual in (True,) * fault.residual or (False, True)
        for seed in range(8)
    ]
    unit, cause, wrong = np.mean(found, axis=0)
    assert unit >= 0.9 and cause >= 0.8 and wrong <= 0.02


def test_fresh_weights_are_fresh_and_moved_ones_are_not():
    net = models.deep_stack(8, 16, norm="batch", rngs=nnx.Rngs(0))
    assert _look.not_fresh(net) == "" and _look.dependent(net) == {}
    net(jax.random.normal(jax.random.key(0), (4, 6, 6, 16)), train=True)
    assert "running statistics that moved" in _look.not_fresh(net)


def test_without_the_network_a_bias_is_no_kernel():
    fault = planted.FAULTS["dead rectifier by bias"]
    given = {"padding": "CIRCULAR", "shortcut": "none", **fault.options}
    net = models.deep_stack(4, 16, rngs=nnx.Rngs(0), **given)
    told = gradflow.predict(nnx.eval_shape(lambda: net), planted.SHAPE, train=True)
    fault.change(net)
    x = jax.random.normal(jax.random.key(0), planted.SHAPE)
    profile = gradflow.profile(net, x, cotangent=jax.random.key(1), train=True)
    blind, seeing = (gradflow.compare(profile, told, net=n) for n in (None, net))
    assert blind.first == seeing.first == "1/branch/conv1"
    assert blind.cause == "" and seeing.cause.startswith("its bias: mean -8")
