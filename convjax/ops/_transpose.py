"""Transposed convolutions: the image is spread out by the stride, then convolved."""

from functools import partial

import jax
from jax import lax
from jaxtyping import Array, Float

from convjax.ops import _lowering, _precision, _shapes
from convjax.ops._adjoint import adjoint
from convjax.ops._forms import _lax
from convjax.ops._geometry import Geometry
from convjax.ops._shapes import Given, Padding, Size
from convjax.ops._shield import shielded

_NAMES = ("SAME", "SAME_LOWER", "VALID", "CAUSAL", "CIRCULAR")


def conv_transpose(
    x: Float[Given, "batch *spatial in_features"],
    kernel: Float[Given, "*window in_per_group out_features"],
    *,
    strides: Size = 1,
    padding: Padding = "SAME",
    kernel_dilation: Size = 1,
    feature_group_count: int = 1,
    output_padding: Size = 0,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "batch *out_spatial out_features"]:
    r"""Convolve an image whose elements are spread s apart with zeros between (fractional stride).

    $$y[n, j, o] = \sum_{t, c} \hat{x}[n, j + d t - a, c] \, w[t, c, o], \qquad
      \hat{x}[n, s i, c] = x[n, i, c]$$

    and zero elsewhere, where a = d (k - 1) - low. As in Flax and `jax.lax.conv_transpose`, the
    kernel is neither flipped nor are its features exchanged. The adjoint of `conv` with kernel w is
    therefore this function, with the same strides, dilation and explicit padding, for w flipped
    along its window axes and with its last two axes exchanged (in one group).

    The kernel of a PyTorch ConvTranspose with weight v of shape (C, D // groups, *window) is
    w[t, c, o] = v[c, o, k - 1 - t] in one group; with G groups, each group's (C // G, D // G) block
    is taken so, and the blocks are joined along the last axis.

    Args:
        x: image, shape (batch, *spatial, C), with one, two or three spatial axes.
        kernel: shape (*window, C // feature_group_count, D), of x's dtype.
        strides: distance to which neighbours are spread, in elements.
        padding: with e = d (k - 1) + 1 the extent of the window, and n the size of an axis,
            "SAME": output size n s, as in Flax;
            "SAME_LOWER": output size n s, the adjoint of "SAME_LOWER" in `conv`;
            "VALID": output size n s + max(e - s, 0), as in Flax;
            "CAUSAL": output size n s, and y[j] sees x[i] with s i <= j only (one spatial axis only;
            with stride 1 it is "CAUSAL" in `conv`);
            "CIRCULAR": output size n s, with the parts of "VALID" that lie beyond it wrapped round;
            an integer, one per axis, or one pair (low, high) per axis: **as in PyTorch** the
            padding of the convolution that this one transposes, so larger padding gives a smaller
            output, of size (n - 1) s - low - high + d (k - 1) + output_padding + 1. Flax's explicit
            pairs mean d (k - 1) - low and d (k - 1) - high instead.
        kernel_dilation: distance between taps in elements.
        feature_group_count: number of groups that the channels are split into, as for `conv`.
        output_padding: elements added to the high side of the output, less than the stride or the
            dilation; goes with explicit padding only.
        precision: of the products, as `jax.lax.Precision`.

    Returns:
        Shape (batch, *out_spatial, D), of x's dtype.

    Raises:
        ValueError: if ranks, channels, groups or dtypes disagree, a stride or dilation is below 1,
            the padding is unknown, output_padding is out of range or comes with a named padding, or
            the output would be empty.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> x = jnp.array([1.0, 2.0, 4.0]).reshape(1, 3, 1)
        >>> interpolate = jnp.array([0.5, 1.0, 0.5]).reshape(3, 1, 1)
        >>> ops.conv_transpose(x, interpolate, strides=2, padding=1).ravel().tolist()
        [1.0, 1.5, 2.0, 3.0, 4.0]
        >>> ops.conv_transpose(x, interpolate, strides=2, padding="VALID").ravel().tolist()
        [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 2.0]

    Reference:
        Zeiler et al. 2010, "Deconvolutional networks"; Dumoulin and Visin 2016, "A guide to
        convolution arithmetic".
    """
    op = "conv_transpose"
    x, kernel = _shapes.check_arrays(op, x=x, kernel=kernel)
    rank = _shapes.check_ranks(op, x, kernel)
    groups = _shapes.check_features(op, x, kernel, feature_group_count)
    steps = _shapes.per_axis(op, "strides", strides, rank)
    spread = _shapes.per_axis(op, "kernel_dilation", kernel_dilation, rank)
    extra = _shapes.per_axis(op, "output_padding", output_padding, rank, minimum=0)
    image, window = x.shape[1:-1], kernel.shape[:-2]
    extents = tuple(d * (k - 1) + 1 for k, d in zip(window, spread, strict=True))

    sides = _shapes.check_padding(op, padding, rank, _NAMES)
    if isinstance(sides, str):
        if any(extra):
            raise ValueError(
                f"{op}: output_padding={output_padding!r} goes with explicit padding only; "
                f"padding {padding!r} already fixes the output size"
            )
        pads = tuple(_named_pads(sides, e, s) for e, s in zip(extents, steps, strict=True))
    else:
        if any(o >= max(s, d) for o, s, d in zip(extra, steps, spread, strict=True) if o):
            raise ValueError(
                f"{op}: output_padding={output_padding!r} must be less than strides {steps} "
                f"or kernel_dilation {spread} along every axis"
            )
        pads = tuple(
            (e - 1 - low, e - 1 - high + o)
            for e, (low, high), o in zip(extents, sides, extra, strict=True)
        )
    for axis, (n, s, e, pad) in enumerate(zip(image, steps, extents, pads, strict=True)):
        if window[axis] < 1 or n < 1 or (n - 1) * s + 1 + sum(pad) < e:
            raise ValueError(
                f"{op}: padding={padding!r} leaves no output along spatial axis {axis}, where x "
                f"has {n} elements and the kernel {window[axis]}, strides {s}"
            )
    if sides == "CIRCULAR":
        x, pads = _wrap(op, x, pads, steps)
    geometry = Geometry(
        spatial=tuple(
            (n - 1) * s + 1 + sum(pad) - e + 1
            for n, s, e, pad in zip(x.shape[1:-1], steps, extents, pads, strict=True)
        ),
        window=window,
        strides=steps,
        pads=pads,
        dilation=spread,
        groups=groups,
        in_features=kernel.shape[-1],
        out_features=x.shape[-1],
        precision=_precision.fix(op, precision),
        lowering=_lowering.of_block(),
    )
    compute = adjoint(x.shape[1:-1], geometry)
    if compute is None:
        return shielded(partial(_lax.spread_out, pads=pads, geometry=geometry), x, kernel)
    return compute(x, kernel)


def _named_pads(padding: str, extent: int, stride: int) -> tuple[int, int]:
    """Zeros around the spread image, so that the output has the size that the name promises."""
    overhang = max(extent - stride, 0)
    match padding:
        case "VALID":
            return extent - 1, overhang + stride - 1
        case "CAUSAL":
            return extent - 1, stride - 1
        case "SAME_LOWER":
            low = extent - 1 - (overhang + 1) // 2
        case _:
            low = extent - 1 - overhang // 2
    return low, extent + stride - 2 - low


def _wrap(
    op: str, x: jax.Array, pads: tuple[tuple[int, int], ...], strides: tuple[int, ...]
) -> tuple[jax.Array, tuple[tuple[int, int], ...]]:
    """Replace zeros around the spread image by its own periodic continuation."""
    whole = tuple((lo // s, hi // s) for (lo, hi), s in zip(pads, strides, strict=True))
    for axis, pad in enumerate(whole):
        if max(pad) > x.shape[1 + axis]:
            raise ValueError(
                f"{op}: padding 'CIRCULAR' needs {pad} elements along spatial axis {axis}, more "
                f"than an image of {x.shape[1 + axis]} has to give"
            )
    rest = tuple((lo % s, hi % s) for (lo, hi), s in zip(pads, strides, strict=True))
    return _shapes.pad_image(x, whole, "wrap"), rest
