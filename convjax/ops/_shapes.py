"""Static facts about a window that slides over an image, and the refusal of what cannot be meant.

Everything here looks at shapes, dtypes and Python numbers only, so it also runs while JAX traces.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from convjax import _check

Given = Array | np.ndarray
"""What is taken for an array; NumPy's float64 becomes what JAX makes of it."""

Size = int | Sequence[int]
"""One integer for every spatial axis, or one per axis."""

Padding = str | int | Sequence[int | Sequence[int]]
"""A name, one integer (both sides, every axis), one per axis, or pairs (low, high) per axis."""


class Slide(NamedTuple):
    """How a window moves over an image, with every choice resolved to numbers."""

    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    mode: str  # "constant", "wrap" or "reflect", as numpy.pad has them
    output: tuple[int, ...]


def per_axis(op: str, name: str, value: Size, rank: int, minimum: int = 1) -> tuple[int, ...]:
    """Spread `value` over `rank` axes: (2, 2) for 2 in two dimensions.

    Raises:
        ValueError: if the length is not `rank`, or an entry is below `minimum`.
    """
    found = _check.sizes(f"{op}: {name}", value, rank=rank, least=minimum)
    return found if isinstance(found, tuple) else (found,) * rank


def check_name(op: str, name: str, value: str, known: Sequence[str]) -> str:
    """Return `value` if it is one of `known`; otherwise raise with the nearest that is."""
    return _check.choice(f"{op}: {name}", value, known)


def check_arrays(op: str, **arrays: Any) -> tuple[jax.Array, ...]:
    """Return arrays of one floating dtype, which JAX gives them: no silent promotion.

    Raises:
        ValueError: if one is no array, is not floating, or differs from the others in dtype.
    """
    for name, value in arrays.items():
        arrays[name] = value = _check.array(f"{op}: {name}", value)
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(
                f"{op}: {name} has dtype {value.dtype}; cast it to a floating dtype first"
            )
    given = {name: value.dtype for name, value in arrays.items()}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name} is {dtype}" for name, dtype in given.items())
        raise ValueError(f"{op}: {listed}; cast them to one dtype, nothing is promoted silently")
    return tuple(arrays.values())


def check_ranks(op: str, x: jax.Array, kernel: jax.Array) -> int:
    """Return the spatial rank, kernel.ndim - 2, after checking that x agrees with it."""
    rank = kernel.ndim - 2
    if rank not in (1, 2, 3):
        raise ValueError(
            f"{op}: kernel has shape {kernel.shape}, {kernel.ndim} axes; "
            "expected 3, 4 or 5 (1 to 3 window axes, input features, output features)"
        )
    if x.ndim != kernel.ndim:
        raise ValueError(
            f"{op}: x has shape {x.shape}, {x.ndim} axes, but kernel {kernel.shape} expects "
            f"{kernel.ndim} (batch, {rank} spatial, features)"
        )
    return rank


def check_features(op: str, x: jax.Array, kernel: jax.Array, groups: int) -> int:
    """Return the group count after checking that x's channels and the kernel's features fit it."""
    channels, (per_group, out_features) = x.shape[-1], kernel.shape[-2:]
    groups = _check.integer(f"{op}: feature_group_count", groups, 1)
    if channels != per_group * groups:
        split = (
            f"; {channels} channels do not divide into {groups} groups" if channels % groups else ""
        )
        raise ValueError(
            f"{op}: x has {channels} channels but kernel {kernel.shape} with "
            f"feature_group_count={groups} expects {per_group * groups}{split}"
        )
    if out_features % groups:
        raise ValueError(
            f"{op}: kernel {kernel.shape} has {out_features} output features, which "
            f"feature_group_count={groups} does not divide"
        )
    return groups


def check_padding(
    op: str, padding: Padding, rank: int, known: Sequence[str] = _check.PADDINGS
) -> str | tuple[tuple[int, int], ...]:
    """Return a padding's name, or one pair (low, high) per spatial axis."""
    found = _check.padding(f"{op}: padding", padding, rank=rank, known=known)
    if isinstance(found, str):
        return found
    entries = (found,) * rank if isinstance(found, int) else found
    return tuple((side, side) if isinstance(side, int) else side for side in entries)


def slide(
    op: str,
    image: tuple[int, ...],
    window: tuple[int, ...],
    *,
    window_name: str,
    strides: Size,
    padding: Padding,
    dilation: Size = 1,
) -> Slide:
    """Resolve strides, dilation and padding of a window of `window` over an image of `image`.

    Along an axis of n elements a window of k taps at dilation d extends over e = d (k - 1) + 1,
    and the output has floor((n + low + high - e) / s) + 1 elements.

    Raises:
        ValueError: if a number is out of range, a name is unknown, or the output would be empty.
    """
    rank = len(image)
    steps = per_axis(op, "strides", strides, rank)
    spread = per_axis(op, "kernel_dilation", dilation, rank)
    extents = tuple(d * (k - 1) + 1 for k, d in zip(window, spread, strict=True))
    padding = check_padding(op, padding, rank)
    if isinstance(padding, str):
        pads = tuple(
            _named_pads(padding, n, e, s) for n, e, s in zip(image, extents, steps, strict=True)
        )
        mode = {"CIRCULAR": "wrap", "REFLECT": "reflect"}.get(padding, "constant")
    else:
        pads, mode = padding, "constant"

    room = {"wrap": 0, "reflect": -1}.get(mode)
    for axis, (n, pad) in enumerate(zip(image, pads, strict=True)):
        if room is not None and max(pad) > n + room:
            raise ValueError(
                f"{op}: padding {padding!r} needs {pad} elements along spatial axis {axis}, more "
                f"than an image of {n} has to give (at most {n + room})"
            )
    output = tuple(
        (n + sum(pad) - e) // s + 1
        for n, pad, e, s in zip(image, pads, extents, steps, strict=True)
    )
    for axis, size in enumerate(output):
        if size < 1 or window[axis] < 1:
            raise ValueError(
                f"{op}: {window_name} of {window[axis]} taps extends over {extents[axis]} elements "
                f"along spatial axis {axis}, where x has {image[axis]} plus padding {pads[axis]}; "
                "the output would be empty"
            )
    return Slide(steps, spread, pads, mode, output)


def _named_pads(padding: str, n: int, extent: int, stride: int) -> tuple[int, int]:
    match padding:
        case "VALID":
            return 0, 0
        case "CAUSAL":
            return extent - 1, 0
        case "CIRCULAR" | "REFLECT":
            # As in Flax: the extents do not depend on the stride, unlike those of SAME.
            return (extent - 1) // 2, extent // 2
    total = max((math.ceil(n / stride) - 1) * stride + extent - n, 0)
    low = total // 2 if padding == "SAME" else total - total // 2
    return low, total - low


def pad_image(x: jax.Array, pads: Sequence[tuple[int, int]], mode: str) -> jax.Array:
    """Pad the spatial axes of x (batch, *spatial, features) by wrapping or reflecting it."""
    return jnp.pad(x, ((0, 0), *pads, (0, 0)), mode=mode)


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which sums over many elements of `dtype` are accumulated."""
    # Not jnp.promote_types: that refuses two float dtypes where strict promotion is asked for.
    return jnp.dtype(dtype if jnp.finfo(dtype).bits > 32 else jnp.float32)
