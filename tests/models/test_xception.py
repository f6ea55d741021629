"""Xception: published sizes, options, names, its plain twin."""

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

SHAPE = (2, 40, 32, 3)


def tiny(middle=1, **options):
    small = {"width": 0.04, "num_classes": 5, "rngs": nnx.Rngs(3)}
    return models.xception(middle, **{**small, **options})


@functools.cache
def outline(middle=1, **options):
    """The network without its values, which costs no compilation."""
    return nnx.eval_shape(lambda: tiny(middle, **options))


def nodes(net, kind):
    return [(path, node) for path, node, _ in nn.walk(net) if isinstance(node, kind)]


def parameters(net):
    return dict(nnx.to_flat_state(nnx.state(net, nnx.Param)))


def test_sizes_are_the_published_ones():
    net = nnx.eval_shape(lambda: models.create("xception", rngs=nnx.Rngs(0)))
    cost = convjax.cost(net, (1, 299, 299, 3))
    found = [cost[f"stage{s}"].output_shape for s in (1, 2, 3, 4)]
    # The paper's figure 5; multiply-adds of convolutions and classifier, counted in PyTorch.
    assert found == [(1, 74, 74, 128), (1, 37, 37, 256), (1, 19, 19, 728), (1, 10, 10, 2048)]
    assert f"{cost.multiply_adds / 1e9:.3f}" == "8.357"
    assert len(nodes(net, nn.DepthwiseConv)) == 34


def test_theory_and_cost_see_through_every_leaf():
    net = outline()
    assert not gradflow.predict(net, SHAPE, train=True).unknown
    cost = convjax.cost(net, SHAPE)
    assert not cost.unknown
    assert cost.parameters == sum(p.size for p in jax.tree.leaves(nnx.state(net, nnx.Param)))
    assert "stage4" in repr(net)


def profiled(net, shape):
    x = jax.random.normal(jax.random.key(1), shape)
    found = gradflow.profile(net, x, cotangent=jax.random.key(0), train=True)
    assert set(found.paths) == {path for path, _, _ in nn.walk(net)} | {"input"}
    assert all(unit.gradient.norm > 0 for _, unit in found.items())
    return found


@pytest.mark.later
def test_profile_sees_every_part_of_a_unit():
    unit = tiny().stage2[0]
    found = profiled(unit, (2, 5, 6, unit.branch.conv1.depthwise.kernel.shape[-1]))
    assert "branch/conv2/pointwise" in found.paths
    assert found[""].addition is not None


@pytest.mark.slow
def test_profile_sees_the_whole():
    profiled(tiny(), SHAPE)


def test_the_plain_twin_has_the_same_initial_values():
    plain = parameters(tiny(shortcut="none"))
    for shortcut in ("identity", "gated"):
        other = parameters(tiny(shortcut=shortcut))
        assert plain.keys() <= other.keys()
        assert all("shortcut" in path for path in other.keys() - plain.keys())
        for path, value in plain.items():
            np.testing.assert_array_equal(value[...], other[path][...], err_msg=str(path))


def test_shortcuts_stand_where_they_should():
    kinds = {"identity": nn.Identity, "none": type(None), "scaled": nn.Scale, "gated": nn.Gate}
    across = {"projection": nn.Chain, "zero_pad": nn.ZeroPadShortcut}
    for shortcut, transition in (
        *((shortcut, "projection") for shortcut in kinds),
        ("identity", "zero_pad"),
        ("none", "zero_pad"),
    ):
        net = outline(shortcut=shortcut, transition=transition)
        found = {path: type(node.shortcut) for path, node in nodes(net, nn.Residual)}
        changed = type(None) if shortcut == "none" else across[transition]
        expected = {f"stage{s}/0": changed for s in (1, 2, 3, 4)}
        assert found == {**expected, "stage3/1": kinds[shortcut]}
    twins = [outline(transition="zero_pad", shortcut=s) for s in ("identity", "none")]
    assert parameters(twins[0]).keys() == parameters(twins[1]).keys()


def test_an_output_stride_of_16_keeps_what_a_stride_would_have_kept():
    """At every second place the dilated exit flow is the strided one."""
    strided, dilated = tiny(), tiny(output_stride=16)
    features = strided.stage4[0].branch.conv1.depthwise.kernel.shape[-1]
    x = jax.random.normal(jax.random.key(1), (2, 7, 10, features))
    x = jnp.concatenate([x, -2 * x])
    y, wide = (jax.jit(lambda x, net=net: net.stage4(x))(x) for net in (strided, dilated))
    assert y.shape[1:3] == (4, 5) and wide.shape[1:3] == (7, 10)
    assert float(jnp.std(y)) > 0.01
    np.testing.assert_allclose(wide[:, ::2, ::2], y, rtol=1e-4, atol=1e-5)


def test_the_reference_decides_on_padding_and_epsilon():
    for reference, padding, epsilon in (("torch", (1, 1), 1e-5), ("keras", "SAME", 1e-3)):
        net = outline(reference=reference)
        assert {pool.padding for _, pool in nodes(net, nn.Pool)} == {padding}
        assert {norm.epsilon for _, norm in nodes(net, nn.BatchNorm)} == {epsilon}
        assert all(net.stem[f"conv{i}"].padding == "VALID" for i in (1, 2))


def test_stochastic_depth_grows_from_unit_to_unit():
    net = outline(2, stochastic_depth=0.5)
    rates = [node.rate for _, node in nodes(net, nn.StochasticDepth)]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4, 0.5])  # none at rate 0
    graphdef, state = nnx.split(net)
    x = jax.ShapeDtypeStruct(SHAPE, jnp.float32)

    def run(state, x, seed=None):
        rngs = None if seed is None else nnx.Rngs(dropout=seed)
        return nnx.merge(graphdef, state)(x, train=True, rngs=rngs)

    with pytest.raises(ValueError, match="needs rngs"):
        jax.eval_shape(run, state, x)
    assert jax.eval_shape(lambda state, x: run(state, x, 0), state, x).shape == (2, 5)


def test_norm_width_and_dtype():
    plain = outline(norm="none")
    assert not nodes(plain, nn.BatchNorm)
    assert all(conv.bias is not None for _, conv in nodes(plain, nn.PointwiseConv))
    assert all(conv.bias is None for _, conv in nodes(plain, nn.DepthwiseConv))
    one, two = (parameters(outline(width=width)) for width in (0.25, 0.5))
    assert one.keys() == two.keys()
    for path, value in one.items():
        if path[-1] == "kernel" and path[0] != "head":
            assert two[path].shape[-1] == 2 * value.shape[-1], path
    net = outline(dtype=jnp.bfloat16, in_features=2, dropout=0.5)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(net))} == {jnp.dtype("float32")}
    graphdef, state = nnx.split(net)
    x = jax.ShapeDtypeStruct((*SHAPE[:3], 2), jnp.float32)
    y = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, x)
    assert y.shape == (2, 5) and y.dtype == jnp.bfloat16


def test_a_pair_has_the_gain_of_one_layer():
    net = outline(init="he")
    unit = net.stage3[1].branch.conv1
    assert unit.depthwise.origin.kernel_init.scale == 1.0
    assert unit.pointwise.origin.kernel_init.scale == 2.0


@pytest.mark.every(2)
@pytest.mark.parametrize("reference", ["torch", "keras"])
def test_every_leaf_has_a_name_of_its_own(reference):
    for middle in (1, 9):
        net = outline(middle, reference=reference)
        found = [key_of(net, leaf).name for leaf in leaves(net)]
        assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"middle": 0}, "middle=0 must be at least 1"),
        ({"output_stride": 8}, "output_stride=8 must be 16 or 32, or None for 32"),
        ({"transition": "project"}, "transition='project' is not known; did you mean 'projection'"),
        ({"shortcut": "gate"}, "shortcut='gate' is not known; did you mean 'gated'"),
        ({"reference": "timm"}, "reference='timm' is not known; choose from keras, torch"),
        ({"width": -1.0}, "width=-1.0 must be greater than 0"),
        ({"norm": "btach"}, "norm='btach' is not known; did you mean 'batch'"),
        ({"init": "hee"}, "init='hee' is not known; did you mean 'he'"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        outline(**options)
