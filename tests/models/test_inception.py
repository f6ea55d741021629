"""The Inception networks: published sizes, options, names, twins."""

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

# As small as they come; and the smallest image that every pool still finds a window in.
TINY = {
    "inception_v1": ({}, (2, 40, 32, 3)),
    "inception_v3": ({}, (2, 75, 80, 3)),
    "inception_v4": ({"units": (1, 1, 1)}, (2, 75, 80, 3)),
    "inception_resnet_v2": ({"units": (1, 1, 1)}, (2, 80, 75, 3)),
}
every_network = pytest.mark.parametrize("name", TINY)
SLOW = ("inception_v3", "inception_v4")  # what the quick ones have too
quick_and_slow = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TINY]
)
# All are built by the same builder.
two_networks = pytest.mark.parametrize("name", ["inception_v1", "inception_resnet_v2"])


def tiny(name, **options):
    small = {"width": 0.04, "num_classes": 5, "rngs": nnx.Rngs(3)}
    return getattr(models, name)(**{**small, **TINY[name][0], **options})


@functools.cache
def outline(name, **options):
    """The network without its values, which costs no compilation."""
    return nnx.eval_shape(lambda: tiny(name, **options))


def nodes(net, kind):
    return [(path, node) for path, node, _ in nn.walk(net) if isinstance(node, kind)]


def shapes(net):
    flat = nnx.to_flat_state(nnx.state(net, nnx.Param))
    return {"/".join(map(str, path)): value.shape for path, value in flat}


@pytest.mark.parametrize(
    "name, size, billions, stages",
    [
        # Multiply-adds of convolutions and classifier, counted in PyTorch; stages as in the papers.
        ("googlenet", 224, "1.498", [(28, 480), (14, 832), (7, 1024)]),
        ("inception_v3", 299, "5.713", [(35, 288), (17, 768), (8, 2048)]),
        pytest.param(
            *("inception_v4", 299, "12.254", [(35, 384), (17, 1024), (8, 1536)]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("inception_resnet_v2", 299, "13.156", [(35, 320), (17, 1088), (8, 2080)]),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_sizes_are_the_published_ones(name, size, billions, stages):
    net = nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0)))
    cost = convjax.cost(net, (1, size, size, 3))
    found = [cost[f"stage{s}"].output_shape for s in (1, 2, 3)]
    assert found == [(1, side, side, features) for side, features in stages]
    assert f"{cost.multiply_adds / 1e9:.3f}" == billions


@pytest.mark.every(2)
@quick_and_slow
def test_theory_and_cost_see_through_every_leaf(name):
    net, shape = outline(name), TINY[name][1]
    assert not gradflow.predict(net, shape, train=True).unknown
    cost = convjax.cost(net, shape)
    assert not cost.unknown
    assert cost.parameters == sum(map(np.prod, shapes(net).values()))
    assert "stage3" in repr(net)


def profiled(net, shape):
    x = jax.random.normal(jax.random.key(1), shape)
    found = gradflow.profile(net, x, cotangent=jax.random.key(0), train=True)
    assert set(found.paths) == {path for path, _, _ in nn.walk(net)} | {"input"}
    assert all(unit.gradient.norm > 0 for _, unit in found.items())
    return found


@pytest.mark.later
def test_profile_sees_every_branch_of_a_unit():
    unit = tiny("inception_resnet_v2").stage2[1]
    found = profiled(unit, (2, 5, 6, unit.branch.conv.kernel.shape[-1]))
    assert "branch/mixed/7x7/conv3" in found.paths
    assert found[""].addition is not None


@pytest.mark.slow
@two_networks
def test_profile_sees_the_whole(name):
    profiled(tiny(name), TINY[name][1])


def test_the_plain_twin_has_the_same_parameters_and_the_same_initial_values():
    plain = dict(nnx.to_flat_state(nnx.state(tiny("inception_resnet_v2", shortcut="none"))))
    for shortcut in ("identity", "gated"):
        other = dict(nnx.to_flat_state(nnx.state(tiny("inception_resnet_v2", shortcut=shortcut))))
        more = other.keys() - plain.keys()
        assert plain.keys() <= other.keys() and bool(more) == (shortcut == "gated")
        assert all("shortcut" in path for path in more)
        for path, value in plain.items():
            np.testing.assert_array_equal(value[...], other[path][...], err_msg=str(path))


@pytest.mark.later
def test_shortcut_scale_and_branch_scales():
    kinds = {"identity": nn.Identity, "none": type(None), "scaled": nn.Scale, "gated": nn.Gate}
    for shortcut, kind in kinds.items():
        net = outline("inception_resnet_v2", units=(2, 1, 3), shortcut=shortcut, shortcut_scale=0.7)
        units = dict(nodes(net, nn.Residual))
        assert {path: unit.scale for path, unit in units.items()} == {
            "stage1/1": 0.17,
            "stage1/2": 0.17,
            "stage2/1": 0.1,
            "stage3/1": 0.2,
            "stage3/2": 0.2,
            "stage3/3": 1.0,
        }
        assert [p for p, unit in units.items() if unit.activation is None] == ["stage3/3"]
        assert {type(unit.shortcut) for unit in units.values()} == {kind}
        if shortcut == "scaled":
            assert {unit.shortcut.value for unit in units.values()} == {0.7}
    net = outline("inception_resnet_v2", branch_scales=(1.0, 0.5, 0.3))
    assert [unit.scale for _, unit in nodes(net, nn.Residual)] == [1.0, 0.5, 1.0]


@pytest.mark.later
def test_stochastic_depth_grows_and_skips_whole_examples():
    net = outline("inception_resnet_v2", units=(2, 2, 1), stochastic_depth=0.8)
    rates = [node.rate for _, node in nodes(net, nn.StochasticDepth)]
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.6, 0.8])  # none at rate 0
    unit = tiny("inception_resnet_v2", stochastic_depth=0.8).stage2[1]
    features = unit.branch.conv.kernel.shape[-1]
    x = jax.random.normal(jax.random.key(0), (40, 3, 4, features))
    graphdef, state = nnx.split(unit)
    assert unit.branch.drop.rate == pytest.approx(0.4)

    @jax.jit
    def run(state, key):
        return nnx.merge(graphdef, state)(x, train=True, rngs=nnx.Rngs(dropout=key))

    y, other = (run(state, jax.random.key(seed)) for seed in (1, 2))
    skipped = [jnp.all(out == jax.nn.relu(x), axis=(1, 2, 3)) for out in (y, other)]
    assert all(5 < int(s.sum()) < 28 for s in skipped)
    assert bool(jnp.any(skipped[0] != skipped[1]))
    with pytest.raises(ValueError, match="needs rngs"):
        unit(x[:1], train=True)


@pytest.mark.every(2)
@every_network
def test_without_norm_every_convolution_has_a_bias(name):
    kinds = (nn.Conv, nn.PointwiseConv)
    plain = outline(name, norm="none")
    assert not nodes(plain, nn.BatchNorm)
    assert all(conv.bias is not None for _, conv in nodes(plain, kinds))
    normed = nodes(outline(name), kinds)
    biased = [path for path, conv in normed if conv.bias is not None]
    assert len(normed) > 40
    if name == "inception_resnet_v2":
        assert biased == [f"stage{s}/1/branch/conv" for s in (1, 2, 3)]
    else:
        assert not biased


@pytest.mark.parametrize("norm, kind", [("group", nn.GroupNorm), ("layer", nn.LayerNorm)])
def test_norms_are_of_the_kind_asked_for(norm, kind):
    net = outline("inception_v4", norm=norm)
    assert not nodes(net, nn.BatchNorm)
    assert len(nodes(net, kind)) == len(nodes(outline("inception_v4"), nn.BatchNorm))


@pytest.mark.parametrize("name", ["inception_v3", "inception_resnet_v2"])
def test_keras_has_norms_without_scale_and_means_without_padding(name):
    for reference in ("torch", "keras"):
        net = outline(name, reference=reference)
        keras = reference == "keras"
        norms = [norm for _, norm in nodes(net, nn.BatchNorm)]
        assert {norm.epsilon for norm in norms} == {1e-3}
        assert {norm.momentum for norm in norms} == {0.99 if keras else 0.9}
        assert all((norm.scale is None) == keras and norm.bias is not None for norm in norms)
        means = {p.count_include_pad for _, p in nodes(net, nn.Pool) if p.kind == "avg"}
        assert means == {name == "inception_v3" and not keras}


@pytest.mark.every(2)
@two_networks
def test_width_is_a_factor_on_every_channel_count(name):
    one, two = (shapes(outline(name, width=width, num_classes=7)) for width in (0.25, 0.5))
    assert one.keys() == two.keys()
    for path, shape in one.items():
        if path.startswith("head/dense"):
            assert two[path][-1] == shape[-1] == 7
        elif path.endswith("kernel"):
            first = path == "stem/conv1/kernel"
            expected = (shape[2] if first else 2 * shape[2], 2 * shape[3])
            assert two[path] == (*shape[:2], *expected), path


def test_the_window_of_the_third_branch():
    for window in (3, 5):
        net = outline("inception_v1", window=window)
        windows = [net[f"stage{s}"]["1"]["5x5"].conv2.kernel.shape[:2] for s in (1, 2, 3)]
        assert windows == [(window, window)] * 3


@pytest.mark.every(2)
@two_networks
def test_dtypes_classes_and_dropout(name):
    shape = TINY[name][1]
    options = {"dtype": jnp.bfloat16, "num_classes": 9, "in_features": 2, "dropout": 0.5}
    net = outline(name, **options)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(net))} == {jnp.dtype("float32")}
    graphdef, state = nnx.split(net)
    x = jax.ShapeDtypeStruct((*shape[:3], 2), jnp.float32)

    def run(state, x, train=False, rngs=None):
        return nnx.merge(graphdef, state)(x, train=train, rngs=rngs)

    y = jax.eval_shape(run, state, x)
    assert y.shape == (2, 9) and y.dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=re.escape("Dropout(rate=0.5) with train=True needs rngs")):
        jax.eval_shape(lambda state, x: run(state, x, train=True), state, x)


def names_there(net):
    return [key_of(net, leaf).name for leaf in leaves(net)]


@pytest.mark.parametrize(
    "name, options",
    [
        ("inception_v4", {"units": (1, 2, 2)}),
        ("inception_resnet_v2", {"units": (2, 1, 3)}),
        ("inception_resnet_v2", {"units": (2, 1, 3), "reference": "keras"}),
    ],
)
def test_other_counts_of_units_have_names_of_their_own(name, options):
    found = names_there(outline(name, **options))
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    "name, named",
    [
        ("inception_v3", 0),
        ("inception_resnet_v2", 3 + 1),
    ],  # one of each residual unit, and the last
)
def test_keras_numbers_convolutions_in_the_order_of_the_pass(name, named):
    net = outline(name, reference="keras")
    kernels = {key_of(net, leaf).name: leaf.path for leaf in leaves(net) if leaf.weight == "kernel"}
    numbered = len(kernels) - named - 1  # the classifier
    assert "predictions/kernel" in kernels
    order = [path for path, _, _ in nn.walk(net)]
    counted = [order.index(kernels[f"conv2d:{n}/kernel"]) for n in range(numbered)]
    assert counted == sorted(counted)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("inception_v1", {"window": 7}, "window=7 must be 3 (torchvision) or 5 (the paper)"),
        ("inception_v1", {"reference": "keras"}, "reference='keras' is not known"),
        ("inception_v1", {"norm": "btach"}, "norm='btach' is not known; did you mean 'batch'"),
        ("inception_v3", {"reference": "timm"}, "choose from keras, torch"),
        ("inception_v3", {"width": 0.0}, "width=0.0 must be greater than 0"),
        ("inception_v3", {"activation": "reluu"}, "activation='reluu' is not known"),
        ("inception_v4", {"units": (1, 1)}, "units=(1, 1) must be three integers of at least 1"),
        ("inception_v4", {"units": (1, 0, 1)}, "units[1]=0 must be at least 1"),
        ("inception_v4", {"init": "hee"}, "init='hee' is not known; did you mean 'he'"),
        ("inception_resnet_v2", {"units": (3,)}, "units=(3,) must be three"),
        (
            "inception_resnet_v2",
            {"branch_scales": (1.0,)},
            "branch_scales=(1.0,) has 1 entries; it must have 3",
        ),
        ("inception_resnet_v2", {"shortcut": "gate"}, "shortcut='gate' is not known"),
        ("inception_resnet_v2", {"num_classes": -1}, "num_classes=-1 must be at least 0"),
    ],
)
def test_bad_input_is_refused(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        outline(name, **options)
