"""Static facts about a window that slides over an image, and the refusal of what cannot be meant.

Everything here looks at shapes, dtypes and Python numbers only, so it also runs while JAX traces.
"""

import difflib
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

Size = int | Sequence[int]
"""One integer for every spatial axis, or one per axis."""

Padding = str | int | Sequence[int | Sequence[int]]
"""A name, one integer (both sides, every axis), one per axis, or pairs (low, high) per axis."""

PADDING_NAMES = ("SAME", "SAME_LOWER", "VALID", "CAUSAL", "CIRCULAR", "REFLECT")


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
    try:
        entries = (operator.index(value),) * rank  # pyright: ignore[reportArgumentType]
    except TypeError:
        entries = tuple(operator.index(entry) for entry in value)  # pyright: ignore
    if len(entries) != rank:
        raise ValueError(
            f"{op}: {name}={value!r} has {len(entries)} entries for {rank} spatial axes; "
            f"give one integer or {rank} of them"
        )
    if any(entry < minimum for entry in entries):
        raise ValueError(f"{op}: {name}={value!r} must be at least {minimum} along every axis")
    return entries


def check_name(op: str, name: str, value: str, known: Sequence[str]) -> str:
    """Return `value` if it is one of `known`; otherwise raise with the nearest that is."""
    if value in known:
        return value
    names = {name.upper(): name for name in known}
    near = difflib.get_close_matches(str(value).upper(), names, n=1, cutoff=0.4)
    hint = f"did you mean {names[near[0]]!r}? " if near else ""
    raise ValueError(f"{op}: unknown {name} {value!r}; {hint}known names: {', '.join(known)}")


def check_floating(op: str, **arrays: jax.Array | None) -> None:
    """Refuse arrays that are not floating, or that differ in dtype: no silent promotion."""
    given = {name: array.dtype for name, array in arrays.items() if array is not None}
    for name, dtype in given.items():
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"{op}: {name} has dtype {dtype}; cast it to a floating dtype first")
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name} is {dtype}" for name, dtype in given.items())
        raise ValueError(f"{op}: {listed}; cast them to one dtype, nothing is promoted silently")


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


def check_features(op: str, x: jax.Array, kernel: jax.Array, groups: int) -> None:
    """Check that x's channels, the kernel's two feature axes and the group count fit together."""
    channels, (per_group, out_features) = x.shape[-1], kernel.shape[-2:]
    if groups < 1:
        raise ValueError(f"{op}: feature_group_count={groups} must be at least 1")
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


def explicit_padding(
    op: str, padding: int | Sequence[int | Sequence[int]], rank: int
) -> tuple[tuple[int, int], ...]:
    """Turn integers or pairs into one pair (low, high) per spatial axis."""
    entries = (padding,) * rank if isinstance(padding, int) else tuple(padding)
    if len(entries) != rank:
        raise ValueError(
            f"{op}: padding={padding!r} has {len(entries)} entries for {rank} spatial axes; "
            f"give a name, one integer, {rank} integers or {rank} pairs (low, high)"
        )
    pairs = []
    for entry in entries:
        pair = (entry, entry) if not isinstance(entry, Sequence) else tuple(entry)
        if len(pair) != 2 or any(operator.index(side) < 0 for side in pair):
            raise ValueError(
                f"{op}: padding={padding!r} holds {entry!r}; "
                "expected an integer or a pair (low, high), none of them negative"
            )
        pairs.append((operator.index(pair[0]), operator.index(pair[1])))
    return tuple(pairs)


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
    if isinstance(padding, str):
        check_name(op, "padding", padding, PADDING_NAMES)
        if padding == "CAUSAL" and rank != 1:
            raise ValueError(f"{op}: padding 'CAUSAL' is for 1 spatial axis, this image has {rank}")
        pads = tuple(
            _named_pads(padding, n, e, s) for n, e, s in zip(image, extents, steps, strict=True)
        )
        mode = {"CIRCULAR": "wrap", "REFLECT": "reflect"}.get(padding, "constant")
    else:
        pads, mode = explicit_padding(op, padding, rank), "constant"

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
