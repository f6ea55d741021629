"""A row as functions of JAX: by convjax, by lax, and what the machine allows at best."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from convjax import nn, ops
from experiments.benchmarks._rows import Spec
from experiments.benchmarks.timing import alternate

Function = Callable[..., jax.Array]


def inputs(spec: Spec) -> tuple[jax.Array, ...]:
    """Return random arguments, on the device: those that the gradient is taken with respect to."""
    shapes: list[tuple[int, ...]] = [(spec.batch, *spec.spatial, spec.in_features)]
    if spec.is_convolution:
        shapes.append(spec.kernel_shape)
    elif spec.what == "batch_norm":
        shapes += [(spec.in_features,)] * 2
    keys = jax.random.split(jax.random.key(spec.seed), len(shapes))
    drawn = zip(keys, shapes, strict=True)
    return tuple(jax.random.normal(key, shape, spec.dtype) for key, shape in drawn)


def by_convjax(spec: Spec, lowering: str | None = None) -> Function:
    """Return the computation by the public functions of convjax; a convolution by a form."""
    slide: dict[str, Any] = {"strides": spec.strides, "padding": [(p, p) for p in spec.padding]}
    if spec.is_convolution:
        slide["kernel_dilation"] = spec.kernel_dilation
        slide["feature_group_count"] = spec.feature_group_count
        if spec.what == "conv_transpose":
            return lambda x, w: ops.conv_transpose(x, w, **slide)
        return lambda x, w: ops.conv(x, w, lowering=lowering, **slide)
    if spec.what == "batch_norm":
        return lambda x, scale, bias: ops.batch_norm(x, scale, bias)[0]
    if spec.what == "global_avg_pool":
        return ops.global_avg_pool
    if spec.what == "activation":
        return nn.ACTIVATIONS[spec.name]
    pool = {"max_pool": ops.max_pool, "avg_pool": ops.avg_pool}[spec.what]
    return lambda x: pool(x, spec.kernel_size, **slide)


def by_lax(spec: Spec) -> Function:
    """Return a convolution as ``jax.lax`` has it, with JAX's own derivatives."""
    strides, spread = spec.strides, (1,) * len(spec.strides)
    pads = spec.padding
    if spec.what == "conv_transpose":
        strides, spread = spread, strides
        reach = zip(spec.kernel_dilation, spec.kernel_size, pads, strict=True)
        pads = [d * (k - 1) - p for d, k, p in reach]
    layout = "NHWDC" if spec.depth else "NHWC"
    return lambda x, w: jax.lax.conv_general_dilated(
        x,
        w,
        strides,
        [(p, p) for p in pads],
        lhs_dilation=spread,
        rhs_dilation=spec.kernel_dilation,
        dimension_numbers=(layout, f"{layout[1:-1]}IO", layout),
        feature_group_count=spec.feature_group_count,
    )


def compiled(
    function: Function, arguments: tuple[jax.Array, ...], backward: bool
) -> Callable[[], Any]:
    """Return what is timed: the function, or with the gradient of sum(y g) for a fixed g."""
    if not backward:
        return partial(jax.jit(function), *arguments)

    @jax.jit
    def both(cotangent: jax.Array, *arguments: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(function, *arguments)
        return y, *pull(cotangent)

    return partial(both, cotangent_of(function, arguments), *arguments)


def cotangent_of(function: Function, arguments: tuple[jax.Array, ...]) -> jax.Array:
    """Return random numbers in the shape of the function's result."""
    y = jax.eval_shape(function, *arguments)
    return jax.random.normal(jax.random.key(1), y.shape, y.dtype)


def bound(spec: Spec, backward: bool, rates: Mapping[str, float]) -> float:
    """Return the seconds that the row takes at least: of memory or of arithmetic."""
    moved = spec.bytes(backward) / rates["bytes_per_s"]
    return max(moved, spec.flops(backward) / rates["flops_per_s"])


def machine(dtype: str, repeats: int = 5) -> dict[str, float]:
    """Measure the device: the fastest of a few large sums, and products of square matrices."""
    large = jax.default_backend() != "cpu"
    length, side = (2**28, 8192) if large else (2**24, 1536)
    vector = jnp.ones(length, dtype)
    matrix = jnp.ones((side, side), dtype)
    add, product = jax.jit(lambda x: x + 1), jax.jit(lambda x: x @ x)
    timed = {"bytes_per_s": partial(add, vector), "flops_per_s": partial(product, matrix)}
    done = {"bytes_per_s": 2 * vector.nbytes, "flops_per_s": 2 * side**3}
    samples = alternate(timed, repeats=repeats)
    return {name: work / min(samples[name]) for name, work in done.items()}
