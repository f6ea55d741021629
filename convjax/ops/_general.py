"""`jax.lax.conv_general_dilated` by the convolution of this package, for networks written with it.

`conv` takes one layout and refuses much that lax allows. Here every layout is brought into that
one, and what `conv` would not take goes to lax, which computes it or says what is wrong with it.
"""

import operator
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from convjax.ops import _conv, _precision, _shapes
from convjax.ops._lowering import LOWERINGS
from convjax.ops._shield import shielded

_OP = "conv_general_dilated"
_NAMES = ("SAME", "SAME_LOWER", "VALID")  # of the paddings that lax knows


def conv_general_dilated(
    lhs: jax.Array | np.ndarray,
    rhs: jax.Array | np.ndarray,
    window_strides: Sequence[int],
    padding: str | Sequence[Sequence[int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Sequence[str] | lax.ConvDimensionNumbers | None = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: NamedSharding | PartitionSpec | None = None,
    lowering: str | None = None,
) -> jax.Array:
    r"""Convolve as `jax.lax.conv_general_dilated` does, with the derivatives of `conv`.

    $$y[n, i, o] = \sum_{t, c} x[n, s i + d t - \ell, c] \, w[t, c, o]$$

    with x, w and y being lhs, rhs and the result after `dimension_numbers` are transposed away, and
    the other letters as for `conv`. Arguments, results and refusals are those of lax, up to the
    rounding of sums, so that this is what a Flax layer's `conv_general_dilated` can be.

    What `conv` does not compute is handed to lax unchanged, and has the speed of lax:
    `lhs_dilation` or `batch_group_count` other than 1, none or more than three spatial axes, dtypes
    that are not floating or differ (from each other, or from `preferred_element_type`), arrays
    that are empty, weakly typed, of symbolic size (the batch may be), or no JAX arrays, and
    shardings (`out_sharding`, or an operand whose type names mesh axes).

    Args:
        lhs: image; its layout is `dimension_numbers[0]`, by default (batch, C, *spatial).
        rhs: kernel; its layout is `dimension_numbers[1]`, by default
            (D, C // feature_group_count, *window).
        window_strides: step of the window in elements, one integer per spatial axis.
        padding: "SAME", "SAME_LOWER" or "VALID", or one pair (low, high) per spatial axis: that
            many zeros on either side, or elements cut off where negative.
        lhs_dilation: distance between the image's elements, one integer per spatial axis; None is
            1 everywhere.
        rhs_dilation: distance between taps in elements, one integer per spatial axis; None is 1
            everywhere.
        dimension_numbers: three strings that name the axes of lhs (N, C), rhs (O, I) and the result
            (N, C), spatial axes by any other letters and in the order of rhs's; or a
            `jax.lax.ConvDimensionNumbers`; None is ("NCHW", "OIHW", "NCHW") in two dimensions.
        feature_group_count: number of groups that the channels are split into.
        batch_group_count: number of groups that the batch is split into.
        precision: of the products, as `jax.lax.Precision`, one or a pair; None is the backend's
            default.
        preferred_element_type: dtype of the sums and of the result; None is that of lhs and rhs.
        out_sharding: how the result is spread over a mesh whose axes are explicit.
        lowering: the form to compute by, as for `conv`; None is what lax's signature knows. What is
            handed to lax is served by "auto" and "lax" alone.

    Returns:
        The convolution, its layout `dimension_numbers[2]`, by default (batch, D, *out_spatial).

    Raises:
        TypeError: wherever lax does: if `dimension_numbers` do not fit, or dtypes differ.
        ValueError: wherever lax does: if shapes, groups, strides or paddings disagree; and if the
            lowering named is unknown or cannot serve the call.
        RuntimeError: wherever lax does: if the padding is of an unknown name.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from convjax import ops
        >>> x = jnp.array([1.0, 2.0, 4.0, 7.0]).reshape(1, 1, 4)
        >>> difference = jnp.array([-1.0, 0.0, 1.0]).reshape(1, 1, 3)
        >>> ops.conv_general_dilated(x, difference, (1,), "SAME").ravel().tolist()
        [2.0, 3.0, 5.0, -4.0]

        A network of Flax's layers gets it by one argument:

        >>> layer = nnx.Conv(
        ...     3, 8, (3, 3), conv_general_dilated=ops.conv_general_dilated, rngs=nnx.Rngs(0)
        ... )
        >>> layer(jnp.zeros((2, 32, 32, 3))).shape
        (2, 32, 32, 8)

    Reference:
        `jax.lax.conv_general_dilated` in JAX's documentation.
    """
    if lowering is not None:
        _shapes.check_name(_OP, "lowering", lowering, LOWERINGS)
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    ordinary = (
        (lhs_dilation is None or tuple(lhs_dilation) == (1,) * (lhs.ndim - 2))
        and batch_group_count == 1
        and out_sharding is None
        and _are_plain(lhs, rhs, preferred_element_type)
    )
    move = (window_strides, padding, rhs_dilation, feature_group_count, precision)
    call = _canonical_call(lhs, rhs, numbers, *move) if ordinary else None
    if call is None:
        by_lax = partial(
            lax.conv_general_dilated,
            window_strides=window_strides,
            padding=padding,  # pyright: ignore[reportArgumentType]
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=numbers,
            feature_group_count=feature_group_count,
            batch_group_count=batch_group_count,
            precision=precision,
            preferred_element_type=preferred_element_type,
            out_sharding=out_sharding,
        )
        y = shielded(by_lax, lhs, rhs)  # which refuses in lax's words what is wrong
        if lowering not in (None, "auto", "lax"):
            raise ValueError(
                f"{_OP}: lowering={lowering!r} cannot serve this call, which is handed to lax; "
                "'auto' or 'lax' can"
            )
        return y
    y = _conv.convolve(_OP, *call, feature_group_count, precision, lowering)
    batch, features, *spatial = numbers.out_spec
    return lax.transpose(y, np.argsort((batch, *spatial, features)))


def _are_plain(lhs, rhs, preferred_element_type: DTypeLike | None) -> bool:
    """Whether both are arrays of the one floating dtype asked for, and no mesh holds them."""
    if not (isinstance(lhs, jax.Array) and isinstance(rhs, jax.Array)):
        return False
    wanted = lhs.dtype if preferred_element_type is None else np.dtype(preferred_element_type)
    if not (lhs.dtype == rhs.dtype == wanted and jnp.issubdtype(wanted, jnp.floating)):
        return False
    types = jax.typeof(lhs), jax.typeof(rhs)
    sharded = any(axis is not None for t in types for axis in t.sharding.spec)
    return not sharded and not all(t.weak_type for t in types)


class _Call(NamedTuple):
    """What `convolve` takes between its name and its groups."""

    x: jax.Array
    kernel: jax.Array
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]


def _canonical_call(
    lhs,
    rhs,
    numbers: lax.ConvDimensionNumbers,
    window_strides,
    padding,
    rhs_dilation,
    groups,
    precision,
) -> _Call | None:
    """Return the channels-last convolution that is meant; None if it is one that `conv` refuses."""
    batch, features, *spatial = numbers.lhs_spec
    outputs, inputs, *window = numbers.rhs_spec
    try:
        _precision.fix(_OP, precision)
        x = lax.transpose(lhs, (batch, *spatial, features))
        kernel = lax.transpose(rhs, (*window, inputs, outputs))
        # While shapes are symbolic, no comparison can tell whether the output is empty.
        known = all(isinstance(n, int) for n in (*x.shape[1:], *kernel.shape))
        if not known or 0 in (*x.shape, *kernel.shape):
            return None
        rank = _shapes.check_ranks(_OP, x, kernel)
        _shapes.check_features(_OP, x, kernel, groups)
        x, padding = _crop(x, padding)
        move = _shapes.slide(
            _OP,
            x.shape[1:-1],
            kernel.shape[:-2],
            window_name="rhs",
            strides=tuple(window_strides),
            padding=padding,
            dilation=(1,) * rank if rhs_dilation is None else tuple(rhs_dilation),
        )
    except (TypeError, ValueError):
        return None
    return _Call(x, kernel, move.strides, move.pads, move.dilation)


def _crop(x: jax.Array, padding) -> tuple[jax.Array, str | list[tuple[int, int]]]:
    """Pad x by lax if that cuts off anything, and return it with the padding left to do.

    Raises:
        ValueError: if the padding's name is none of lax's, or nothing of x would remain.
        TypeError: if the padding is not a sequence of pairs of integers.
    """
    if isinstance(padding, str):
        return x, _shapes.check_name(_OP, "padding", padding.upper(), _NAMES)
    pads = [(operator.index(low), operator.index(high)) for low, high in padding]
    if all(low >= 0 and high >= 0 for low, high in pads):
        return x, pads
    config = [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)]
    return lax.pad(x, np.zeros((), x.dtype), config), [(0, 0)] * len(pads)
