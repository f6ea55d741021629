"""Every operation of ``convjax.ops`` on the device, against float64 on the host."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax import nn, ops

Function = Callable[..., jax.Array]
Case = tuple[Function, Sequence[tuple[int, ...]]]
"""A function, and the shapes of all that it is differentiated with respect to."""

# The largest error, in units of the largest entry. By default float32 products may be of TF32,
# which keeps 11 bits, and bfloat16 keeps 8; each is allowed some roundings one after the other.
ALLOWED = {"float32, highest": 1e-4, "float32": 5e-3, "bfloat16": 4e-2}


def cases(c: int) -> dict[str, Case]:
    """Return the operations by name, with so many channels."""
    x, line, volume = (2, 17, 14, c), (2, 40, c), (2, 7, 6, 5, c)
    column, row = (3, 1, 1, c), (1, 3, 1, c)
    return {
        "conv 3x3": (ops.conv, [x, (3, 3, c, c)]),
        "max_pool": (partial(ops.max_pool, window_shape=3, strides=2, padding=1), [x]),
        "batch norm": (_batch_norm, [x, (c,), (c,)]),
        "depthwise_conv": (ops.depthwise_conv, [x, (3, 3, 1, c)]),
        "conv 1x1": (ops.conv, [x, (1, 1, c, 2 * c)]),
        "conv, strides 2": (partial(ops.conv, strides=2), [x, (3, 3, c, 2 * c)]),
        "conv, dilation 2": (partial(ops.conv, kernel_dilation=2), [x, (3, 3, c, c)]),
        "conv, circular": (partial(ops.conv, padding="CIRCULAR"), [x, (3, 3, c, c)]),
        "conv, 4 groups": (partial(ops.conv, feature_group_count=4), [x, (3, 3, c // 4, c)]),
        "conv, 1-D": (ops.conv, [line, (5, c, c)]),
        "conv, 3-D": (ops.conv, [volume, (3, 3, 3, c, c)]),
        "depthwise_conv 7x7": (ops.depthwise_conv, [x, (7, 7, 1, c)]),
        "depthwise_conv, strides 2": (partial(ops.depthwise_conv, strides=2), [x, (3, 3, 1, c)]),
        "depthwise_conv, multiplier 2": (ops.depthwise_conv, [x, (3, 3, 1, 2 * c)]),
        "pointwise_conv": (ops.pointwise_conv, [x, (1, 1, c, c)]),
        "separable_conv": (ops.separable_conv, [x, (3, 3, 1, c), (1, 1, c, c)]),
        "spatial_separable_conv": (
            partial(ops.spatial_separable_conv, feature_group_count=c),
            [x, column, row],
        ),
        "conv_transpose": (partial(ops.conv_transpose, strides=2), [x, (3, 3, c, c)]),
        "conv_general_dilated": (_general, [x, (3, 3, c, c)]),
        "accelerate": (ops.accelerate(_by_lax), [x, (3, 3, 1, c)]),
        "standardize_kernel": (ops.standardize_kernel, [(3, 3, c, c)]),
        "dense": (ops.dense, [(8, 4 * c), (4 * c, c), (c,)]),
        "avg_pool": (partial(ops.avg_pool, window_shape=3, strides=2, padding=1), [x]),
        "global_avg_pool": (ops.global_avg_pool, [x]),
        "global_max_pool": (ops.global_max_pool, [x]),
        "group_norm": (partial(ops.group_norm, num_groups=4), [x, (c,), (c,)]),
        "layer_norm": (ops.layer_norm, [x, (c,), (c,)]),
        **{name: (nn.ACTIVATIONS[name], [x]) for name in ("relu", "gelu", "silu", "mish")},
    }


def _batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return ops.normalize(x, *ops.batch_moments(x), scale, bias)


LIKE_FLAX: dict[str, Any] = {"window_strides": (1, 1), "padding": "SAME"}
LIKE_FLAX["dimension_numbers"] = ("NHWC", "HWIO", "NHWC")


def _general(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return ops.conv_general_dilated(x, kernel, **LIKE_FLAX)


def _by_lax(x: jax.Array, kernel: jax.Array) -> jax.Array:
    groups = x.shape[-1]
    return jax.lax.conv_general_dilated(x, kernel, **LIKE_FLAX, feature_group_count=groups)


def errors(case: Case) -> dict[str, float]:
    """Return the largest error of an operation and its gradients, by precision.

    On the host the same function is run in float64 with ``jax.lax``'s convolutions, on the same
    numbers: for bfloat16, on those that it can hold.
    """
    function, shapes = case
    generator = np.random.default_rng(0)
    arguments = [generator.standard_normal(shape).astype(np.float32) for shape in shapes]
    out = jax.eval_shape(function, *arguments)
    numbers = [generator.standard_normal(out.shape).astype(np.float32), *arguments]
    rounded = [np.asarray(jnp.asarray(a, jnp.bfloat16)) for a in numbers]

    def both(cotangent: jax.Array, *arguments: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(function, *arguments)
        return y, *pull(cotangent)

    @jax.jit
    def on_device(numbers: Any, rounded: Any) -> dict[str, tuple[jax.Array, ...]]:
        with jax.default_matmul_precision("highest"):
            highest = both(*numbers)
        found = highest, both(*numbers), both(*rounded)
        return dict(zip(ALLOWED, found, strict=True))

    found = on_device(numbers, rounded)
    host = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(host), ops.default_lowering("lax"):
        right, right_of_rounded = (
            jax.jit(both)(*(a.astype(np.float64) for a in given)) for given in (numbers, rounded)
        )
    return {
        name: _distance(values, right_of_rounded if name == "bfloat16" else right)
        for name, values in found.items()
    }


def _distance(found: Sequence[Any], right: Sequence[Any]) -> float:
    """Return the largest difference in units of the largest entry of each array."""

    def of(one: Any, other: Any) -> float:
        one, other = (np.asarray(a).astype(np.float64) for a in (one, other))
        if one.shape != other.shape or not np.isfinite(one).all():
            return np.inf
        return float(np.max(np.abs(one - other)) / max(np.max(np.abs(other)), 1e-30))

    return max(map(of, found, right))
