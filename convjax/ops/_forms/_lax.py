"""XLA's own convolution for all three: the reference, and the only form for every geometry."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from convjax.ops._forms import _windows
from convjax.ops._geometry import Geometry

LAYOUT = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}


def forward(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Return F(x, w)."""
    return lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.pads,
        rhs_dilation=geometry.dilation,
        dimension_numbers=LAYOUT[geometry.rank],
        feature_group_count=geometry.groups,
        precision=geometry.precision,
    )


def input_gradient(
    g: jax.Array,
    kernel: jax.Array,
    geometry: Geometry,
    guard: Callable[[jax.Array], jax.Array] = lambda kernel: kernel,
) -> jax.Array:
    """Convolve the strided-out cotangent with the flipped kernel, in and out channels exchanged."""
    pads = [
        (e - 1 - low, e - 1 - high + rest)
        for (low, high), e, rest in zip(
            geometry.pads, geometry.extents, geometry.left_over, strict=True
        )
    ]
    flipped = jnp.flip(kernel, range(geometry.rank))
    return spread_out(g, guard(exchange(flipped, geometry.groups)), pads, geometry)


def spread_out(x: jax.Array, kernel: jax.Array, pads, geometry: Geometry) -> jax.Array:
    """Convolve an image whose elements are spread apart by a geometry's strides."""
    # XLA's CPU compiler (jaxlib 0.10 and 0.12) aborts on two taps over a small image spread by two
    # without any padding. One element too many, cut off again, keeps it off that path.
    axes = zip(geometry.window, geometry.strides, pads, strict=True)
    surplus = [int(k == s == 2 and not any(pad)) for k, s, pad in axes]
    y = lax.conv_general_dilated(
        x,
        kernel,
        (1,) * geometry.rank,
        [(low, high + more) for (low, high), more in zip(pads, surplus, strict=True)],
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.dilation,
        dimension_numbers=LAYOUT[geometry.rank],
        feature_group_count=geometry.groups,
        precision=geometry.precision,
    )
    for axis, more in enumerate(surplus):
        y = lax.slice_in_dim(y, 0, y.shape[1 + axis] - more, axis=1 + axis) if more else y
    return y


def exchange(kernel: jax.Array, groups: int) -> jax.Array:
    """Turn (*window, C/groups, D) into (*window, D/groups, C), group by group."""
    *window, inputs, outputs = kernel.shape
    split = kernel.reshape(*window, inputs, groups, outputs // groups)
    return (
        jnp.moveaxis(split, -1, -3)
        .swapaxes(-1, -2)
        .reshape(*window, outputs // groups, groups * inputs)
    )


def kernel_gradient(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
    """Convolve the image with the cotangent, examples taking the part of channels."""
    if geometry.groups > 1:
        # Varying as x does: else the transpose would sum over a `shard_map`'s devices already.
        like = _windows.zeros(geometry.kernel_shape, x.dtype, x)
        (gradient,) = jax.linear_transpose(lambda w: forward(x, w, geometry), like)(g)
        return gradient
    pads = [
        (low, high - rest)
        for (low, high), rest in zip(geometry.pads, geometry.left_over, strict=True)
    ]
    y = lax.conv_general_dilated(
        jnp.swapaxes(x, 0, -1),
        jnp.moveaxis(g, 0, -2),
        geometry.dilation,
        pads,
        rhs_dilation=geometry.strides,
        dimension_numbers=LAYOUT[geometry.rank],
        precision=geometry.precision,
    )
    return jnp.moveaxis(y, 0, -2)
