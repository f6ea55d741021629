"""ResNets: every option changes what it says and nothing else; names and how they are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import gradflow, models, nn

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = {"units": (1, 2, 1, 1), "width": 8, "num_classes": 5}


def tiny(seed=0, **options):
    return models.resnet(**{**TINY, **options}, rngs=nnx.Rngs(seed))


def outline(**options):
    return nnx.eval_shape(lambda: tiny(**options))


def output(size, **options):
    """The shape after the last stage, without computing it."""
    graphdef, state = nnx.split(outline(**options))
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)

    def last(state, x):
        return models.features(nnx.merge(graphdef, state), x, "stage4")["stage4"]

    return jax.eval_shape(last, state, image).shape


def arrays(net):
    return {
        "/".join(map(str, path)): np.asarray(leaf.get_value())
        for path, leaf in nnx.to_flat_state(nnx.state(net, nnx.Param))
    }


@pytest.mark.parametrize("other", ["none", "scaled"])
@pytest.mark.parametrize("transition", ["projection", "zero_pad"])
def test_another_shortcut_leaves_the_rest_as_it_is(other, transition):
    make = {"bottleneck": False, "transition": transition}
    whole, twin = arrays(tiny(**make)), arrays(tiny(**make, shortcut=other))
    gone = {path for path in whole if "/shortcut/" in path}
    assert bool(gone) == (transition == "projection")
    assert set(twin) == (set(whole) - gone if other == "none" else set(whole))
    for path, array in twin.items():
        np.testing.assert_array_equal(array, whole[path], err_msg=path)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_plain_is_the_branch_alone(bottleneck):
    unit = tiny(bottleneck=bottleneck, shortcut="none").stage2[1]
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 16 * (4 if bottleneck else 1)))
    np.testing.assert_allclose(unit(x), jax.nn.relu(unit.branch(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("output_stride, side", [(None, (2, 3)), (16, (4, 5)), (8, (8, 9))])
def test_output_stride(bottleneck, output_stride, side):
    shape = output((64, 72), bottleneck=bottleneck, output_stride=output_stride)
    assert shape == (2, *side, 64 * (4 if bottleneck else 1))


def test_where_a_bottleneck_strides():
    for reference, where in (("torch", "conv2"), ("keras", "conv1")):
        branch = outline(reference=reference).stage2[0].branch
        strides = {name: branch[name].strides for name in ("conv1", "conv2", "conv3")}
        assert strides == {name: 2 if name == where else 1 for name in strides}
    assert outline(strides_on="reduce").stage2[0].branch.conv1.strides == 2


def test_groups_and_width_of_the_middle():
    branch = outline(width=64, groups=32, group_width=4).stage2[0].branch
    assert branch.conv2.kernel.shape == (3, 3, 8, 256)
    assert outline(group_width=128).stage1[0].branch.conv2.kernel.shape == (3, 3, 16, 16)


def test_stems_and_squeezes_of_the_variants():
    stem = outline(width=64, stem="tiered").stem
    assert [stem[f"conv{i}"].kernel.shape[-1] for i in (1, 2, 3)] == [24, 32, 64]
    assert output((64, 70), stem="unpadded")[1:3] == output((64, 70))[1:3] == (2, 3)
    assert outline(stem="unpadded").stem.pool.padding == ((0, 1), (0, 1))
    for divisor, middle in ((8, 8), (1, 4), (3, 3)):
        unit = outline(width=64, bottleneck=False, squeeze=True, squeeze_divisor=divisor).stage1[0]
        assert unit.branch.squeeze.reduce.kernel.shape[-2:] == (64, middle)


def test_a_silent_branch_is_the_identity_at_birth():
    unit = tiny(zero_init=True, bottleneck=False).stage2[1]
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 16))
    np.testing.assert_array_equal(unit(x, train=True), jax.nn.relu(x))


def test_norms_and_biases():
    for norm, biases in (("batch", False), ("none", True), ("group", False)):
        net = outline(norm=norm)
        convs = [v.node for v in nn.walk(net) if isinstance(v.node, nn.Conv | nn.PointwiseConv)]
        assert {conv.bias is not None for conv in convs} == {biases}
    assert any(isinstance(v.node, nn.GroupNorm) for v in nn.walk(net))


@pytest.mark.later
def test_stochastic_depth_rises_and_draws():
    net = tiny(stochastic_depth=0.4, bottleneck=False)
    rates = [v.node.rate for v in nn.walk(net) if isinstance(v.node, nn.StochasticDepth)]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4])
    assert outline(stochastic_depth=0.4).stage1[0].branch.names[-1] == "norm3"
    x = jax.random.normal(jax.random.key(0), (2, 33, 40, 3))
    one, two = (net(x, train=True, rngs=nnx.Rngs(dropout=i)) for i in (0, 3))
    assert not np.allclose(one, two)


def test_half_precision_computes_and_keeps_its_parameters():
    net = tiny(dtype=jnp.bfloat16, bottleneck=False)
    x = jax.random.normal(jax.random.key(0), (2, 33, 40, 3))
    assert net(x).dtype == jnp.bfloat16
    assert {array.dtype for array in arrays(net).values()} == {jnp.dtype("float32")}


def test_the_interpreters_see_through_it():
    options = {"squeeze": True, "stem": "deep", "pooled_shortcut": True, "bottleneck": False}
    net = tiny(units=(1, 1), **options)
    x = jax.random.normal(jax.random.key(0), (4, 40, 33, 3))
    prediction = gradflow.predict(net, x, train=True)
    assert prediction["stage2/0"].gradient_gain is not None
    cost = convjax.cost(net, x.shape)
    assert cost["stage2"].output_shape == (4, 5, 5, 16)
    profile = gradflow.profile(net, x, cotangent=jax.random.key(1), train=True)
    assert np.isfinite(profile["stem/conv1"].gradient.log_norm)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stem": "5x5"}, "stem='5x5' is not known"),
        ({"transition": "project"}, "transition='project' is not known; did you mean 'projection'"),
        ({"strides_on": "expand"}, "strides_on='expand' is not known"),
        ({"reference": "jax"}, "reference='jax' is not known; choose from keras, torch"),
        ({"reference": "keras", "pooled_shortcut": True}, "choose from torch"),
        ({"bottleneck": False, "groups": 32}, "groups=32 and group_width=64 are those of a bott"),
        ({"output_stride": 2}, "output_stride=2 must be a power of two, at least 4"),
        ({"output_stride": 12}, "output_stride=12 must be a power of two"),
        ({"norm": "btach"}, "norm='btach' is not known; did you mean 'batch'"),
        ({"width": 0}, "width=0 must be at least 1"),
        ({"units": ()}, "units is empty"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and less than 1"),
        ({"shortcut": "none", "stochastic_depth": 0.1}, "with shortcut='none' nothing stands"),
    ],
)
def test_bad_options_are_refused(options, message):
    words = (
        r"name='resnet5' is not known; did you mean 'resnet50'[^?]*\? models\.list\(\) gives all"
    )
    with pytest.raises(ValueError, match=words):
        models.create("resnet5", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"resnet50 \(models.resnet\): option='shortcuts' is not"):
        models.create("resnet50", shortcuts="none", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="pattern='vit\\*' is not known"):
        models.list("vit*")


def test_preprocessing_is_refused_where_there_are_no_weights():
    assert models.preprocessing("resnet50", reference="keras").order == "BGR"
    with pytest.raises(ValueError, match="name='resnet18': keras has no weights of it"):
        models.preprocessing("resnet18", reference="keras")
    with pytest.raises(ValueError, match="reference='flax' is not known"):
        models.preprocessing("resnet18", reference="flax")
