"""Malformed calls of ``convjax.ops``."""

import contextlib

import jax.numpy as jnp

from convjax import ops
from tests.fuzz.kinds import (
    PRECISION,
    array,
    but,
    choice,
    flag,
    integer,
    integers,
    number,
    optional,
    padding,
)
from tests.fuzz.room import call

X = jnp.arange(2 * 4 * 5 * 3, dtype=jnp.float32).reshape(2, 4, 5, 3) / 100
WINDOW = jnp.arange(9, dtype=jnp.float32).reshape(3, 3, 1, 1) / 10
KERNEL = WINDOW * jnp.ones((1, 1, 3, 2), jnp.float32)
DEPTHWISE = WINDOW * jnp.ones((1, 1, 1, 3), jnp.float32)
POINTWISE = jnp.arange(6, dtype=jnp.float32).reshape(1, 1, 3, 2)

x, kernel = array(X), array(KERNEL)
strides, dilation = integers(1), integers(1)
window = integers((2, 2))
groups = integer(1, least=1)
lowering = optional(choice(None, "taps"))
vector = optional(array(jnp.ones(3)))
epsilon = number(1e-5, least=0.0)


def spatial_separable_conv(x, kernels, **options):
    return ops.spatial_separable_conv(x, kernels, jnp.ones((1, 3, 3, 2)), **options)


def default_lowering(name):
    with ops.default_lowering(name), contextlib.nullcontext():
        return ops.conv(X, KERNEL)


NHWC = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

CALLS = {
    "ops.conv": call(
        ops.conv,
        x=x,
        kernel=kernel,
        strides=strides,
        padding=padding(),
        kernel_dilation=dilation,
        feature_group_count=groups,
        precision=PRECISION,
        lowering=lowering,
    ),
    "ops.depthwise_conv": call(
        ops.depthwise_conv,
        x=x,
        kernel=array(DEPTHWISE),
        strides=strides,
        padding=padding(),
        kernel_dilation=dilation,
        precision=PRECISION,
        lowering=lowering,
    ),
    "ops.pointwise_conv": call(
        ops.pointwise_conv,
        x=x,
        kernel=array(POINTWISE),
        strides=strides,
        precision=PRECISION,
        lowering=lowering,
    ),
    "ops.separable_conv": call(
        ops.separable_conv,
        {"depthwise_kernel": ("kernel",), "pointwise_kernel": ("kernel",)},
        x=x,
        depthwise_kernel=array(DEPTHWISE),
        pointwise_kernel=array(POINTWISE),
        strides=strides,
        padding=padding(),
        kernel_dilation=dilation,
        precision=PRECISION,
    ),
    "ops.spatial_separable_conv": call(
        spatial_separable_conv,
        {"kernels": ("kernel",)},
        x=x,
        kernels=array(jnp.ones((3, 1, 3, 3))),
        strides=strides,
        padding=padding(),
        kernel_dilation=dilation,
        feature_group_count=groups,
        precision=PRECISION,
    ),
    "ops.conv_transpose": call(
        ops.conv_transpose,
        x=x,
        kernel=kernel,
        strides=strides,
        padding=padding(),
        kernel_dilation=dilation,
        feature_group_count=groups,
        output_padding=integers(0, least=0),
        precision=PRECISION,
    ),
    "ops.conv_general_dilated": call(
        # It refuses as lax does, in lax's words, as it says and tests/ops/test_general.py holds.
        lambda lowering: ops.conv_general_dilated(
            X, KERNEL, (1, 1), "SAME", **NHWC, lowering=lowering
        ),
        lowering=lowering,
    ),
    "ops.default_lowering": call(default_lowering, {"name": ("lowering",)}, name=choice("taps")),
    "ops.dense": call(
        ops.dense,
        x=array(jnp.ones((2, 3)), any_rank=True),
        kernel=array(jnp.ones((3, 2))),
        bias=optional(array(jnp.ones(2))),
        precision=PRECISION,
    ),
    "ops.avg_pool": call(
        ops.avg_pool,
        {"x": ("spatial axes",)},
        x=x,
        window_shape=window,
        strides=optional(integers(None)),
        padding=padding("VALID"),
        count_include_pad=flag(True),
    ),
    "ops.max_pool": call(
        ops.max_pool,
        {"x": ("spatial axes",)},
        x=x,
        window_shape=window,
        strides=optional(integers(None)),
        padding=padding("VALID"),
        zero_pad=flag(False),
    ),
    "ops.global_avg_pool": call(
        ops.global_avg_pool, x=array(X, any_rank=True), keepdims=flag(False)
    ),
    "ops.global_max_pool": call(
        ops.global_max_pool, x=array(X, any_rank=True), keepdims=flag(False)
    ),
    "ops.batch_moments": call(ops.batch_moments, x=array(X, any_rank=True)),
    "ops.batch_norm": call(
        ops.batch_norm, x=array(X, any_rank=True), scale=vector, bias=vector, epsilon=epsilon
    ),
    "ops.normalize": call(
        ops.normalize,
        x=array(X, any_rank=True),
        mean=array(jnp.ones(3)),
        variance=array(jnp.ones(3)),
        scale=vector,
        bias=vector,
        epsilon=epsilon,
    ),
    "ops.layer_norm": call(
        ops.layer_norm, x=array(X, any_rank=True), scale=vector, bias=vector, epsilon=epsilon
    ),
    "ops.group_norm": call(
        ops.group_norm,
        x=array(X, any_rank=True),
        scale=vector,
        bias=vector,
        num_groups=integer(3, least=1),
        epsilon=epsilon,
    ),
    "ops.standardize_kernel": call(
        ops.standardize_kernel,
        kernel=array(KERNEL, any_rank=True),
        gain=but(number(1.0), "matrix", "no numbers"),
        epsilon=number(1e-4, least=0.0),
        scaled=flag(True),
    ),
    "ops.separate_kernel": call(
        ops.separate_kernel, kernel=array(KERNEL, any_rank=True), rank=integer(1, least=1)
    ),
}
EXEMPT = {"ops.accelerate": "any function is taken; what it computes is the function's own"}
ACCEPTED: dict[str, str] = {}
