"""Convolutions of a channels-last image: ordinary, depthwise and pointwise."""

import dataclasses

import jax
from jax import lax
from jaxtyping import Array, Float

from convjax.ops import _bilinear, _lowering, _precision, _shapes
from convjax.ops._geometry import Geometry
from convjax.ops._shapes import Given, Padding, Size

Image = Float[Given, "batch *spatial in_features"]
Output = Float[Array, "batch *out_spatial out_features"]


def conv(
    x: Image,
    kernel: Float[Given, "*window in_per_group out_features"],
    *,
    strides: Size = 1,
    padding: Padding = "SAME",
    kernel_dilation: Size = 1,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    lowering: str | None = None,
) -> Output:
    r"""Convolve an image with a kernel (a cross-correlation: the kernel is not flipped).

    $$y[n, i, o] = \sum_{t, c} x[n, s i + d t - \ell, c] \, w[t, c, o]$$

    with stride s, dilation d, low padding l, position i and tap t one index per spatial axis, and c
    running over the C / groups input channels of the group that output channel o belongs to (the
    first D / groups output channels form the first group). Zero lies beyond the edge of x.

    Args:
        x: image, shape (batch, *spatial, C), with one, two or three spatial axes.
        kernel: shape (*window, C // feature_group_count, D), of x's dtype; its number of window
            axes is the number of spatial axes.
        strides: step of the window in elements, one integer or one per spatial axis.
        padding: elements added beyond the edges, with e = d (k - 1) + 1 the extent of the window.
            "SAME": output size ceil(n / s), the odd element goes to the high side;
            "SAME_LOWER": the same, the odd element goes to the low side;
            "VALID": none;
            "CAUSAL": e - 1 on the low side (one spatial axis only);
            "CIRCULAR", "REFLECT": (e - 1) // 2 low and e // 2 high, whatever the stride, as Flax
            has it, filled periodically or by mirroring without repeating the edge;
            an integer, or one per axis: that many zeros on both sides, as in PyTorch;
            one pair (low, high) per axis: that many zeros on either side.
        kernel_dilation: distance between taps in elements, one integer or one per spatial axis.
        feature_group_count: number of groups that the channels are split into.
        precision: of the products, as `jax.lax.Precision`; None is what
            `jax.default_matmul_precision` says at the call, or else the backend's default.
        lowering: the form to compute by, and to compute its derivatives by where it can serve them.
            "auto": whatever is fastest on the platform, from the shapes;
            "lax": XLA's own convolution; serves everything;
            "onednn": the library oneDNN, which jaxlib for x86-64 and Linux has; serves float32 and
            bfloat16, in programs for this process alone;
            "shift": shifted multiply-adds; serves depthwise convolutions of up to 64 taps;
            "product": one matrix product; serves windows that do not overlap, 1x1 among them;
            "taps": one matrix product for each tap; serves ungrouped convolutions, up to 64;
            "winograd": six products for each twelve; serves dense convolutions with three taps
            along some axis, stride 1, at two to three times the rounding error;
            None: as `default_lowering` says, "auto" unless it was called.
            Arrays that are spread over a mesh by axes of the explicit kind are computed by "lax".

    Returns:
        Shape (batch, *out_spatial, D), of x's dtype, where an output axis has
        floor((n + low + high - e) / s) + 1 elements.

    Raises:
        ValueError: if ranks, channels, groups or dtypes disagree, a stride or dilation is below 1,
            the padding is unknown or larger than "CIRCULAR" or "REFLECT" can fill from x, the
            output would be empty, or the lowering named is unknown or cannot serve the call.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> x = jnp.array([1.0, 2.0, 4.0, 7.0]).reshape(1, 4, 1)
        >>> difference = jnp.array([-1.0, 0.0, 1.0]).reshape(3, 1, 1)
        >>> ops.conv(x, difference).ravel().tolist()
        [2.0, 3.0, 5.0, -4.0]
        >>> ops.conv(x, difference, padding="CIRCULAR").ravel().tolist()
        [-5.0, 3.0, 5.0, -3.0]

    Reference:
        LeCun et al. 1989, "Backpropagation applied to handwritten zip code recognition"; dilation
        and stride as in Dumoulin and Visin 2016, "A guide to convolution arithmetic".
    """
    return convolve(
        "conv",
        x,
        kernel,
        strides,
        padding,
        kernel_dilation,
        feature_group_count,
        precision,
        lowering,
    )


def depthwise_conv(
    x: Image,
    kernel: Float[Given, "*window one out_features"],
    *,
    strides: Size = 1,
    padding: Padding = "SAME",
    kernel_dilation: Size = 1,
    precision: lax.PrecisionLike = None,
    lowering: str | None = None,
) -> Output:
    r"""Convolve every channel with M kernels of its own.

    $$y[n, i, c M + m] = \sum_t x[n, s i + d t - \ell, c] \, w[t, 0, c M + m]$$

    This is `conv` with as many groups as channels.

    Args:
        x: image, shape (batch, *spatial, C).
        kernel: shape (*window, 1, C * M), of x's dtype, M the channel multiplier; output channel
            c M + m comes from input channel c.
        strides: step of the window in elements, as for `conv`.
        padding: as for `conv`.
        kernel_dilation: distance between taps in elements, as for `conv`.
        precision: of the products, as `jax.lax.Precision`.
        lowering: the form to compute by, as for `conv`.

    Returns:
        Shape (batch, *out_spatial, C * M), of x's dtype.

    Raises:
        ValueError: if the kernel's input features are not 1 or its output features are no multiple
            of C, and wherever `conv` does.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> x = jnp.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])[None]
        >>> sum_and_difference = jnp.array([[1.0, 1.0], [1.0, -1.0]]).reshape(2, 1, 2)
        >>> ops.depthwise_conv(x, sum_and_difference, padding="VALID")[0].tolist()
        [[3.0, -10.0], [6.0, -20.0]]

    Reference:
        Chollet 2017, "Xception: deep learning with depthwise separable convolutions"; Howard et al.
        2017, "MobileNets".
    """
    return convolve_depthwise(
        "depthwise_conv", x, kernel, strides, padding, kernel_dilation, precision, lowering
    )


def pointwise_conv(
    x: Image,
    kernel: Float[Given, "*window kernel_features out_features"],
    *,
    strides: Size = 1,
    precision: lax.PrecisionLike = None,
    lowering: str | None = None,
) -> Output:
    r"""Mix the channels at every position, by one matrix product.

    $$y[n, i, o] = \sum_c x[n, s i, c] \, w[0, c, o]$$

    Args:
        x: image, shape (batch, *spatial, C).
        kernel: shape (1, ..., 1, C, D), one 1 for each spatial axis, of x's dtype.
        strides: keep every s-th position, beginning with the first; one integer or one per axis.
        precision: of the products, as `jax.lax.Precision`.
        lowering: the form to compute by, as for `conv`.

    Returns:
        Shape (batch, *out_spatial, D), of x's dtype, where an output axis has ceil(n / s) elements.

    Raises:
        ValueError: if the kernel's window is not 1 along every axis, or ranks, channels or dtypes
            disagree, or a stride is below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> x = jnp.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])[None]
        >>> mix = jnp.array([[1.0, 2.0], [1.0, 0.0]]).reshape(1, 2, 2)
        >>> ops.pointwise_conv(x, mix, strides=2)[0].tolist()
        [[11.0, 2.0], [44.0, 8.0]]

    Reference:
        Lin, Chen and Yan 2014, "Network in network".
    """
    return convolve_pointwise("pointwise_conv", x, kernel, strides, precision, lowering)


def convolve(
    op: str,
    x: Given,
    kernel: Given,
    strides: Size,
    padding: Padding,
    kernel_dilation: Size,
    groups: int,
    precision: lax.PrecisionLike,
    lowering: str | None,
) -> jax.Array:
    x, kernel = _shapes.check_arrays(op, x=x, kernel=kernel)
    rank = _shapes.check_ranks(op, x, kernel)
    groups = _shapes.check_features(op, x, kernel, groups)
    window = kernel.shape[:-2]
    move = _shapes.slide(
        op,
        x.shape[1:-1],
        window,
        window_name="kernel",
        strides=strides,
        padding=padding,
        dilation=kernel_dilation,
    )
    pads = move.pads
    if move.mode != "constant":
        x, pads = _shapes.pad_image(x, pads, move.mode), ((0, 0),) * rank
    geometry = Geometry(
        spatial=x.shape[1:-1],
        window=window,
        strides=move.strides,
        pads=tuple(pads),
        dilation=move.dilation,
        groups=groups,
        in_features=x.shape[-1],
        out_features=kernel.shape[-1],
        precision=_precision.fix(op, precision),
    )
    name = _lowering.resolve(op, lowering, geometry, x.dtype)
    return _bilinear.convolve(x, kernel, dataclasses.replace(geometry, lowering=name))


def convolve_depthwise(
    op: str,
    x: Given,
    kernel: Given,
    strides: Size,
    padding: Padding,
    kernel_dilation: Size,
    precision: lax.PrecisionLike,
    lowering: str | None,
) -> jax.Array:
    x, kernel = _shapes.check_arrays(op, x=x, kernel=kernel)
    _shapes.check_ranks(op, x, kernel)
    channels = x.shape[-1]
    if channels < 1 or kernel.shape[-2] != 1 or kernel.shape[-1] % channels:
        raise ValueError(
            f"{op}: kernel has shape {kernel.shape} and x {channels} channels; expected "
            f"(*window, 1, {channels} * M) for a channel multiplier M"
        )
    return convolve(op, x, kernel, strides, padding, kernel_dilation, channels, precision, lowering)


def convolve_pointwise(
    op: str,
    x: Given,
    kernel: Given,
    strides: Size,
    precision: lax.PrecisionLike,
    lowering: str | None,
) -> jax.Array:
    x, kernel = _shapes.check_arrays(op, x=x, kernel=kernel)
    rank = _shapes.check_ranks(op, x, kernel)
    if kernel.shape[:-2] != (1,) * rank:
        raise ValueError(
            f"{op}: kernel has shape {kernel.shape}; expected a window of 1 along every axis, "
            f"{(*(1,) * rank, *kernel.shape[-2:])}"
        )
    return convolve(op, x, kernel, strides, "VALID", 1, 1, precision, lowering)
