"""One network as an expression, in NNX and in Linen: one profile, one cost, one prediction."""

import numpy as np
import pytest

import convjax
from convjax import gradflow, nn
from tests.foreign import same
from tests.foreign.arrays import normal
from tests.foreign.conftest import default_promotion as default_promotion
from tests.nn.conftest import quick_compilation as quick_compilation

pytestmark = pytest.mark.usefixtures("quick_compilation")
MODES = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
OTHERS = pytest.mark.parametrize("other", ["nnx", "linen"])
COTANGENT = normal((same.SHAPE[0], 5), 7)


def pair(other, train):
    """Return the expression, the network to be read, and the mode that this one is given."""
    net = same.in_nnx()
    if other == "nnx":
        return same.in_convjax(net), net, train
    return same.in_convjax(net), nn.Function(*same.in_linen(net, train)), None


@pytest.mark.later
@OTHERS
@MODES
def test_profile(other, train):
    ours, theirs, said = pair(other, train)
    x = normal(same.SHAPE)
    written = gradflow.profile(ours, x, cotangent=COTANGENT, train=train)
    read = gradflow.profile(theirs, x, cotangent=COTANGENT, train=said)
    for path, there in same.PATHS.items():
        one, two = written[there], read[path]
        assert one.kind == two.kind or {one.kind, two.kind} == {"Dense", "Linear"}
        for name in ("activation", "gradient"):
            np.testing.assert_allclose(getattr(two, name).norm, getattr(one, name).norm, 1e-5)
        assert two.parameters.keys() == one.parameters.keys()
        for name, gradient in one.parameter_gradients.items():
            np.testing.assert_allclose(two.parameter_gradients[name].norm, gradient.norm, 1e-5)
    assert len(read.paths) == len(written.paths) or not read.opaque
    for i in range(3):
        sums = written[f"block{i}"].addition, read[f"block{i}/add"].addition
        np.testing.assert_allclose(sums[1].branch.norm, sums[0].branch.norm, 1e-5)
        np.testing.assert_allclose(
            sums[1].shortcut_gradient.norm, sums[0].shortcut_gradient.norm, 1e-5
        )


@pytest.mark.later
@OTHERS
@MODES
def test_paths(other, train):
    ours, theirs, said = pair(other, train)
    x = normal(same.SHAPE)
    written = gradflow.paths(ours, x, cotangent=COTANGENT, train=train)
    read = gradflow.paths(theirs, x, cotangent=COTANGENT, train=said)
    np.testing.assert_allclose(read.log_energy, written.log_energy, 1e-5, 1e-5)


@OTHERS
def test_cost(other):
    ours, theirs, _ = pair(other, False)
    written = convjax.cost(ours, same.SHAPE)
    read = convjax.cost(theirs, same.SHAPE)
    assert not read.unknown
    for name in ("multiply_adds", "flops", "parameters"):
        assert getattr(read, name) == getattr(written, name), name
    for path, there in same.PATHS.items():
        assert read[path].multiply_adds == written[there].multiply_adds


@pytest.mark.every(4)
@OTHERS
@MODES
def test_prediction(other, train):
    ours, theirs, said = pair(other, train)
    x = normal(same.SHAPE)
    written = gradflow.predict(ours, x, train=train, kernels="measured")
    read = gradflow.predict(theirs, x, train=said, kernels="measured")
    assert read.unknown == written.unknown
    for path, there in same.PATHS.items():
        one, two = written[there], read[path]
        for name in ("activation_log_rms", "gradient_log_norm"):
            np.testing.assert_allclose(
                getattr(two, name), getattr(one, name), 1e-3, 1e-3, err_msg=path
            )
