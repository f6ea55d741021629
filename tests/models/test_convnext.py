"""ConvNeXt: what its options change, and that they change nothing else."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import gradflow, models, nn
from tests.models.instruments import check_foreseen, check_measured

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = np.random.default_rng(0).normal(size=(2, 40, 32, 3)).astype(np.float32)


def tiny(**options):
    defaults = {"units": (2, 1, 2), "width": 4, "num_classes": 5, "rngs": nnx.Rngs(3)}
    return models.convnext(**{**defaults, **options})


def outline(**options):
    """The network without its values, which costs no compilation."""
    return nnx.eval_shape(lambda: tiny(**options))


def parameters(net):
    return dict(nnx.to_flat_state(nnx.state(net, nnx.Param)))


def shapes(net):
    return {path: leaf.shape for path, leaf in parameters(net).items()}


def nodes(net, kind):
    return {path: node for path, node, _ in nn.walk(net) if isinstance(node, kind)}


def last_places(net):
    """Size of what the last stage gives."""
    stages = {n: unit for n, unit in net.items() if n.startswith(("stem", "stage"))}
    graphdef, state = nnx.split(nn.Chain(stages))
    run = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, IMAGE)
    return run.shape[1:3]


# Billions of multiply-adds of one image of 224 x 224 (tables 1 and 12 of the paper).
PAPER = {
    "convnext_tiny": 4.5,
    "convnext_small": 8.7,
    "convnext_base": 15.4,
    "convnext_large": 34.4,
    "convnext_xlarge": 60.9,
    # Woo et al. 2023, table 16 of its code's page.
    "convnextv2_pico": 1.37,
    "convnextv2_huge": 115.0,
}


@pytest.mark.parametrize(
    "name", [n if n == "convnext_tiny" else pytest.param(n, marks=pytest.mark.slow) for n in PAPER]
)
def test_multiply_adds_are_the_paper_s(name):
    net = nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0)))
    found = convjax.cost(net, (1, 224, 224, 3))
    assert found.multiply_adds / 1e9 == pytest.approx(PAPER[name], abs=0.06, rel=1e-3)
    assert not found.unknown


def test_twins_have_the_same_initial_values():
    plain = parameters(tiny(shortcut="none"))
    for name in ("identity", "gated"):
        other = parameters(tiny(shortcut=name))
        more = other.keys() - plain.keys()
        assert bool(more) == (name == "gated") and all("shortcut" in path for path in more)
        for path, value in plain.items():
            np.testing.assert_array_equal(value[...], other[path][...], err_msg=str(path))


def test_branches_are_almost_silent_at_birth():
    unit = tiny(units=(1,)).stage1[0]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 7, 4)), jnp.float32)
    change = np.abs(unit(x) - x).max()
    assert 0 < change < 1e-4
    loud = tiny(units=(1,), layer_scale=1.0).stage1[0]
    np.testing.assert_allclose(unit.branch(x), 1e-6 * loud.branch(x), rtol=1e-4, atol=1e-12)
    without = tiny(units=(1,), layer_scale=None).stage1[0]
    np.testing.assert_allclose(without(x), loud(x), rtol=1e-5)
    assert "scale" not in without.branch.names


def test_options_change_what_they_say():
    plain = outline()
    assert {n.name for n in nodes(plain, nn.Activation).values()} == {"exact_gelu"}
    assert {n.epsilon for n in nodes(plain, nn.LayerNorm).values()} == {1e-6}
    unit = outline(kernel_size=5, expansion=3, activation="relu").stage3[1].branch
    assert unit.conv.kernel.shape == (5, 5, 1, 16) and unit.conv.padding == (2, 2)
    assert unit.expand.kernel.shape == (16, 48) and unit.project.kernel.shape == (48, 16)
    assert unit.activation.name == "relu"
    batch = outline(norm="batch")
    assert not nodes(batch, nn.LayerNorm) and len(nodes(batch, nn.BatchNorm)) == 9
    without = outline(norm="none")
    assert shapes(without) == {p: s for p, s in shapes(plain).items() if "norm" not in p}
    assert plain.stage2.names == ("down", "0") and plain.stage1.names == ("0", "1")


def test_output_stride_turns_strides_into_dilations():
    plain = outline()
    assert last_places(plain) == (2, 2)
    for most, places, dilations in (
        (16, (2, 2), [1, 1, 1, 1, 1]),
        (8, (5, 4), [1, 1, 1, 2, 2]),
        (4, (10, 8), [1, 1, 2, 4, 4]),
    ):
        net = outline(output_stride=most)
        assert last_places(net) == places and shapes(net) == shapes(plain)
        assert [n.kernel_dilation for n in nodes(net, nn.DepthwiseConv).values()] == dilations


def test_random_layers_stand_where_they_should():
    net = outline(stochastic_depth=0.4, dropout=0.3)
    units = [unit.branch for unit in nodes(net, nn.Residual).values()]
    assert [unit.names[-1] for unit in units] == ["scale"] + 4 * ["drop"]
    assert [unit.drop.rate for unit in units[1:]] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert net.head.names == ("pool", "norm", "dropout", "dense")
    assert net.head.dropout.rate == 0.3
    assert not nodes(outline(), nn.Dropout | nn.StochasticDepth)


def test_dtypes_reach_every_part():
    net = outline(dtype=jnp.bfloat16, shortcut="gated")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(net))} == {jnp.dtype("float32")}
    graphdef, state = nnx.split(net)
    y = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, IMAGE)
    assert y.dtype == jnp.bfloat16 and y.shape == (2, 5)
    net = outline(param_dtype=jnp.bfloat16, shortcut="gated")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(net))} == {jnp.dtype("bfloat16")}


def test_measured_is_predicted():
    net = tiny(units=(1,), width=32, kernel_size=3, layer_scale=1.0)
    # As trained: layer scales of several sizes and signs.
    net.stage1[0].branch.scale.value[...] = jnp.linspace(-2, 3, 32)
    predicted = gradflow.predict(net, IMAGE.shape, train=True)
    assert not predicted.unknown and not convjax.cost(net, IMAGE.shape).unknown
    measured = gradflow.profile(net, IMAGE, cotangent=jax.random.key(2), train=True)
    assert not measured.opaque
    assert "as theory expects" in str(gradflow.compare(measured, predicted))


def test_measured_is_predicted_with_response_norm():
    options = {"units": (1, 1), "width": 32, "kernel_size": 3, "layer_scale": None}
    net = tiny(response_norm=True, **options)
    branch = net.stage1[0].branch
    assert branch.names[2:5] == ("expand", "activation", "response")
    branch.response.scale[...] = jnp.linspace(-0.5, 1.0, 128)
    branch.response.bias[...] = jnp.linspace(-0.2, 0.1, 128)
    predicted = check_foreseen(net, IMAGE.shape)
    measured = check_measured(net, jnp.asarray(IMAGE))
    assert "as theory expects" in str(gradflow.compare(measured, predicted))
    with pytest.raises(ValueError, match="reference='keras'"):
        outline(response_norm=True, reference="keras")


def test_keras_calls_the_arrays_by_the_network_s_name():
    def keys(**options):
        return {*models.export_weights(tiny(reference="keras", **options))}

    prefixes = {key.split("_stage_")[0] for key in keys() if "_stage_" in key}
    assert prefixes == {"convnext"}
    net = nnx.eval_shape(
        lambda: models.create("convnext_base", reference="keras", rngs=nnx.Rngs(0))
    )
    assert net.family.name == "convnext_base"


@pytest.mark.parametrize("own", ["Variable", "variable", "variable_17"])
def test_a_layer_scale_of_keras_may_have_any_name(own):
    net, donor = tiny(units=(2,), reference="keras"), tiny(units=(2,), reference="keras")
    for i in (0, 1):
        donor.stage1[i].branch.scale.value[...] = jnp.arange(4.0) + 10 * i
    arrays = models.export_weights(donor)
    named = {k.replace("layer_scale/gamma", f"layer_scale/{own}"): v for k, v in arrays.items()}
    assert named.keys() != arrays.keys()
    report = models.load_weights(net, named)
    assert report == (len(arrays), (), (), (), "")
    np.testing.assert_array_equal(net.stage1[1].branch.scale.value[...], np.arange(10.0, 14.0))


def test_repr_tells_the_layers():
    text = repr(outline())
    assert "DepthwiseConv" in text and "down" in text


REFUSALS = [
    ({"reference": "kears"}, "reference='kears' is not known; did you mean 'keras'"),
    ({"units": (0, 1)}, "units[0]=0 must be at least 1"),
    ({"width": 0}, "width=0 must be at least 1"),
    ({"expansion": 0}, "expansion=0 must be at least 1"),
    ({"kernel_size": 0}, "kernel_size=0 must be at least 1"),
    ({"num_classes": -1}, "num_classes=-1 must be at least 0"),
    ({"shortcut": "gate"}, "shortcut='gate' is not known; did you mean 'gated'"),
    ({"shortcut": "none", "stochastic_depth": 0.1}, "give stochastic_depth=0 or another"),
    ({"norm": "layre"}, "norm='layre' is not known; did you mean 'layer'"),
    ({"activation": "exact_gleu"}, "did you mean 'exact_gelu'"),
    ({"init": "hee"}, "init='hee' is not known; did you mean 'he'"),
    ({"output_stride": 2}, "output_stride=2 must be a power of two, at least 4"),
    ({"dropout": 1.5}, "dropout=1.5 must be at least 0 and less than 1"),
]


@pytest.mark.parametrize("options, message", REFUSALS, ids=[r[1] for r in REFUSALS])
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        outline(**options)
