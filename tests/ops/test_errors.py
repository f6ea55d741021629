"""Bad input is refused by a message with the argument, its value, and what would be right."""

import jax
import jax.numpy as jnp
import pytest

from convjax import ops
from convjax.ops import _shapes

X1, X2 = jnp.zeros((2, 6, 4)), jnp.zeros((2, 5, 6, 4))
K1, K2 = jnp.zeros((3, 4, 8)), jnp.zeros((3, 3, 4, 8))
DEEP, MIX = jnp.zeros((3, 3, 1, 4)), jnp.zeros((1, 1, 4, 8))
COLUMN, ROW = jnp.zeros((3, 1, 4, 2)), jnp.zeros((1, 3, 2, 4))
HALF = X2.astype(jnp.float16)
WHOLE = jnp.zeros((2, 5, 6, 4), jnp.int32)


def conv(**options):
    return lambda: ops.conv(X2, K2, **options)


def transpose(**options):
    return lambda: ops.conv_transpose(X2, K2, **options)


REFUSED = {
    "channels": (
        lambda: ops.conv(X2[..., :3], K2),
        r"conv: x has 3 channels but kernel \(3, 3, 4, 8\) with feature_group_count=1 expects 4",
    ),
    "channels of a group": (
        conv(feature_group_count=2),
        r"x has 4 channels but .* feature_group_count=2 expects 8",
    ),
    "groups and input": (
        lambda: ops.conv(X2[..., :3], K2[:, :, :1], feature_group_count=2),
        "3 channels do not divide into 2 groups",
    ),
    "groups and output": (
        lambda: ops.conv(X2, K2[:, :, :2, :7], feature_group_count=2),
        r"7 output features, which feature_group_count=2 does not divide",
    ),
    "no group": (conv(feature_group_count=0), "feature_group_count=0 must be at least 1"),
    "rank of x": (lambda: ops.conv(X1, K2), r"x has shape \(2, 6, 4\), 3 axes, .* expects 4"),
    "unbatched x": (lambda: ops.conv(X2[0], K2), r"3 axes, but .* \(batch, 2 spatial, features\)"),
    "rank of kernel": (lambda: ops.conv(X2, K2[0, 0]), r"kernel has shape \(4, 8\), 2 axes"),
    "strides": (conv(strides=0), "strides=0 must be at least 1"),
    "one stride": (conv(strides=(1, -2)), r"conv: strides\[1\]=-2 must be at least 1"),
    "strides per axis": (conv(strides=(1, 2, 3)), r"strides=\(1, 2, 3\) has 3 entries for 2"),
    "dilation": (conv(kernel_dilation=(0, 1)), r"kernel_dilation\[0\]=0 must be at least 1"),
    "lower case": (conv(padding="same"), "padding='same' is not known; did you mean 'SAME'"),
    "misspelt": (conv(padding="CIRCLAR"), "did you mean 'CIRCULAR'"),
    "nothing like it": (conv(padding="?"), r"padding='\?' is not known; choose from CAUSAL, "),
    "causal images": (conv(padding="CAUSAL"), "'CAUSAL' is for 1 spatial axis, and here are 2"),
    "padding per axis": (conv(padding=[1, 2, 3]), r"padding=\[1, 2, 3\] has 3 entries for 2"),
    "padding of three sides": (
        conv(padding=[(1, 2, 3), 1]),
        r"padding\[0\]=\(1, 2, 3\) must be an integer or a pair",
    ),
    "negative padding": (conv(padding=-1), "padding=-1 must be at least 0"),
    "empty output": (
        lambda: ops.conv(X2[:, :2], K2, padding="VALID"),
        r"kernel of 3 taps extends over 3 elements along spatial axis 0, where x has 2 plus",
    ),
    "empty dilated output": (
        conv(padding=[(0, 1), (0, 0)], kernel_dilation=3),
        r"extends over 7 elements along spatial axis 0, where x has 5 plus padding \(0, 1\)",
    ),
    "wrapped too far": (
        lambda: ops.conv(X1[:, :1], jnp.zeros((5, 4, 1)), padding="CIRCULAR"),
        r"'CIRCULAR' needs \(2, 2\) elements along spatial axis 0, .* image of 1 .* \(at most 1\)",
    ),
    "mirrored too far": (
        lambda: ops.conv(X1[:, :2], jnp.zeros((5, 4, 1)), padding="REFLECT"),
        r"'REFLECT' needs \(2, 2\) elements .* image of 2 .* \(at most 1\)",
    ),
    "dtypes": (lambda: ops.conv(HALF, K2), "x is float16, kernel is float32"),
    "integers": (
        # Directly: the type checker that runs in the tests knows that images are floating.
        lambda: _shapes.check_arrays("conv", x=WHOLE),
        "conv: x has dtype int32; cast it to a floating dtype first",
    ),
    "depthwise kernel": (
        lambda: ops.depthwise_conv(X2, K2),
        r"depthwise_conv: kernel has shape \(3, 3, 4, 8\) and x 4 channels; .* 1, 4 \* M",
    ),
    "depthwise multiplier": (lambda: ops.depthwise_conv(X2, DEEP[..., :3]), "channel multiplier"),
    "depthwise rank": (lambda: ops.depthwise_conv(X1, DEEP), "x has shape"),
    "pointwise window": (
        lambda: ops.pointwise_conv(X2, K2),
        r"pointwise_conv: kernel has shape \(3, 3, 4, 8\); .* \(1, 1, 4, 8\)",
    ),
    "pointwise channels": (lambda: ops.pointwise_conv(X2[..., :3], MIX), "x has 3 channels"),
    "pointwise strides": (lambda: ops.pointwise_conv(X2, MIX, strides=0), "strides=0"),
    "separable features": (
        lambda: ops.separable_conv(X2, DEEP, MIX[:, :, :3]),
        r"depthwise_kernel \(3, 3, 1, 4\) gives other features than pointwise_kernel \(1, 1, 3, 8",
    ),
    "separable depthwise": (
        lambda: ops.separable_conv(X2[..., :3], DEEP, MIX),
        "separable_conv, depthwise_kernel: kernel has shape",
    ),
    "separable pointwise": (
        lambda: ops.separable_conv(X2, DEEP, K2),
        "separable_conv, pointwise_kernel: kernel has shape",
    ),
    "kernels per axis": (
        lambda: ops.spatial_separable_conv(X2, COLUMN),
        "1 kernels for x .* 2 spatial axes",
    ),
    "kernels in order": (
        lambda: ops.spatial_separable_conv(X2, ROW, COLUMN),
        r"spatial_separable_conv, kernel 0: it has shape \(1, 3, 2, 4\), .* axis 0 only",
    ),
    "kernels in a chain": (
        lambda: ops.spatial_separable_conv(X2, COLUMN, ROW[:, :, :1]),
        "kernel 1: x has 2 channels but kernel .* expects 1",
    ),
    "transposed mirror": (
        transpose(padding="REFLECT"),
        "padding='REFLECT' is not known; choose from CAUSAL, CIRCULAR, SAME, ",
    ),
    "transposed name": (transpose(padding="valid"), "did you mean 'VALID'"),
    "transposed causal": (transpose(padding="CAUSAL"), "'CAUSAL' is for 1 spatial axis"),
    "output padding": (
        transpose(strides=2, padding=0, output_padding=2),
        r"output_padding=2 must be less than strides \(2, 2\) or kernel_dilation \(1, 1\)",
    ),
    "negative output padding": (transpose(padding=0, output_padding=-1), "must be at least 0"),
    "named output padding": (
        transpose(strides=2, output_padding=1),
        "output_padding=1 goes with explicit padding only; padding 'SAME' already fixes",
    ),
    "transposed away": (
        lambda: ops.conv_transpose(X2[:, :1], K2, padding=2),
        "padding=2 leaves no output along spatial axis 0, where x has 1 elements",
    ),
    "transposed wrap": (
        lambda: ops.conv_transpose(X1[:, :1], jnp.zeros((7, 4, 2)), padding="CIRCULAR"),
        r"'CIRCULAR' needs \(3, 3\) elements along spatial axis 0",
    ),
    "window": (lambda: ops.max_pool(X2, 0), "window_shape=0 must be at least 1"),
    "window per axis": (lambda: ops.max_pool(X2, (2,)), r"window_shape=\(2,\) has 1 entries for 2"),
    "large window": (lambda: ops.avg_pool(X2, 6), "window_shape of 6 taps .* would be empty"),
    "pool strides": (lambda: ops.avg_pool(X2, 2, strides=0), "avg_pool: strides=0"),
    "pool padding": (lambda: ops.max_pool(X2, 2, padding="SAM"), "did you mean 'SAME'"),
    "window of padding": (
        lambda: ops.max_pool(X2, 2, padding=2),
        "padding=2 leaves a window without any element of x .* less than the window of 2",
    ),
    "window of high padding": (
        lambda: ops.avg_pool(X2, 2, padding=[(0, 0), (0, 2)]),
        "leaves a window without any element of x along spatial axis 1",
    ),
    "pool of vectors": (lambda: ops.max_pool(X2[0, 0], 2), "at least one spatial axis"),
    "global pool of vectors": (lambda: ops.global_avg_pool(X2[0, 0]), "at least one spatial axis"),
    "global pool of nothing": (lambda: ops.global_max_pool(X2[:, :0]), "none of them empty"),
    "moments of a vector": (lambda: ops.batch_moments(X2[0, 0, 0]), r"expected \(\.\.\., C\)"),
    "batch norm of nothing": (lambda: ops.batch_norm(X2[:0]), "elements to average"),
    "moments of nothing": (lambda: ops.batch_moments(X2[:0]), "elements to average"),
    "mean": (
        lambda: ops.normalize(X2, jnp.zeros(3), jnp.ones(4)),
        r"mean has shape \(3,\); expected \(4,\), or 4 axes",
    ),
    "variance": (
        lambda: ops.normalize(X2, jnp.zeros(4), jnp.ones((2, 1, 1, 3))),
        r"variance has shape \(2, 1, 1, 3\); expected",
    ),
    "scale": (
        lambda: ops.normalize(X2, jnp.zeros(4), jnp.ones(4), jnp.ones(3), jnp.ones(4)),
        r"scale has shape \(3,\); expected \(4,\)",
    ),
    "bias": (lambda: ops.layer_norm(X2, bias=jnp.ones(3)), r"layer_norm: bias has shape \(3,\)"),
    "epsilon": (
        lambda: ops.layer_norm(X2, epsilon=-1.0),
        "epsilon=-1.0 must be at least 0",
    ),
    "norm groups": (
        lambda: ops.group_norm(X2, num_groups=3),
        "num_groups=3 does not divide the 4 channels",
    ),
    "no norm groups": (lambda: ops.group_norm(X2, num_groups=0), "num_groups=0"),
    "dense features": (
        lambda: ops.dense(X2, jnp.zeros((3, 2))),
        r"kernel \(3, 2\); expected \(\.\.\., C\) and \(C, D\)",
    ),
    "dense rank": (lambda: ops.dense(X2, MIX), r"expected \(\.\.\., C\) and \(C, D\)"),
    "dense bias": (lambda: ops.dense(X2, MIX[0, 0], jnp.zeros(4)), r"bias has shape \(4,\)"),
    "dense dtypes": (lambda: ops.dense(HALF, MIX[0, 0]), "x is float16, kernel is float32"),
    "gain": (
        lambda: ops.standardize_kernel(K2, gain=jnp.ones(4)),
        r"gain has shape \(4,\); expected a number or \(8,\)",
    ),
    "standardised vector": (lambda: ops.standardize_kernel(K2[0, 0, 0]), r"\(\*window, C, D\)"),
    "standardised epsilon": (lambda: ops.standardize_kernel(K2, epsilon=0.0), "epsilon=0.0 must"),
    "rank too large": (
        lambda: ops.separate_kernel(K2, 4),
        r"rank=4 is out of range; a kernel of shape \(3, 3, 4, 8\) has 1 to 3",
    ),
    "rank too small": (lambda: ops.separate_kernel(K2, 0), "rank=0 is out of range"),
    "separated volume": (lambda: ops.separate_kernel(K1, 1), r"\(kh, kw\) or \(kh, kw, C, D\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused(case):
    function, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        function()
    with pytest.raises(ValueError, match=message):  # shapes are known while tracing
        jax.jit(function)()
