"""Faults planted in networks, and named by compare; a sound network passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import gradflow, models, nn
from convjax.gradflow import _causes
from tests.nn.conftest import quick_compilation as quick_compilation

WIDTH = 24
X = jax.random.normal(jax.random.key(1), (6, 8, 6, WIDTH))

pytestmark = pytest.mark.usefixtures("quick_compilation")


def _compare(net, expected=None, *, train=True):
    profile = gradflow.profile(net, X, cotangent=jax.random.key(2), train=train)
    return gradflow.compare(profile, gradflow.predict(expected or net, X, train=True))


def _stack(**options):
    options = {"norm": "batch", **options}
    return models.deep_stack(6, WIDTH, rngs=nnx.Rngs(0), **options)


def _separable(init):
    def unit(rngs):
        return nn.Chain(
            relu=nn.Activation("relu"),
            depthwise=nn.DepthwiseConv(
                WIDTH, (3, 3), padding="CIRCULAR", kernel_init=init, use_bias=False, rngs=rngs
            ),
            pointwise=nn.PointwiseConv(WIDTH, WIDTH, kernel_init="he", use_bias=False, rngs=rngs),
        )

    return nn.Repeat(unit, 2, rngs=nnx.Rngs(0))


def test_running_statistics_at_initialisation():
    found = _compare(_stack(), train=False)
    assert found.first == "1/branch/norm1" and found.side == "activation"
    assert found.cause.startswith("running statistics at initialization")
    assert found.cause in found.verdict and "theory expects" in found.verdict


@pytest.mark.later
def test_the_wrong_fan_of_a_grouped_kernel():
    scaling = jax.nn.initializers.variance_scaling
    found = _compare(_separable(scaling(1.0, "fan_out", "normal")))
    assert found.first == "0/depthwise"
    assert found.cause.startswith("wrong fan of a grouped kernel")
    assert f"all {WIDTH} groups" in found.cause
    assert _compare(_separable(scaling(1.0, "fan_in", "normal"))).agrees


def test_zero_padding_on_a_small_image():
    zero, circular = (_stack(norm="none", shortcut="none", padding=p) for p in ("SAME", "CIRCULAR"))
    profile = gradflow.profile(zero, X, cotangent=jax.random.key(2), train=True)
    found = gradflow.compare(profile, gradflow.predict(circular, X, train=True), tolerance=0.0)
    unit = found["2/branch/conv2"]
    # Told of the padding, theory expects it.
    told = gradflow.predict(zero, X, train=True)["2/branch/conv2"]
    assert unit.gradient_gain - unit.expected.gradient_gain == pytest.approx(
        0.5 * np.log(unit.expected.border), abs=0.1
    )
    assert told.border < 0.85 and "zero padding" in told.note
    cause = _causes.likely_cause(_finding(off=0.5 * np.log(0.8), border=0.8))
    assert cause.startswith("zero padding on a small image")


def test_a_zero_initialised_branch():
    net = _stack()
    scale = net.unit.branch["norm2"].scale
    scale[...] = jnp.zeros_like(scale[...])
    found = _compare(net, _stack())
    assert found.first == "0/branch/norm2" and found.cause.startswith("zero-initialised")
    # Theory reads a norm's scale off the network, and then expects the silence.
    assert _compare(net).agrees


def test_kernels_that_are_not_their_initialisers():
    net = _stack()
    kernel = net.unit.branch["conv1"].kernel
    kernel[...] = 2.0 * kernel[...]
    found = _compare(net)
    assert found.first == "0/branch/conv1" and "times what its initialiser declares" in found.cause
    measured = gradflow.profile(net, X, cotangent=jax.random.key(2), train=True)
    again = gradflow.predict(net, X, train=True, kernels="measured")
    assert gradflow.compare(measured, again).agrees


def test_underflow_inside_a_branch():
    init = nn.initializers.VarianceScaling(0.01)

    def unit(rngs):
        return nn.Conv(
            WIDTH, WIDTH, (3, 3), kernel_init=init, use_bias=False, padding="CIRCULAR", rngs=rngs
        )

    net = nn.Residual(nn.Chain(body=nn.Repeat(unit, 45, rngs=nnx.Rngs(0))))
    found = _compare(net)
    assert found.cause.startswith("underflow") and "float32" in found.cause


def test_the_text_names_the_farthest_units_and_what_is_worth_knowing():
    found = _compare(_stack())
    text = str(found)
    assert found.agrees and text.startswith("as theory expects")
    assert "worth knowing: zero padding leaves" in text
    table = found.table()
    assert len(table["path"]) == len(found.units) == len(table["expected_gradient_gain"])
    with pytest.raises(KeyError, match="nowhere"):
        found["nowhere"]


def test_what_cannot_be_compared_is_refused():
    net = _stack()
    profile = gradflow.profile(net, X, cotangent=jax.random.key(2), train=True)
    other = gradflow.predict(nn.Chain(alone=nn.Identity()), X.shape, train=True)
    with pytest.raises(ValueError, match="tolerance=-1"):
        gradflow.compare(profile, other, tolerance=-1.0)
    units = tuple(u for u in other.units if u.path)
    elsewhere = gradflow.Prediction(units, other.batch_size, True, ())
    with pytest.raises(ValueError, match="none of the prediction's units, such as 'alone'"):
        gradflow.compare(profile, elsewhere)


def _finding(**changed):
    plain = {
        "kind": "Conv",
        "side": "gradient",
        "off": -0.5,
        "room": 0.05,
        "gain": -0.5,
        "kernel_variance": 0.01,
        "expected_variance": 0.01,
        "groups": 1,
        "border": 1.0,
        "expected_log_rms": 0.0,
        "measured_train": True,
        "expected_train": True,
    }
    return _causes.Finding(**{**plain, **changed})


def test_no_cause_is_made_up():
    assert _causes.likely_cause(_finding()) == ""
    assert _causes.likely_cause(_finding(border=0.9)) == ""
    assert _causes.likely_cause(_finding(groups=8)) == ""


@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_said_of_a_gradient_that_a_norm_takes_out_whole(seed):
    """Two examples of one place are two values: what comes back is owed to epsilon."""
    rngs = nnx.Rngs(seed)
    options = {"use_bias": False, "kernel_init": "he", "rngs": rngs}
    net = nn.Chain(
        first=nn.PointwiseConv(16, 48, **options),
        second=nn.PointwiseConv(48, 48, **options),
        norm=nn.BatchNorm(48, rngs=rngs),
        relu=nn.Activation("relu"),
    )
    x = jax.random.normal(jax.random.key(seed), (2, 1, 1, 16))
    found = gradflow.profile(net, x, cotangent=jax.random.key(5), train=True)
    expected = gradflow.predict(net, np.asarray(x), train=True)
    assert gradflow.compare(found, expected).agrees
    assert expected["norm"].gradient_gain_slack > 3
