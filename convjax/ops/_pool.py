"""Pooling: the maximum or the average over a window, or over the whole image."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from convjax import _check
from convjax.ops import _bilinear, _shapes
from convjax.ops._forms import _shift
from convjax.ops._geometry import Geometry
from convjax.ops._maximum import Windows, windowed_maximum
from convjax.ops._shapes import Given, Padding, Size
from convjax.ops._shield import shield

Image = Float[Given, "batch *spatial features"]
Pooled = Float[Array, "batch *out_spatial features"]


def max_pool(
    x: Image,
    window_shape: Size,
    *,
    strides: Size | None = None,
    padding: Padding = "VALID",
    zero_pad: bool = False,
) -> Pooled:
    r"""Take the maximum over a sliding window.

    $$y[n, i, c] = \max_t x[n, s i + t - \ell, c]$$

    Minus infinity lies beyond the edge of x, so padding never wins, unless it is zero. Among equal
    elements the derivative goes to the first of the window in row-major order. NaN wins over
    everything.

    Args:
        x: image, shape (batch, *spatial, C).
        window_shape: size of the window in elements, one integer or one per spatial axis.
        strides: step of the window in elements; None is window_shape, as in PyTorch and Keras
            (Flax: 1).
        padding: as for `conv`, but "VALID" unless asked for; every window must touch the image.
        zero_pad: whether zero lies beyond the edge instead, as where an image is padded before the
            pool (Keras's pre-activation ResNets).

    Returns:
        Shape (batch, *out_spatial, C), of x's dtype.

    Raises:
        ValueError: if x has no spatial axis, a number is out of range, the padding is unknown or
            leaves a window without an element of x, or the output would be empty.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> x = jnp.array([-5.0, -1.0, -2.0, -3.0]).reshape(1, 4, 1)
        >>> ops.max_pool(x, 2).ravel().tolist()
        [-1.0, -2.0]
        >>> ops.max_pool(x, 3, strides=2, padding=1).ravel().tolist()
        [-1.0, -1.0]

    Reference:
        Ranzato et al. 2007, "Unsupervised learning of invariant feature hierarchies".
    """
    zero_pad = _check.flag("max_pool: zero_pad", zero_pad)
    x, window, move = _plan("max_pool", x, window_shape, strides, padding)
    pads = tuple(move.pads)
    if move.mode != "constant" or zero_pad:
        x, pads = _shapes.pad_image(x, pads, move.mode), ((0, 0),) * len(window)
    windows = Windows((1, *window, 1), (1, *move.strides, 1), ((0, 0), *pads, (0, 0)))
    return windowed_maximum(x, windows)


def avg_pool(
    x: Image,
    window_shape: Size,
    *,
    strides: Size | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> Pooled:
    r"""Take the average over a sliding window.

    $$y[n, i, c] = \frac{1}{|T_i|} \sum_t x[n, s i + t - \ell, c]$$

    Zero lies beyond the edge of x. The sum is taken in at least float32.

    Args:
        x: image, shape (batch, *spatial, C).
        window_shape: size of the window in elements, one integer or one per spatial axis.
        strides: step of the window in elements; None is window_shape, as in PyTorch and Keras
            (Flax: 1).
        padding: as for `conv`, but "VALID" unless asked for; every window must touch the image.
        count_include_pad: whether |T_i| is the size of the whole window (PyTorch and Flax), or
            only of the part of it that lies on the image (Keras, TensorFlow). "CIRCULAR" and
            "REFLECT" fill the padding from the image, and the whole window counts either way.

    Returns:
        Shape (batch, *out_spatial, C), of x's dtype.

    Raises:
        ValueError: as `max_pool`.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> x = jnp.array([6.0, 12.0, 0.0, 3.0]).reshape(1, 4, 1)
        >>> ops.avg_pool(x, 2).ravel().tolist()
        [9.0, 1.5]
        >>> ops.avg_pool(x, 3, strides=3, padding=1).ravel().tolist()
        [6.0, 1.0]
        >>> ops.avg_pool(x, 3, strides=3, padding=1, count_include_pad=False).ravel().tolist()
        [9.0, 1.5]

    Reference:
        LeCun et al. 1989, "Backpropagation applied to handwritten zip code recognition".
    """
    count_include_pad = _check.flag("avg_pool: count_include_pad", count_include_pad)
    x, window, move = _plan("avg_pool", x, window_shape, strides, padding)
    image, pads = x.shape[1:-1], move.pads
    if move.mode != "constant":
        x, pads = _shapes.pad_image(x, pads, move.mode), ((0, 0),) * len(window)
    wide = x.astype(_shapes.at_least_float32(x.dtype))
    total = _window_sum(wide, window, move.strides, tuple(pads))
    if count_include_pad or move.mode != "constant":
        share = np.asarray(1 / np.prod(window), wide.dtype)
    else:
        share = np.ones(())
        for n, k, s, (low, _), size in zip(
            image, window, move.strides, pads, move.output, strict=True
        ):
            start = np.arange(size) * s - low
            count = np.minimum(start + k, n) - np.maximum(start, 0)
            share = share[..., None] / count
        share = share[None, ..., None].astype(wide.dtype)
    return (total * share).astype(x.dtype)


def _window_sum(
    x: jax.Array,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
) -> jax.Array:
    """Add up what is under the window: a depthwise convolution by ones, where it can be unrolled.

    On CPU, XLA's windowed sum takes three to five times as long, and so does its derivative.
    """
    channels = x.shape[-1]
    geometry = Geometry(
        spatial=x.shape[1:-1],
        window=window,
        strides=strides,
        pads=pads,
        dilation=(1,) * len(window),
        groups=channels,
        in_features=channels,
        out_features=channels,
        lowering="shift",
    )
    if _shift.serves(geometry):
        return _bilinear.convolve(x, jnp.ones(geometry.kernel_shape, x.dtype), geometry)
    zero = np.zeros((), x.dtype)
    padding = ((0, 0), *pads, (0, 0))
    return lax.reduce_window(x, zero, lax.add, (1, *window, 1), (1, *strides, 1), padding)


def global_avg_pool(x: Image, *, keepdims: bool = False) -> Float[Array, "batch *ones features"]:
    r"""Average every channel over the whole image.

    $$y[n, c] = \frac{1}{|I|} \sum_{i \in I} x[n, i, c]$$

    The sum is taken in at least float32.

    Args:
        x: image, shape (batch, *spatial, C).
        keepdims: whether the spatial axes stay, with size 1.

    Returns:
        Shape (batch, C), or (batch, 1, ..., 1, C) with keepdims, of x's dtype.

    Raises:
        ValueError: if x has no spatial axis, or an empty one.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> ops.global_avg_pool(jnp.array([[1.0, 10.0], [2.0, 20.0], [6.0, 0.0]])[None]).tolist()
        [[3.0, 10.0]]

    Reference:
        Lin, Chen and Yan 2014, "Network in network".
    """
    x, axes = _spatial_axes("global_avg_pool", x)
    keepdims = _check.flag("global_avg_pool: keepdims", keepdims)
    wide = shield(x).astype(_shapes.at_least_float32(x.dtype))
    return jnp.mean(wide, axes, keepdims=keepdims).astype(x.dtype)


def global_max_pool(x: Image, *, keepdims: bool = False) -> Float[Array, "batch *ones features"]:
    r"""Take the maximum of every channel over the whole image.

    $$y[n, c] = \max_{i \in I} x[n, i, c]$$

    Equal maxima share the derivative.

    Args:
        x: image, shape (batch, *spatial, C).
        keepdims: whether the spatial axes stay, with size 1.

    Returns:
        Shape (batch, C), or (batch, 1, ..., 1, C) with keepdims, of x's dtype.

    Raises:
        ValueError: if x has no spatial axis, or an empty one.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> ops.global_max_pool(jnp.array([[1.0, 10.0], [2.0, 20.0], [6.0, 0.0]])[None]).tolist()
        [[6.0, 20.0]]

    Reference:
        Oquab et al. 2015, "Is object localization for free?".
    """
    x, axes = _spatial_axes("global_max_pool", x)
    keepdims = _check.flag("global_max_pool: keepdims", keepdims)
    x = shield(x)
    most = jnp.max(x, axes, keepdims=keepdims)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return most
    # JAX 0.12's largest of NaN is minus infinity on CPU.
    return jnp.where(jnp.any(jnp.isnan(x), axes, keepdims=keepdims), jnp.nan, most)


def _spatial_axes(op: str, x: Given) -> tuple[jax.Array, tuple[int, ...]]:
    (x,) = _shapes.check_arrays(op, x=x)
    if x.ndim < 3 or 0 in x.shape[1:-1]:
        raise ValueError(
            f"{op}: x has shape {x.shape}; expected (batch, *spatial, features) with at least one "
            "spatial axis, none of them empty"
        )
    return x, tuple(range(1, x.ndim - 1))


def _plan(
    op: str, x: Given, window_shape: Size, strides: Size | None, padding: Padding
) -> tuple[jax.Array, tuple[int, ...], _shapes.Slide]:
    x, axes = _spatial_axes(op, x)
    image, rank = x.shape[1:-1], len(axes)
    window = _shapes.per_axis(op, "window_shape", window_shape, rank)
    move = _shapes.slide(
        op,
        image,
        window,
        window_name="window_shape",
        strides=window if strides is None else strides,
        padding=padding,
    )
    for axis, (n, k, s, (low, _), size) in enumerate(
        zip(image, window, move.strides, move.pads, move.output, strict=True)
    ):
        if low >= k or (size - 1) * s - low >= n:
            raise ValueError(
                f"{op}: padding={padding!r} leaves a window without any element of x along spatial "
                f"axis {axis} of {n}; pad by less than the window of {k}"
            )
    return x, window, move
