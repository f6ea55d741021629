"""The CIFAR residual network: its counts, its twins, its forward pass written out by hand."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import models, nn
from tests.models import by_hand
from tests.models.test_references import shapes_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

TRANSITIONS = ("zero_pad", "projection")
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 12, 3)), jnp.float32)


def tiny(depth=14, **options):
    return models.resnet_cifar(depth, **{"width": 4, "rngs": nnx.Rngs(3), **options})


def outline(depth, **options):
    """The network without its values, which costs no compilation."""
    return nnx.eval_shape(lambda: tiny(depth, **options))


def parameters(net):
    return dict(nnx.to_flat_state(nnx.state(net, nnx.Param)))


def parameter_count(depth, *, width=16, projection=False):
    """Weights of 3x3 convolutions, scale and bias of every norm, the dense head: He's table 6."""

    def conv_and_norm(window, fan_in, fan_out):
        return window * fan_in * fan_out + 2 * fan_out

    count, channels = conv_and_norm(9, 3, width), width
    for features in (width, 2 * width, 4 * width):
        for _ in range((depth - 2) // 6):
            count += conv_and_norm(9, channels, features) + conv_and_norm(9, features, features)
            if projection and channels != features:
                count += conv_and_norm(1, channels, features)
            channels = features
    return count + channels * 10 + 10


@pytest.mark.parametrize(
    "depth, millions",
    [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.7"), (1202, "19.4")],
)
def test_parameters_are_as_many_as_in_the_paper(depth, millions):
    for transition in TRANSITIONS:
        state = jax.eval_shape(
            lambda transition=transition: nnx.state(
                models.resnet_cifar(depth, transition=transition, rngs=nnx.Rngs(0)), nnx.Param
            )
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(state))
        assert count == parameter_count(depth, projection=transition == "projection")
        if transition == "zero_pad":
            assert f"{count / 1e6:.{len(millions.split('.')[1])}f}" == millions


@pytest.mark.every(2)
@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("shortcut", ["identity", "none"])
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_forward_pass_is_the_one_written_by_hand(order, shortcut, transition):
    net = tiny(order=order, shortcut=shortcut, transition=transition)
    by_paper = jax.jit(by_hand.resnet, static_argnums=(2, 3))
    expected = by_paper(by_hand.random_parameters(net), IMAGE, order, shortcut)
    graphdef, state = nnx.split(net)
    y = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x, train=True))(state, IMAGE)
    assert float(jnp.std(expected)) > 0.1
    np.testing.assert_allclose(y, expected, rtol=2e-3, atol=2e-4)


@pytest.mark.every(2)
@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("options", [{}, {"norm": "none"}, {"conv": "separable"}])
def test_the_plain_twin_has_the_same_parameters_and_the_same_initial_values(order, options):
    residual, plain = (
        tiny(order=order, shortcut=shortcut, **options) for shortcut in ("identity", "none")
    )
    assert parameters(residual).keys() == parameters(plain).keys()
    for path, value in parameters(residual).items():
        np.testing.assert_array_equal(value[...], parameters(plain)[path][...], err_msg=str(path))


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_shared_parameters_agree_whatever_the_shortcut(transition):
    plain = parameters(tiny(shortcut="none", transition=transition))
    for shortcut in ("identity", "scaled", "gated"):
        other = parameters(tiny(shortcut=shortcut, transition=transition))
        assert plain.keys() <= other.keys()
        assert all("shortcut" in path for path in other.keys() - plain.keys())
        for path, value in plain.items():
            np.testing.assert_array_equal(value[...], other[path][...], err_msg=str(path))


def activations(net):
    return sum(
        int(np.prod(repeats, dtype=int))
        for _, node, repeats in nn.walk(net)
        if isinstance(node, nn.Activation)
    )


@pytest.mark.parametrize("order", ["pre", "post"])
def test_twins_have_as_many_activations(order):
    for depth in (8, 20):
        counts = {
            activations(outline(depth, order=order, shortcut=shortcut))
            for shortcut in ("identity", "none", "scaled")
        }
        assert counts == {depth - 1}


@pytest.mark.parametrize("shortcut", ["identity", "scaled", "gated"])
def test_a_projection_stands_only_where_the_shape_changes(shortcut):
    kept = {"identity": nn.Identity, "scaled": nn.Scale, "gated": nn.Gate}[shortcut]
    for transition, across in (("zero_pad", nn.ZeroPadShortcut), ("projection", nn.Chain)):
        net = outline(20, shortcut=shortcut, transition=transition)
        beside = {p: type(n) for p, n, _ in nn.walk(net) if p.endswith("/shortcut")}
        assert beside == {
            "stage1/rest/*/shortcut": kept,
            "stage2/first/shortcut": across,
            "stage2/rest/*/shortcut": kept,
            "stage3/first/shortcut": across,
            "stage3/rest/*/shortcut": kept,
        }


def test_there_are_as_many_weighted_layers_as_the_depth_says():
    for depth in (8, 14, 20):
        layers = [
            int(np.prod(repeats, dtype=int))
            for path, node, repeats in nn.walk(outline(depth))
            if isinstance(node, nn.Conv | nn.Dense)
        ]
        assert sum(layers) == depth


OPTIONS = [
    {"num_classes": 7, "in_features": 3},
    *({"shortcut": name} for name in ("scaled", "gated")),
    *({"shortcut": name, "transition": "projection", "order": "pre"} for name in ("none", "gated")),
    *({"norm": name} for name in ("none", "group", "layer")),
    *({"init": name} for name in ("orthogonal", "delta_orthogonal", "dirac", "torch")),
    {"init": jax.nn.initializers.he_normal(), "activation": "gelu"},
    {"conv": "separable", "transition": "projection"},
    {"conv": "separable", "norm": "none", "order": "pre", "padding": "CIRCULAR"},
    {"branch_scale": 0.3, "shortcut": "scaled", "shortcut_scale": 0.9},
]


@pytest.mark.every(4)
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_every_option_gives_finite_outputs(options):
    @jax.jit
    def run(x):
        net = tiny(8, **options)
        return net(x, train=True), net(x)

    for y in run(IMAGE):
        assert y.shape == (3, options.get("num_classes", 10))
        assert jnp.isfinite(y).all() and float(jnp.std(y)) > 0


def test_dtypes_reach_every_part():
    for options in ({"shortcut": "gated", "transition": "projection"}, {"conv": "separable"}):
        net = outline(14, dtype=jnp.bfloat16, **options)
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(net))} == {jnp.dtype("float32")}
        y = jax.eval_shape(lambda x, o=options: tiny(14, dtype=jnp.bfloat16, **o)(x), IMAGE)
        assert y.dtype == jnp.bfloat16
        net = outline(14, param_dtype=jnp.bfloat16, **options)
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(net))} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"depth": 21}, "depth=21 is not 6n + 2 with n at least 1; the nearest is 20"),
        ({"depth": 1200}, "the nearest is 1202"),
        ({"depth": 2}, "the nearest is 8"),
        ({"depth": -4}, "depth=-4 must be at least 1"),
        ({"order": "past"}, "order='past' is not known; did you mean 'post'"),
        ({"transition": "project"}, "transition='project' is not known; did you mean 'projection'"),
        ({"shortcut": "gate"}, "shortcut='gate' is not known; did you mean 'gated'"),
        ({"norm": "btach"}, "norm='btach' is not known; did you mean 'batch'"),
        ({"conv": "dens"}, "conv='dens' is not known; did you mean 'dense'"),
        ({"activation": "reluu"}, "activation='reluu' is not known; did you mean 'relu'"),
        ({"init": "hee"}, "init='hee' is not known; did you mean 'he'"),
        ({"width": 0}, "width=0 must be at least 1"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny(**{"depth": 8, **options})


def test_names_and_sizes_are_those_of_keras_s_example_and_of_mlperf_tiny():
    net = nnx.eval_shape(
        lambda: models.resnet_cifar(8, reference="keras", transition="projection", rngs=nnx.Rngs(0))
    )
    shapes = shapes_of(net)
    # Keras counts convolutions as they were made: a projection after its unit's branch.
    assert shapes["conv2d:3/kernel"] == (3, 3, 16, 32) and shapes["conv2d:4/bias"] == (32,)
    assert shapes["conv2d:5/kernel"] == (1, 1, 16, 32) and shapes["conv2d:8/bias"] == (64,)
    assert shapes["batch_normalization:6/gamma"] == (64,) and len(shapes) == 2 * 9 + 4 * 7 + 2
    assert sum(math.prod(shape) for shape in shapes.values()) == 78_666
    deep = nnx.eval_shape(
        lambda: models.resnet_cifar(
            20, reference="keras", transition="projection", rngs=nnx.Rngs(0)
        )
    )
    # As the example's summary at n = 3 has it.
    assert sum(math.prod(shape) for shape in shapes_of(deep).values()) == 274_442
    with pytest.raises(ValueError, match="order='pre', conv='dense': Keras has order='post'"):
        models.resnet_cifar(8, reference="keras", order="pre", rngs=nnx.Rngs(0))
