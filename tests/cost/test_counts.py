"""Counts against hand-made numbers, XLA's own, and published ones."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import convjax
from convjax import models, nn, ops
from experiments.benchmarks import networks
from tests.cost.small import abstract, conv
from tests.nn import registry

# The input is 2 x 9 x 7 x 3: counts are written as examples * places * taps * channels.
BY_HAND = {
    "conv": (conv, 2 * (7 * 6) * (3 * 2) * 3 * 8, 3 * 2 * 3 * 8),
    "bias": (lambda r: conv(r, use_bias=True), 2 * (7 * 6) * (3 * 2) * 3 * 8, 3 * 2 * 3 * 8 + 8),
    "same": (lambda r: conv(r, padding="SAME"), 2 * (9 * 7) * (3 * 2) * 3 * 8, 3 * 2 * 3 * 8),
    "strided": (lambda r: conv(r, strides=(2, 1)), 2 * (4 * 6) * 6 * 3 * 8, 3 * 2 * 3 * 8),
    "dilated": (lambda r: conv(r, kernel_dilation=(2, 3)), 2 * (5 * 4) * 6 * 3 * 8, 6 * 3 * 8),
    "grouped": (lambda r: conv(r, (3, 6), feature_group_count=3), 2 * 42 * 6 * 1 * 6, 6 * 1 * 6),
    "depthwise": (
        lambda r: nn.DepthwiseConv(3, (3, 2), channel_multiplier=2, padding=(1, 0), rngs=r),
        2 * (9 * 6) * (3 * 2) * 6,
        3 * 2 * 6 + 6,
    ),
    "pointwise": (
        lambda r: nn.PointwiseConv(3, 5, strides=2, rngs=r),
        2 * (5 * 4) * 3 * 5,
        3 * 5 + 5,
    ),
    "separable": (
        lambda r: nn.separable_conv(3, 5, (3, 2), rngs=r),
        2 * (9 * 7) * (3 * 2 * 3 + 3 * 5),
        3 * 2 * 3 + 3 * 5 + 5,
    ),
    "transposed": (
        lambda r: nn.ConvTranspose(3, 4, (3, 2), strides=2, rngs=r),
        2 * (9 * 7) * (3 * 2) * 3 * 4,
        3 * 2 * 3 * 4 + 4,
    ),
    "transposed in groups": (
        lambda r: nn.ConvTranspose(3, 6, (3, 2), kernel_dilation=2, feature_group_count=3, rngs=r),
        2 * (9 * 7) * (3 * 2) * 1 * 6,
        3 * 2 * 1 * 6 + 6,
    ),
    "dense": (lambda r: nn.Dense(3, 5, rngs=r), 2 * 9 * 7 * 3 * 5, 3 * 5 + 5),
    "squeeze": (
        lambda r: nn.SqueezeExcite(3, 2, rngs=r),
        2 * (3 * 2 + 2 * 3),
        3 * 2 + 2 + 2 * 3 + 3,
    ),
    "gate": (lambda r: nn.Gate(3, kernel_size=(3, 1), rngs=r), 2 * 9 * 7 * 3 * 3 * 3, 27 + 3),
    "norm": (lambda r: nn.BatchNorm(3, rngs=r), 0, 6),
    "pool": (lambda r: nn.Pool("max", (2, 3)), 0, 0),
    "global pool": (lambda r: nn.GlobalPool("max"), 0, 0),
    "zero pad": (lambda r: nn.ZeroPadShortcut(3, 5, strides=2), 0, 0),
    "dropout": (lambda r: nn.Dropout(0.5), 0, 0),
    "learned scale": (lambda r: nn.Scale(0.0, learnable=True), 0, 1),
    "layer scale": (lambda r: nn.Scale(1e-6, learnable=True, features=3), 0, 3),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_counts_by_hand(name):
    make, multiply_adds, parameters = BY_HAND[name]
    found = convjax.cost(abstract(make), (2, 9, 7, 3))
    assert (found.multiply_adds, found.parameters) == (multiply_adds, parameters)
    assert not found.unknown


def xla_flops(net, shape):
    graphdef, state = nnx.split(net)
    with ops.default_lowering("lax"):
        lowered = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x)).lower(
            state, jax.ShapeDtypeStruct(shape, jnp.float32)
        )
    analysis = lowered.cost_analysis()
    assert analysis is not None
    return analysis["flops"]


def test_two_flops_for_each_multiply_add_as_xla_counts_them():
    net = abstract(
        lambda rngs: nn.Chain(
            conv=conv(rngs),
            grouped=conv(rngs, (8, 6), (2, 2), feature_group_count=2, kernel_dilation=2),
            transposed=nn.ConvTranspose(
                6, 4, (3, 2), strides=2, padding="VALID", use_bias=False, rngs=rngs
            ),
            dense=nn.Dense(4, 7, use_bias=False, rngs=rngs),
        )
    )
    found = convjax.cost(net, (2, 9, 7, 3))
    assert found.flops == 2 * found.multiply_adds == xla_flops(net, (2, 9, 7, 3))


def test_flops_are_those_of_xla_with_biases_activations_pools_and_additions():
    def relu():
        return nn.Activation("relu")

    net = abstract(
        lambda rngs: nn.Chain(
            conv=conv(rngs, use_bias=True),
            unit=nn.Residual(
                nn.Chain(relu=relu(), mix=nn.PointwiseConv(8, 8, rngs=rngs)), scale=0.5
            ),
            scaled=nn.Residual(relu(), nn.Scale(0.5)),
            plain=nn.Residual(relu(), "none", scale=0.5),
            pool=nn.Pool("avg", (2, 3)),
            mean=nn.GlobalPool("avg"),
            dense=nn.Dense(8, 5, rngs=rngs),
        )
    )
    assert convjax.cost(net, (2, 9, 7, 3)).flops == xla_flops(net, (2, 9, 7, 3))


def test_xla_leaves_out_the_taps_on_padding_and_published_tables_do_not():
    net = abstract(lambda rngs: conv(rngs, padding="SAME"))
    assert convjax.cost(net, (2, 9, 7, 3)).flops == 2 * 2 * (9 * 7) * (3 * 2) * 3 * 8
    on_the_image = 2 * (9 * 3 - 2) * (7 * 2 - 1) * 3 * 8
    assert xla_flops(net, (2, 9, 7, 3)) == 2 * on_the_image


# Multiply-adds and parameters, as the papers and timm give them, with half a last digit.
PUBLISHED = {
    "MobileNetV1": (networks.mobilenet_v1, 224, (569e6, 0.5e6), (4.2e6, 0.05e6)),
    "MobileNetV2": (networks.mobilenet_v2, 224, (300e6, 1e6), (3.5e6, 0.05e6)),
    "ResNet-50": (networks.resnet_50, 224, (4.09e9, 0.005e9), (25.56e6, 0.005e6)),
    "Xception": (networks.xception, 299, (8.4e9, 0.05e9), (22.9e6, 0.05e6)),
}


@pytest.mark.every(2)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
    make, side, (multiply_adds, near), (parameters, close) = PUBLISHED[name]
    found = convjax.cost(abstract(lambda rngs: make(rngs=rngs)), (1, side, side, 3))
    assert abs(found.multiply_adds - multiply_adds) < near
    assert abs(found.parameters - parameters) < close


@pytest.mark.parametrize(
    "depth, multiply_adds, parameters",
    [(20, 40.55e6, 0.27e6), (56, 125.5e6, 0.85e6), (1202, 2.83e9, 19.4e6)],
)
def test_published_counts_of_residual_networks_for_cifar(depth, multiply_adds, parameters):
    net = abstract(lambda rngs: models.resnet_cifar(depth, rngs=rngs))
    found = convjax.cost(net, (1, 32, 32, 3))
    assert found.multiply_adds == pytest.approx(multiply_adds, rel=1e-3)
    assert found.parameters == pytest.approx(parameters, rel=5e-3)
    n = (depth - 2) // 6
    # The stem 3; two windows in each unit, adding 2 places as far apart as the strides so far.
    size = 3 + 4 * n + (2 + 4) + 8 * (n - 1) + (4 + 8) + 16 * (n - 1)
    assert found["stage3"].receptive_field.tolist() == [size, size]
    assert found["stage3"].stride == (4, 4)


@pytest.mark.parametrize("name", registry.CASES)
def test_every_node_is_priced(name):
    net, shape = abstract(registry.CASES[name].make), registry.CASES[name].shape
    found = convjax.cost(net, shape)
    assert not found.unknown
    graphdef, state = nnx.split(net)
    whole = jax.eval_shape(
        lambda state, x: nnx.merge(graphdef, state)(x),
        state,
        jax.ShapeDtypeStruct(shape, jnp.float32),
    )
    assert found.total.output_shape == whole.shape
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(net, nnx.Param))]
    assert found.parameters == sum(sizes)


def test_bytes_by_hand():
    net = abstract(
        lambda rngs: nn.Chain(
            conv=conv(rngs, use_bias=True),
            norm=nn.BatchNorm(8, rngs=rngs),
            same=nn.Identity(),
            unit=nn.Residual(nn.Chain(relu=nn.Activation("relu"))),
            sides=nn.Parallel(a=nn.Activation("linear"), b=nn.Dropout(0.0)),
        )
    )
    found = convjax.cost(net, (2, 9, 7, 3))
    x, kernel, y = 4 * 2 * 9 * 7 * 3, 4 * (3 * 2 * 3 * 8 + 8), 4 * 2 * 7 * 6 * 8
    rows = {path: (unit.traffic_bytes, unit.activation_bytes) for path, unit in found.items()}
    assert rows == {
        "conv": (x + kernel + y, y),
        "norm": (y + 4 * 4 * 8 + y, y),  # scale, bias and two statistics
        "same": (0, 0),
        "unit/branch/relu": (2 * y, y),
        "unit/branch": (2 * y, y),
        "unit/shortcut": (0, 0),
        "unit": (5 * y, 2 * y),  # the sum reads two arrays and writes one
        "sides/a": (0, 0),
        "sides/b": (0, 0),
        "sides": (4 * y, 2 * y),  # the output is twice as wide
        "": (x + kernel + 12 * y + 4 * 4 * 8, 6 * y),
    }
    assert found.intensity == found.flops / (x + kernel + 12 * y + 4 * 4 * 8)


# On 2 x 9 x 7 x 3: 378 elements.
OPERATIONS = {
    # Two matrices and, of their 2 and 3 outputs, bias and function; around them mean and product.
    "squeeze": (lambda r: nn.SqueezeExcite(3, 2, rngs=r), 2 * 24 + 2 * (4 + 6) + 2 * 378),
    # A matrix, its bias and the sigmoid; then 1 - t, two products and the sum.
    "gated": (
        lambda r: nn.Residual(nn.Identity(), nn.Gate(3, rngs=r)),
        2 * 378 * 3 + 2 * 378 + 4 * 378,
    ),
    "batch norm": (lambda r: nn.BatchNorm(3, rngs=r), 2 * 378),
    "layer norm": (lambda r: nn.LayerNorm(3, rngs=r), 7 * 378),
    "group norm": (lambda r: nn.GroupNorm(3, num_groups=1, rngs=r), 7 * 378),
    "response norm": (lambda r: nn.ResponseNorm(3, rngs=r), 4 * 378),
    "max pool": (lambda r: nn.Pool("max", (2, 3), strides=1), 2 * (8 * 5) * 3 * 6),
    "dropout": (lambda r: nn.Dropout(0.5), 0),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_flops_by_hand(name):
    make, flops = OPERATIONS[name]
    assert convjax.cost(abstract(make), (2, 9, 7, 3)).flops == flops


def test_bytes_of_gates_and_of_what_drops():
    net = abstract(
        lambda rngs: nn.Chain(
            gated=nn.Residual(nn.Identity(), nn.Gate(3, rngs=rngs)),
            drop=nn.StochasticDepth(0.5),
            none=nn.StochasticDepth(0.0),
        )
    )
    found, y = convjax.cost(net, (2, 9, 7, 3)), 4 * 378
    assert found["gated/shortcut"].traffic_bytes == 2 * y + 4 * (3 * 3 + 3)
    # The sum reads the gate, the branch and the input.
    assert found["gated"].traffic_bytes - found["gated/shortcut"].traffic_bytes == 4 * y
    assert (found["drop"].traffic_bytes, found["drop"].activation_bytes) == (2 * y, y)
    assert (found["none"].traffic_bytes, found["none"].activation_bytes) == (0, 0)


def test_bytes_follow_the_dtype():
    def make(dtype):
        return abstract(lambda rngs: nn.Dense(3, 4, param_dtype=dtype, rngs=rngs))

    half, whole = (
        convjax.cost(make(dtype), (2, 3), dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32)
    )
    assert (half.activation_bytes, whole.activation_bytes) == (2 * 8, 4 * 8)
    assert half.traffic_bytes == 2 * (2 * 3 + 16 + 2 * 4)


def test_shared_parameters_count_once():
    def make(rngs):
        shared = nn.Dense(3, 3, rngs=rngs)
        return nn.Chain(a=shared, b=shared, c=nn.Dense(3, 3, rngs=rngs))

    found = convjax.cost(abstract(make), (2, 3))
    assert [found[path].parameters for path in ("a", "b", "")] == [12, 12, 24]
    assert found.multiply_adds == 3 * 18
