"""MobileNets and EfficientNets: what the options change, and that they change nothing else."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import gradflow, models, nn
from convjax.models._weights._keys import key_of
from convjax.models._weights._leaves import leaves

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Small enough to draw and to run; the units that keep their shape are in the first stage at least.
TINY = {
    "mobilenet_v1": {"width": 0.1, "depth": 0.2},
    "mobilenet_v2": {"width": 0.1, "depth": 0.2},
    "mobilenet_v3": {"width": 0.1, "kind": "small"},
    "efficientnet": {"width": 0.1, "depth": 0.2},
}
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40, 32, 3)), jnp.float32)

every_family = pytest.mark.parametrize("family", TINY)


def tiny(family, **options):
    build = getattr(models, family)
    return build(**{**TINY[family], "num_classes": 5, "rngs": nnx.Rngs(3), **options})


@functools.cache
def outline(family, **options):
    """The network without its values, which costs no compilation; not to be changed."""
    return nnx.eval_shape(lambda: tiny(family, **options))


def parameters(net):
    return dict(nnx.to_flat_state(nnx.state(net, nnx.Param)))


def shapes(net):
    return {path: leaf.shape for path, leaf in parameters(net).items()}


def nodes(net, kind):
    return {path: node for path, node, _ in nn.walk(net) if isinstance(node, kind)}


def last_features(net):
    """Shape of what the last stage gives."""
    stages = {n: unit for n, unit in net.items() if n.startswith(("stem", "stage"))}
    graphdef, state = nnx.split(nn.Chain(stages))
    run = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, IMAGE)
    return run.shape


def output(net, x, **how):
    graphdef, state = nnx.split(net)
    return jax.jit(lambda state, x: nnx.merge(graphdef, state)(x, **how))(state, x)


@pytest.mark.every(2)
@every_family
def test_twins_have_the_same_initial_values(family):
    plain = parameters(tiny(family, shortcut="none"))
    for name in ("identity", "scaled", "gated"):
        other = parameters(tiny(family, shortcut=name))
        more = other.keys() - plain.keys()
        assert bool(more) == (name == "gated") and all("shortcut" in path for path in more)
        for path, value in plain.items():
            np.testing.assert_array_equal(value[...], other[path][...], err_msg=str(path))


@every_family
def test_a_shortcut_stands_where_the_shape_is_kept_and_nowhere_else(family):
    net = outline(family, shortcut="identity")
    kept = []
    for path, unit in nodes(net, nn.Residual).items():
        first, last = (unit.branch[i].conv for i in (0, -1))
        inward = -1 if isinstance(first, nn.DepthwiseConv) else -2
        same = first.kernel.shape[inward] == last.kernel.shape[-1]
        if same and unit.branch.depthwise.conv.strides == 1:
            kept.append(path)
        assert isinstance(unit.shortcut, nn.Identity) == (path in kept), path
    assert kept


def test_mobilenet_v1_is_plain_and_its_twin_adds_before_the_last_activation():
    assert all(u.shortcut is None for u in nodes(outline("mobilenet_v1"), nn.Residual).values())
    unit = tiny("mobilenet_v1", shortcut="identity").stage1[0]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 7, 8)), jnp.float32)
    y, branch = (output(node, x, train=True) for node in (unit, unit.branch))
    np.testing.assert_allclose(y, np.clip(np.asarray(x + branch), 0, 6), rtol=1e-5, atol=1e-6)


@every_family
def test_without_norm_convolutions_have_biases(family):
    net = outline(family, norm="none")
    assert not nodes(net, nn.BatchNorm)
    for path, conv in nodes(net, nn.Conv | nn.DepthwiseConv | nn.PointwiseConv).items():
        assert conv.bias is not None, path
    for path, conv in nodes(outline(family), nn.DepthwiseConv).items():
        assert conv.bias is None, path


@pytest.mark.every(2)
@every_family
def test_output_stride_turns_strides_into_dilations(family):
    plain, dilated = outline(family), outline(family, output_stride=8)
    assert last_features(plain)[1:3] == (2, 1)
    assert last_features(dilated)[1:3] == (5, 4)
    assert shapes(dilated) == shapes(plain)
    deep = [node.kernel_dilation for node in nodes(dilated, nn.DepthwiseConv).values()]
    assert deep[0] == 1 and deep[-1] >= 2 and deep == sorted(deep)


@every_family
def test_random_layers_stand_at_the_end_of_branches_and_before_the_classifier(family):
    net = outline(family, stochastic_depth=0.4, dropout=0.3, shortcut="identity")
    units = nodes(net, nn.Residual)
    rates = {
        f"{path}/branch/drop": 0.4 * i / len(units)
        for i, (path, unit) in enumerate(units.items())
        if i and unit.shortcut is not None
    }
    found = {path: node.rate for path, node in nodes(net, nn.StochasticDepth).items()}
    assert found == pytest.approx(rates)
    assert net.head.names[-2:] == ("dropout", "dense") and net.head.dropout.rate == 0.3
    assert "dropout" not in outline(family).head.names


def test_random_layers_need_and_follow_rngs():
    net = tiny("mobilenet_v1", shortcut="identity", stochastic_depth=0.9, dropout=0.5)
    assert nodes(net, nn.StochasticDepth) and nodes(net, nn.Dropout)
    graphdef, state = nnx.split(net)

    @jax.jit
    def run(state, key=None):
        rngs = None if key is None else nnx.Rngs(dropout=key)
        return nnx.merge(graphdef, state)(IMAGE, train=True, rngs=rngs)

    same, again, other = (run(state, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(same, again)
    assert float(jnp.abs(same - other).max()) > 1e-3
    with pytest.raises(ValueError, match="needs rngs"):
        jax.eval_shape(run, state)


@pytest.mark.every(2)
@every_family
def test_dtypes_reach_every_part(family):
    net = outline(family, dtype=jnp.bfloat16, shortcut="gated")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(net))} == {jnp.dtype("float32")}
    graphdef, state = nnx.split(net)
    y = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, IMAGE)
    assert y.dtype == jnp.bfloat16 and y.shape == (2, 5)
    net = outline(family, param_dtype=jnp.bfloat16, shortcut="gated")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(net))} == {jnp.dtype("bfloat16")}


@every_family
def test_references_differ_in_padding_and_epsilon(family):
    ours, theirs = outline(family), outline(family, reference="keras")
    assert {n.epsilon for n in nodes(ours, nn.BatchNorm).values()} == {1e-5}
    assert {n.epsilon for n in nodes(theirs, nn.BatchNorm).values()} == {1e-3}
    assert ours.stem.conv.padding == (1, 1) and theirs.stem.conv.padding == "SAME"
    far = [n.padding for n in nodes(theirs, nn.DepthwiseConv).values() if n.strides == 2]
    assert {*far} == {((0, 1), (0, 1)) if family == "mobilenet_v1" else "SAME"}


@pytest.mark.parametrize("family", ["mobilenet_v3", "efficientnet"])
def test_timm_s_networks_of_tensorflow_pad_as_keras_does(family):
    net = outline(family, same_padding=True, epsilon=1e-3)
    assert {n.epsilon for n in nodes(net, nn.BatchNorm).values()} == {1e-3}
    assert {n.padding for n in nodes(net, nn.Conv | nn.DepthwiseConv).values()} == {"SAME"}
    assert net.reference == "torch" and shapes(net) == shapes(outline(family))


@pytest.mark.parametrize("family", ["mobilenet_v3", "efficientnet"])
def test_squeezes(family):
    squeezes = nodes(outline(family), nn.SqueezeExcite)
    kinds = {(n.activation.name, n.gate.name) for n in squeezes.values()}
    names = ("relu", "hard_sigmoid") if family == "mobilenet_v3" else ("silu", "sigmoid")
    assert squeezes and kinds == {names}
    without = outline(family, squeeze=False)
    assert not nodes(without, nn.SqueezeExcite)
    kept = {p: s for p, s in shapes(outline(family)).items() if "squeeze" not in p}
    assert shapes(without) == kept


def test_squeezed_channels():
    """A quarter of what comes in, or of what is between, in eights."""
    wide = outline("efficientnet", width=1.0).stage4[0].branch
    assert wide.expand.conv.kernel.shape[-2:] == (40, 240)
    assert wide.squeeze.reduce.kernel.shape[-2:] == (240, 10)
    wide = outline("mobilenet_v3", width=1.0).stage4[0].branch
    assert wide.expand.conv.kernel.shape[-2:] == (40, 120)
    assert wide.squeeze.reduce.kernel.shape[-2:] == (120, 32)


def test_activations_of_mobilenet_v3():
    def names(net):
        return [n.name for p, n in nodes(net, nn.Activation).items() if "squeeze" not in p]

    own = names(outline("mobilenet_v3"))
    assert own[:6] == ["hard_swish"] + ["relu"] * 5 and {*own[6:]} == {"hard_swish"}
    assert {*names(outline("mobilenet_v3", activation="mish"))} == {"mish"}


def test_hard_functions_are_clipped_at_6(x64):
    x = np.linspace(-9.3, 8.7, 1001)
    gate = np.clip(x + 3, 0, 6) / 6
    np.testing.assert_allclose(nn.ACTIVATIONS["hard_sigmoid"](x), gate, rtol=1e-14, atol=1e-16)
    np.testing.assert_allclose(nn.ACTIVATIONS["hard_swish"](x), x * gate, rtol=1e-14, atol=1e-16)
    np.testing.assert_allclose(nn.ACTIVATIONS["relu6"](x), np.clip(x, 0, 6), rtol=0)


# Millions of multiply-adds of one image of 224 x 224, in the papers (a classifier included).
PAPERS = {
    "mobilenetv1_100": (569, 0.01),
    "mobilenetv1_050": (149, 0.01),
    "mobilenetv2_100": (300, 0.01),
    "mobilenetv2_140": (585, 0.01),
    "mobilenetv3_large_100": (219, 0.015),
    "mobilenetv3_small_100": (56, 0.02),
    "efficientnet_b0": (390, 0.02),
}


QUICK = ("mobilenetv1_100", "mobilenetv3_small_100")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in PAPERS]
)
def test_multiply_adds_are_the_papers(name):
    net = nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0)))
    millions, close = PAPERS[name]
    found = convjax.cost(net, (1, 224, 224, 3))
    assert found.multiply_adds / 1e6 == pytest.approx(millions, rel=close)
    assert not found.unknown


@pytest.mark.every(2)
@every_family
def test_theory_and_cost_know_every_leaf(family):
    net = outline(family)
    predicted = gradflow.predict(net, IMAGE.shape, train=True)
    assert not predicted.unknown
    assert all(np.isfinite(unit.gradient_log_norm) for unit in predicted.units)
    cost = convjax.cost(net, IMAGE.shape)
    assert not cost.unknown
    assert cost.parameters == sum(np.prod(shape) for shape in shapes(net).values())


@pytest.mark.later
def test_profile_sees_every_layer():
    net = tiny("efficientnet")
    measured(nn.Chain(stem=net.stem, stage1=net.stage1))


@pytest.mark.slow
@every_family
def test_profile_sees_every_layer_of_a_whole_network(family):
    found = measured(tiny(family))
    predicted = gradflow.predict(outline(family), IMAGE.shape, train=True)
    assert list(found.paths)[1:] == [unit.path for unit in predicted.units]


def measured(net):
    found = gradflow.profile(net, IMAGE, cotangent=jax.random.key(2), train=True)
    assert not found.opaque
    assert set(found.paths) == {path for path, _, _ in nn.walk(net)} | {"input"}
    assert all(bool(unit.gradient.norm > 0) for _, unit in found.items())
    return found


@every_family
def test_repr_tells_the_layers(family):
    text = repr(outline(family))
    assert "DepthwiseConv" in text and "head" in text


KEYS = [
    ("mobilenet_v1", "stage4/2/branch/pointwise/conv", "conv_pw_6"),
    ("mobilenet_v2", "stage1/0/branch/depthwise/conv", "expanded_conv_depthwise"),
    ("mobilenet_v2", "stage3/1/branch/expand/norm", "block_3_expand_BN"),
    ("efficientnet", "stage4/1/branch/squeeze/reduce", "block4b_se_reduce"),
]


@pytest.mark.parametrize("family, path, layer", KEYS)
def test_keras_counts_its_layers(family, path, layer):
    """Over the whole network or within a stage, whatever the depth."""
    net = outline(family, reference="keras", depth=0.5)
    keys = [key_of(net, leaf).name for leaf in leaves(net)]
    assert len({*keys}) == len(keys)
    found = {key_of(net, leaf).name.split("/")[0] for leaf in leaves(net) if leaf.path == path}
    assert found == {layer}


REFUSALS = [
    (
        TINY,
        {"stochastic_depth": 0.4, "shortcut": "none"},
        "stochastic_depth=0.4 drops branches, and with shortcut='none' nothing stands beside them",
    ),
    (TINY, {"width": 0.0}, "width=0.0 must be greater than 0"),
    (TINY, {"width": float("nan")}, "width=nan must be finite and greater than 0"),
    (set(TINY) - {"mobilenet_v3"}, {"depth": -1.0}, "depth=-1.0 must be greater than 0"),
    (["mobilenet_v3"], {"kind": "larg"}, "kind='larg' is not known; did you mean 'large'"),
    (TINY, {"reference": "kears"}, "reference='kears' is not known; did you mean 'keras'"),
    (TINY, {"shortcut": "gate"}, "shortcut='gate' is not known; did you mean 'gated'"),
    (TINY, {"norm": "btach"}, "norm='btach' is not known; did you mean 'batch'"),
    (TINY, {"activation": "relu66"}, "activation='relu66' is not known; did you mean 'relu6'"),
    (TINY, {"init": "hee"}, "init='hee' is not known; did you mean 'he'"),
    (TINY, {"output_stride": 12}, "output_stride=12 must be a power of two, at least 2"),
    (
        ["mobilenet_v1", "mobilenet_v3"],
        {"dropout": 1.5},
        "dropout=1.5 must be at least 0 and less than 1",
    ),
    (["mobilenet_v1", "mobilenet_v3"], {"num_classes": -1}, "num_classes=-1 must be at least 0"),
    (TINY, {"in_features": 0}, "in_features=0 must be at least 1"),
]


@pytest.mark.parametrize("families, options, message", REFUSALS, ids=[r[2] for r in REFUSALS])
def test_bad_input_is_refused(families, options, message):
    for family in sorted(families):
        with pytest.raises(ValueError, match=re.escape(message)):
            outline(family, **options)
