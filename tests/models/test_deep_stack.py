"""The stack of equal units: its depth, its twins, its two orders written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convjax import models, nn
from tests.models import by_hand

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 7, 4)), jnp.float32)


def stack(depth=4, width=4, **options):
    return models.deep_stack(depth, width, **{"rngs": nnx.Rngs(3), **options})


def outline(**options):
    """The stack without its values, which costs no compilation."""
    return nnx.eval_shape(lambda: stack(12, **options))


def parameters(net):
    return dict(nnx.to_flat_state(nnx.state(net, nnx.Param)))


def both_modes(x, **options):
    """Make and run the stack in one compilation."""

    @jax.jit
    def run(x):
        net = stack(**options)
        return net(x, train=True), net(x)

    return run(x)


def total(net, *kinds):
    """How often nodes of these kinds are applied."""
    return sum(
        int(np.prod(repeats, dtype=int))
        for _, node, repeats in nn.walk(net)
        if isinstance(node, kinds)
    )


@pytest.mark.every(2)
@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("shortcut", ["identity", "none"])
@pytest.mark.parametrize("conv", ["dense", "separable"])
def test_forward_pass_is_the_one_written_by_hand(order, shortcut, conv):
    net = stack(6, norm="batch", order=order, shortcut=shortcut, conv=conv, use_bias=True)
    units = by_hand.units(by_hand.random_parameters(net), 3)
    unit = jax.jit(by_hand.unit, static_argnums=(2, 3))
    expected = IMAGE
    for parameters in units:
        expected = unit(parameters, expected, order, shortcut)
    np.testing.assert_allclose(net(IMAGE, train=True), expected, rtol=2e-3, atol=2e-3)


def test_branch_and_shortcut_have_factors_of_their_own():
    net = stack(2, shortcut="scaled", shortcut_scale=0.7, branch_scale=-0.3, padding="CIRCULAR")
    plain = stack(2, shortcut="none", padding="CIRCULAR")
    np.testing.assert_allclose(net(IMAGE), 0.7 * IMAGE - 0.3 * plain(IMAGE), rtol=1e-4, atol=1e-5)


@pytest.mark.every(2)
@pytest.mark.parametrize("convs_per_unit", [1, 2, 3])
@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("shortcut", ["identity", "none", "gated"])
def test_depth_counts_convolutions_and_each_has_one_activation(convs_per_unit, order, shortcut):
    options = {"convs_per_unit": convs_per_unit, "order": order, "norm": "layer"}
    dense = outline(**options, shortcut=shortcut)
    assert len(dense) == 12 // convs_per_unit
    gates = total(dense, nn.Gate)
    assert gates == (len(dense) if shortcut == "gated" else 0)
    assert total(dense, nn.Conv) == 12  # a gate's own convolution is part of a leaf
    assert total(dense, nn.Activation) == total(dense, nn.LayerNorm) == 12
    pair = outline(**options, conv="separable")
    assert total(pair, nn.DepthwiseConv) == total(pair, nn.PointwiseConv) == 12
    assert total(pair, nn.Activation) == 12


@pytest.mark.every(2)
@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("conv", ["dense", "separable"])
def test_twins_share_their_parameters_whatever_the_shortcut(order, conv):
    options = {"order": order, "conv": conv, "norm": "batch"}
    plain = parameters(stack(shortcut="none", **options))
    assert parameters(stack(**options)).keys() == plain.keys()
    for shortcut in ("identity", "scaled", "gated", nn.Scale(0.1)):
        other = parameters(stack(shortcut=shortcut, **options))
        for path, value in plain.items():
            np.testing.assert_array_equal(value[...], other[path][...], err_msg=str(path))


@pytest.mark.every(2)
@pytest.mark.parametrize("kernel_size, shape", [((3,), (2, 9)), ((3, 1, 3), (2, 3, 4, 5))])
@pytest.mark.parametrize("shortcut", ["identity", "none", "scaled", "gated"])
def test_one_and_three_spatial_axes(kernel_size, shape, shortcut):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(*shape, 4)), jnp.float32)
    for conv in ("dense", "separable"):
        options = {"kernel_size": kernel_size, "shortcut": shortcut, "conv": conv}
        y, _ = both_modes(x, norm="group", **options)
        assert y.shape == x.shape and jnp.isfinite(y).all()


OPTIONS = [
    *({"norm": name} for name in nn.NORMS),
    *({"init": name} for name in nn.initializers.NAMES if name != "zero"),
    *({"activation": name, "order": "post"} for name in ("tanh", "selu")),
    {"init": jax.nn.initializers.orthogonal(), "conv": "separable", "padding": "CIRCULAR"},
    {"use_bias": True, "convs_per_unit": 1, "shortcut": "gated"},
]


@pytest.mark.every(2)
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_every_option_gives_finite_outputs(options):
    for y in both_modes(IMAGE, **options):
        assert y.shape == IMAGE.shape
        assert jnp.isfinite(y).all() and float(jnp.std(y)) > 0


@pytest.mark.every(2)
@pytest.mark.parametrize("init", ["he", "he_uniform", "glorot"])
def test_a_pair_has_the_gain_of_its_one_activation_once(init):
    mix = 1 / 16 if init == "glorot" else 2 / 16
    for given in (init, nn.initializers.get(init)):
        unit = stack(200, 16, conv="separable", init=given).unit.branch["conv1"]
        np.testing.assert_allclose(np.var(unit["depthwise"].kernel[...]), 1 / 9, rtol=0.05)
        np.testing.assert_allclose(np.var(unit["pointwise"].kernel[...]), mix, rtol=0.05)


def test_without_bias_and_norm_the_stack_is_positively_homogeneous():
    net = stack(8)
    np.testing.assert_allclose(net(4 * IMAGE), 4 * net(IMAGE), rtol=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"depth": 5}, "depth=5 must be a positive multiple of convs_per_unit=2"),
        ({"depth": 0}, "depth=0 must be at least 1"),
        ({"convs_per_unit": 0}, "convs_per_unit=0 must be at least 1"),
        ({"width": 0}, "width=0 must be at least 1"),
        ({"order": "prepost"}, "order='prepost' is not known; .*post, pre"),
        ({"shortcut": "identiy"}, "shortcut='identiy' .* did you mean 'identity'"),
        ({"conv": "seperable"}, "conv='seperable' .* did you mean 'separable'"),
        ({"norm": "grup"}, "norm='grup' .* did you mean 'group'"),
        ({"init": "glorrot"}, "init='glorrot' .* did you mean 'glorot'"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stack(**options)
