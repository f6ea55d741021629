"""Convolutions taken apart: depthwise then pointwise, or one spatial axis after the other."""

from jax import lax
from jaxtyping import Float

from convjax.ops import _shapes
from convjax.ops._conv import Image, Output, convolve, convolve_depthwise, convolve_pointwise
from convjax.ops._shapes import Given, Padding, Size


def separable_conv(
    x: Image,
    depthwise_kernel: Float[Given, "*window one mid_features"],
    pointwise_kernel: Float[Given, "*ones mid_features_out out_features"],
    *,
    strides: Size = 1,
    padding: Padding = "SAME",
    kernel_dilation: Size = 1,
    precision: lax.PrecisionLike = None,
) -> Output:
    r"""Convolve every channel for itself, then mix the channels: a depthwise separable convolution.

    $$y = \mathrm{pointwise}(\mathrm{depthwise}(x, w_d), w_p)$$

    Equal to `conv` with the kernel $w[t, c, o] = \sum_m w_d[t, 0, c M + m] \, w_p[0, c M + m, o]$.

    Args:
        x: image, shape (batch, *spatial, C).
        depthwise_kernel: shape (*window, 1, C * M), of x's dtype.
        pointwise_kernel: shape (1, ..., 1, C * M, D), of x's dtype.
        strides: of the depthwise convolution, as for `conv`.
        padding: of the depthwise convolution, as for `conv`.
        kernel_dilation: of the depthwise convolution, as for `conv`.
        precision: of the products, as `jax.lax.Precision`.

    Returns:
        Shape (batch, *out_spatial, D), of x's dtype.

    Raises:
        ValueError: wherever `depthwise_conv` or `pointwise_conv` does.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> x = jnp.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])[None]
        >>> sums = jnp.array([[1.0, 1.0], [1.0, -1.0]]).reshape(2, 1, 2)
        >>> mix = jnp.array([10.0, 1.0]).reshape(1, 2, 1)
        >>> ops.separable_conv(x, sums, mix, padding="VALID")[0].tolist()
        [[20.0], [40.0]]

    Reference:
        Sifre 2014, "Rigid-motion scattering for image classification"; Chollet 2017, "Xception".
    """
    op = "separable_conv"
    x, depthwise_kernel, pointwise_kernel = _shapes.check_arrays(
        op, x=x, depthwise_kernel=depthwise_kernel, pointwise_kernel=pointwise_kernel
    )
    if depthwise_kernel.shape[-1:] != pointwise_kernel.shape[-2:-1]:
        raise ValueError(
            f"{op}: depthwise_kernel {depthwise_kernel.shape} gives other features than "
            f"pointwise_kernel {pointwise_kernel.shape} takes; expected (*window, 1, C * M) and "
            "(1, ..., 1, C * M, D)"
        )
    deep = convolve_depthwise(
        f"{op}, depthwise_kernel",
        x,
        depthwise_kernel,
        strides,
        padding,
        kernel_dilation,
        precision,
        None,
    )
    return convolve_pointwise(f"{op}, pointwise_kernel", deep, pointwise_kernel, 1, precision, None)


def spatial_separable_conv(
    x: Image,
    *kernels: Float[Given, "..."],
    strides: Size = 1,
    padding: Padding = "SAME",
    kernel_dilation: Size = 1,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> Output:
    r"""Convolve along one spatial axis after the other, each with a kernel of its own.

    $$y = (x * w_1) * w_2 * \dots, \qquad w_a \text{ extends along spatial axis } a \text{ only}$$

    In two dimensions: a column kernel (k, 1, C, D), then a row kernel (1, k, D, E). With one
    channel throughout, or channel by channel, it equals `conv` with the outer product of the
    kernels, at 2 k instead of k^2 products per element.

    Args:
        x: image, shape (batch, *spatial, C).
        *kernels: one per spatial axis, in axis order; kernel a has window 1 along every axis but
            axis a, and takes the features that its predecessor gives. All of x's dtype.
        strides: one integer or one per axis; kernel a takes the step along axis a.
        padding: as for `conv`; kernel a takes the padding of axis a.
        kernel_dilation: one integer or one per axis, in elements; kernel a takes that of axis a.
        feature_group_count: number of groups, the same for every kernel.
        precision: of the products, as `jax.lax.Precision`.

    Returns:
        Shape (batch, *out_spatial, E), of x's dtype, E the output features of the last kernel.

    Raises:
        ValueError: if the number of kernels is not the number of spatial axes, a kernel extends
            along an axis that is not its own, and wherever `conv` does.

    Example:
        Sobel's horizontal edge, as a difference of rows after a smoothing along them:

        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1) ** 2
        >>> column = jnp.array([1.0, 0.0, -1.0]).reshape(3, 1, 1, 1)
        >>> row = jnp.array([1.0, 2.0, 1.0]).reshape(1, 3, 1, 1)
        >>> ops.spatial_separable_conv(x, column, row, padding="VALID").tolist()
        [[[[-192.0]]]]

    Reference:
        Rigamonti et al. 2013, "Learning separable filters"; Szegedy et al. 2016, "Rethinking the
        Inception architecture".
    """
    op = "spatial_separable_conv"
    named = {f"kernels[{i}]": kernel for i, kernel in enumerate(kernels)}
    y, *own_axis = _shapes.check_arrays(op, x=x, **named)
    rank = y.ndim - 2
    if len(kernels) != rank or rank < 1:
        raise ValueError(
            f"{op}: {len(kernels)} kernels for x {y.shape}, which has {rank} spatial axes; "
            "give one kernel per spatial axis, in axis order"
        )
    steps = _shapes.per_axis(op, "strides", strides, rank)
    spread = _shapes.per_axis(op, "kernel_dilation", kernel_dilation, rank)
    pads = _shapes.check_padding(op, padding, rank)
    for axis, kernel in enumerate(own_axis):
        name = f"{op}, kernel {axis}"
        _shapes.check_ranks(name, y, kernel)
        if any(k != 1 for a, k in enumerate(kernel.shape[:-2]) if a != axis):
            raise ValueError(
                f"{name}: it has shape {kernel.shape}, but may extend along spatial axis "
                f"{axis} only, with a window of 1 along the others"
            )
        own = [int(a == axis) for a in range(rank)]
        y = convolve(
            name,
            y,
            kernel,
            [steps[axis] if mine else 1 for mine in own],
            pads if isinstance(pads, str) else [pads[axis] if mine else (0, 0) for mine in own],
            [spread[axis] if mine else 1 for mine in own],
            feature_group_count,
            precision,
            None,
        )
    return y
