"""Leaves of four frameworks, and functions of JAX, are taken for what they compute."""

from typing import Any

import equinox as eqx
import flax.linen as linen
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax import gradflow, nn
from tests.foreign.arrays import normal
from tests.foreign.conftest import default_promotion as default_promotion
from tests.foreign.styles import in_equinox, in_haiku, in_linen

IMAGE = normal((2, 6, 5, 4))
FIRST = normal((2, 4, 6, 5))
TOKENS = normal((2, 6, 4))


def plain(function):
    return nn.Function(lambda p, x: function(x) * p, jnp.ones(()))


def in_flax(make):
    return make(nnx.Rngs(0)), IMAGE


def of_linen(module, x=IMAGE):
    return in_linen(module, x)


def of_equinox(module):
    """Behind a convolution, which says where the channels are."""
    conv = eqx.nn.Conv2d(4, 4, 1, key=jax.random.key(0))
    return in_equinox(eqx.nn.Sequential([conv, eqx.nn.Lambda(jax.nn.relu), module]), FIRST)


def of_haiku(make, x=IMAGE):
    return in_haiku(lambda x: make()(x), x)


def leaves(net, x):
    read = nn.read(net, x)
    np.testing.assert_allclose(read(x), net(x), rtol=1e-5, atol=1e-5)
    return [node for _, node, _ in nn.walk(read) if isinstance(node, nn.Segment)]


NORMS = {
    "nnx_rms": (lambda: in_flax(lambda r: nnx.RMSNorm(4, rngs=r)), "RMSNorm"),
    "nnx_instance": (lambda: in_flax(lambda r: nnx.InstanceNorm(4, rngs=r)), "GroupNorm"),
    "nnx_layer": (lambda: in_flax(lambda r: nnx.LayerNorm(4, rngs=r)), "LayerNorm"),
    "linen_rms": (lambda: of_linen(linen.RMSNorm()), "RMSNorm"),
    "linen_instance": (lambda: of_linen(linen.InstanceNorm()), "GroupNorm"),
    "linen_group": (lambda: of_linen(linen.GroupNorm(2)), "GroupNorm"),
    "haiku_rms": (lambda: of_haiku(lambda: hk.RMSNorm(-1)), "RMSNorm"),
    "haiku_instance": (lambda: of_haiku(lambda: hk.InstanceNorm(True, True)), "GroupNorm"),
    "haiku_group": (lambda: of_haiku(lambda: hk.GroupNorm(2)), "GroupNorm"),
    "haiku_layer": (lambda: of_haiku(lambda: hk.LayerNorm(-1, True, True)), "LayerNorm"),
    "equinox_group": (lambda: of_equinox(eqx.nn.GroupNorm(2, 4)), "GroupNorm"),
    "equinox_rms": (
        lambda: in_equinox(eqx.filter_vmap(eqx.nn.RMSNorm(4)), TOKENS),
        "RMSNorm",
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_told_by_its_equations(name):
    make, kind = NORMS[name]
    *_, last = leaves(*make())
    assert nn.kind_of(last) == kind
    groups = dict(last.like.fields).get("num_groups")
    assert groups in (None, 2) or (groups == 4 and "instance" in name)


@pytest.mark.parametrize("train", [True, False])
def test_a_batch_norm_with_state_shows_its_mode(train):
    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm

        def __init__(self, key):
            self.conv = eqx.nn.Conv2d(4, 4, 1, key=key)
            self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")

        def __call__(self, x, state):
            return self.norm(self.conv(x), state)

    net, state = eqx.nn.make_with_state(Net)(jax.random.key(0))
    mapped = jax.vmap(net, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    _, state = mapped(FIRST, state)
    arrays, rest = eqx.partition(eqx.nn.inference_mode(net, not train), eqx.is_inexact_array)

    def apply(arrays, x):
        net = eqx.combine(arrays, rest)
        mapped = jax.vmap(net, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return mapped(x, jax.tree.map(lambda leaf: leaf, state))[0]

    *_, last = leaves(nn.Function(apply, arrays), FIRST)
    assert (nn.kind_of(last), last.mode) == ("BatchNorm", "batch" if train else "running")


ACTIVATIONS = {
    "relu6": jax.nn.relu6,
    "hard_swish": jax.nn.hard_swish,
    "mish": jax.nn.mish,
    "gelu": jax.nn.gelu,
    "exact_gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "softplus": jax.nn.softplus,
    "elu": jax.nn.celu,
    "silu": jax.nn.swish,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_tanh": jax.nn.hard_tanh,
    "log_sigmoid": jax.nn.log_sigmoid,
    "soft_sign": jax.nn.soft_sign,
    "squareplus": jax.nn.squareplus,
    "selu": jax.nn.selu,
    "leaky_relu": jax.nn.leaky_relu,
    "leaky_relu (own)": lambda x: jax.nn.leaky_relu(x, 0.3),
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "glu": jax.nn.glu,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_functions_of_jax_have_their_names(name):
    first, *_ = leaves(plain(ACTIVATIONS[name]), IMAGE)
    assert nn.kind_of(first) == name
    assert name != "glu" or nn.label_of("", first) == "glu"


OTHERS = {
    "causal": (lambda x: linen.Conv(4, (3,), padding="CAUSAL"), TOKENS, "Conv"),
    "general": (lambda x: linen.DenseGeneral((2, 3)), TOKENS, "Dense"),
    "general_in": (lambda x: linen.DenseGeneral(5, axis=(-2, -1)), IMAGE, "Dense"),
    "einsum": (lambda x: linen.Einsum((4, 2, 3), "ntc,chd->nthd"), TOKENS, "Dense"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_products_over_several_axes_and_zeros_around_are_part_of_a_leaf(name):
    make, x, kind = OTHERS[name]
    net, x = in_linen(make(x), x)
    (leaf,) = leaves(net, x)
    assert nn.kind_of(leaf) == kind
    made: Any = net(x)
    terms = {"causal": 12, "general": 4, "general_in": 20, "einsum": 4}[name]
    assert convjax.cost(net, x.shape).multiply_adds == made.size * terms
    predicted = gradflow.predict(net, x, kernels="measured")
    assert not predicted.unknown
    logs = np.log(np.sqrt(np.mean(np.square(made))))
    assert abs(predicted[""].activation_log_rms - logs) < 0.35


@pytest.mark.parametrize("count", [True, False])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_pools_with_padding(kind, count):
    def run(x):
        if kind == "max":
            return linen.max_pool(x, (3, 3), (2, 2), "SAME")
        return linen.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=count)

    first, *_ = leaves(plain(run), IMAGE)
    assert nn.kind_of(first) == "Pool"
    assert dict(first.like.fields)["count_include_pad"] == (count or kind == "max")


def test_what_only_looks_like_a_known_leaf_is_none():
    def summed(x):
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def unit(x):
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    def over_channels(x):
        return x.mean(-1)

    for function in (summed, unit, over_channels):
        first, *_ = leaves(plain(function), IMAGE)
        assert first.like is None, function.__name__
    halved, *_ = leaves(nn.Function(lambda p, x: jnp.tanh(x / 2) @ p, jnp.ones((4, 3))), IMAGE)
    assert nn.kind_of(halved) in ("Scale", "elementwise")
