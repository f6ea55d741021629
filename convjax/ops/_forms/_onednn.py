"""Convolutions by oneDNN, which lies inside jaxlib's wheels for x86-64 and Linux.

XLA's CPU compiler calls it where a program asks for it by name; there is no flag that makes it do
so by itself. It blocks for registers and vectors as XLA's own convolutions do not.

What oneDNN cannot do ends the process. Hence it is called for what `tests/ops/onednn_table.py` has
tried, and for nothing else. A program that holds such a call runs where it was compiled alone, and
JAX cannot write it to disk: `_choose` says when it is left out.
"""

import functools
import json
import math
import os
import platform
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax.ops import _precision, _shapes
from convjax.ops._forms import _lax, _product, _windows
from convjax.ops._geometry import Geometry

SERVES = (
    "float32, and bfloat16 where the processor has AVX-512, at the backend's default precision, by "
    "a jaxlib for x86-64 and Linux"
)
_CONVOLUTION, _PRODUCT = "__onednn$convolution", "__onednn$matmul"
# The table has been tried with these versions of JAX, from the first on and before the last.
_TRIED = ((0, 10, 1), (0, 13))
# Copies of about this many bytes are made and multiplied at a time: they stay in the cache.
_BLOCK_BYTES = 7 << 19
_BFLOAT16_NEEDS = {"avx512f", "avx512bw", "avx512vl", "avx512dq"}


def serves(geometry: Geometry) -> bool:
    """Whether oneDNN computes a convolution of this kind, in a dtype that `is_there` for."""
    return geometry.precision == _precision.DEFAULT and not geometry.stacked


def differentiates(direction: str, geometry: Geometry) -> bool:
    """Whether it also computes a convolution's derivative, "input_gradient" or the other."""
    if direction == "kernel_gradient":
        return geometry.groups == 1
    ones = (1,) * geometry.rank
    reached = all(k >= s for k, s in zip(geometry.window, geometry.strides, strict=True))
    whole = geometry.strides == ones or (geometry.dilation == ones and reached)
    return direction == "forward" or whole


def is_there(dtype: np.dtype) -> bool:
    """Whether this process can call oneDNN for arrays of a dtype; asked of XLA once."""
    if dtype == jnp.bfloat16:
        # Where it may not use all that the processor has, it may have no bfloat16.
        limits = {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"} & set(os.environ)
        return not limits and _processor() >= _BFLOAT16_NEEDS and _answers()
    return dtype == jnp.float32 and "avx2" in _processor() and _answers()


@functools.cache
def _processor() -> frozenset[str]:
    """Return the processor's abilities as Linux names them; none elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(flags.split()) if platform.machine() == "x86_64" else frozenset()


@functools.cache
def _answers() -> bool:
    """Whether a small convolution by oneDNN compiles and gives what it should."""
    if not _TRIED[0] <= jax.__version_info__ < _TRIED[1]:
        return False
    found: list[bool] = []
    # In a thread of its own nothing surrounds the question: no trace, mesh, or setting.
    thread = threading.Thread(target=lambda: found.append(_ask()))
    thread.start()
    thread.join()
    return bool(found and found[0])


def _ask() -> bool:
    geometry = Geometry((3, 2), (2, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, 1, 1)
    image = np.arange(6, dtype=np.float32).reshape(1, 3, 2, 1)
    kernel = np.array([1, 10], np.float32).reshape(2, 1, 1, 1)
    try:
        device = jax.local_devices(backend="cpu")[0]
        with jax.default_device(device):
            y = jax.jit(lambda x, w: forward(x, w, geometry))(image, kernel)
        return np.asarray(y).ravel().tolist() == [20, 31, 42, 53]
    except Exception:  # whatever a jaxlib without it says
        return False


def forward(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Return F(x, w)."""
    return _convolve(x, kernel, geometry.strides, geometry.pads, geometry.dilation, geometry.groups)


def input_gradient(g: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Convolve the cotangent with the flipped kernel, in and out channels exchanged.

    Where the stride is not 1, each residue of positions is reached by taps of its own, and is a
    convolution of stride 1 by those.
    """
    rank = geometry.rank
    exchanged = _lax.exchange(jnp.flip(kernel, range(rank)), geometry.groups)
    ones = (1,) * rank
    if geometry.strides == ones:
        pads = tuple(
            (e - 1 - low, e - 1 - high)
            for e, (low, high) in zip(geometry.extents, geometry.pads, strict=True)
        )
        return _convolve(g, exchanged, ones, pads, geometry.dilation, geometry.groups)
    lengths = [
        -(-(n + low) // s)
        for n, (low, _), s in zip(geometry.spatial, geometry.pads, geometry.strides, strict=True)
    ]

    def residue(r: tuple[int, ...]) -> jax.Array:
        # Of the flipped kernel, whose last tap is the first of the window.
        taps = tuple(
            slice((k - 1 - i) % s, None, s)
            for k, i, s in zip(geometry.window, r, geometry.strides, strict=True)
        )
        part = exchanged[taps]
        pads = tuple(
            (k - 1, length - outputs)
            for k, length, outputs in zip(part.shape, lengths, geometry.out_spatial, strict=False)
        )
        return _convolve(g, part, ones, pads, ones, geometry.groups)

    parts = {r: residue(r) for r in np.ndindex(*geometry.strides)}
    return _windows.put_together(parts, geometry)


def kernel_gradient(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
    """Multiply what lies under the window, transposed, by the cotangent: a few images at a time."""
    if _product.serves(geometry):
        rows = _product.rows(x, geometry)
        return _product_of_rows(rows, g).reshape(geometry.kernel_shape)
    # In small images of many channels, the product takes longer than to copy its operand.
    beside = geometry.strides == (1,) * geometry.rank and not (
        min(geometry.out_spatial) <= 14 and geometry.out_features >= 256
    )
    multiply = _of_shifted_sides if beside else _of_all_taps
    taps = math.prod(geometry.window)
    features = taps * geometry.in_features
    if beside:
        wide = geometry.window[-1]
        features = wide * geometry.in_features + taps // wide * geometry.out_features
    image = math.prod(geometry.out_spatial) * features * x.dtype.itemsize
    result = math.prod(geometry.kernel_shape) * x.dtype.itemsize
    parts = _equal_parts(x.shape[0], max(_BLOCK_BYTES, result) // image)
    if parts == 1:
        return multiply(x, g, geometry)

    def add(total: jax.Array, some: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + multiply(*some, geometry).astype(total.dtype), None

    zeros = _windows.zeros(geometry.kernel_shape, _shapes.at_least_float32(x.dtype), x)
    blocks = x.reshape(parts, -1, *x.shape[1:]), g.reshape(parts, -1, *g.shape[1:])
    return lax.scan(add, zeros, blocks)[0].astype(x.dtype)


def _equal_parts(n: int, most: int) -> int:
    """Return into how many equal parts of at most ``most`` n is cut, if ``most`` is not 0."""
    return next(parts for parts in range(1, n + 1) if n % parts == 0 and n // parts <= max(most, 1))


def _of_all_taps(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
    """Multiply by an operand that has the image under all taps side by side."""
    padded = _windows.pad(x, geometry)
    taps = [_windows.under(padded, tap, geometry) for tap in _windows.taps(geometry)]
    return _product_of_rows(jnp.concatenate(taps, -1), g).reshape(geometry.kernel_shape)


def _of_shifted_sides(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
    """Multiply the image, shifted along its last axis, by the cotangent, shifted along the others.

    One product gives every pair of shifts, from two operands of a few copies each: k copies beside
    one another in place of k * k.
    """
    *outer, last = geometry.window
    *spread, step = geometry.dilation
    wide = geometry.out_spatial[-1]
    padded = _windows.pad(x, geometry)
    axis = x.ndim - 2
    shifted = [lax.slice_in_dim(padded, t * step, t * step + wide, axis=axis) for t in range(last)]
    room = [size - n for size, n in zip(padded.shape[1:-2], geometry.out_spatial, strict=False)]
    cotangents = []
    for tap in np.ndindex(*outer):
        starts = [t * d for t, d in zip(tap, spread, strict=True)]
        pads = [(low, more - low) for low, more in zip(starts, room, strict=True)]
        cotangents.append(_windows.pad_spatial(g, [*pads, (0, 0)]))
    product = _product_of_rows(jnp.concatenate(shifted, -1), jnp.concatenate(cotangents, -1))
    split = product.reshape(last, geometry.in_features, -1, geometry.out_features)
    return split.transpose(2, 0, 1, 3).reshape(geometry.kernel_shape)


def _product_of_rows(x: jax.Array, g: jax.Array) -> jax.Array:
    """Contract every axis but the last."""
    return _product_of_transposed(x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1]))


def _product_of_transposed(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the matrix product of the transposed ``a``, (K, M), and ``b``, (K, N)."""
    result = jax.eval_shape(lambda a, b: a.T @ b, a, b)
    config = {"transpose_a": True, "transpose_b": False, "optimization_config": _PLAIN}
    for name, array in (("lhs", a), ("rhs", b), ("result", result)):
        config[name] = {"dims": "2", "tensor": {"dimensions": ["1", "2"], "shape": _texts(array)}}
    return _call(_PRODUCT, "onednn_matmul_config", config, result, a, b)


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int,
) -> jax.Array:
    """Convolve; a negative pad cuts elements off.

    oneDNN has no fast way for elements that no window but those of the edge sees: what is padded by
    more than the window's extent is padded before.
    """
    rank = len(strides)
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel.shape[:rank], strict=True)]
    inside = tuple(
        (min(max(low, 0), e - 1), min(max(high, 0), e - 1))
        for (low, high), e in zip(pads, extents, strict=True)
    )
    if inside != tuple(pads):
        before = [(p - i, q - j) for (p, q), (i, j) in zip(pads, inside, strict=True)]
        x, pads = _windows.pad_spatial(x, before), inside
    if rank == 1:
        strides, dilation, pads = (1, *strides), (1, *dilation), ((0, 0), *pads)
        y = _convolve(x[:, None], kernel[None], strides, pads, dilation, groups)
        return y[:, 0]
    result = jax.eval_shape(
        lambda x, kernel: lax.conv_general_dilated(
            x,
            kernel,
            strides,
            pads,
            rhs_dilation=dilation,
            dimension_numbers=_lax.LAYOUT[rank],
            feature_group_count=groups,
        ),
        x,
        kernel,
    )
    spatial = [str(axis) for axis in range(1, rank + 1)]
    data = {"batch_dim": "0", "feature_dim": str(rank + 1), "spatial_dims": spatial}
    filters = {
        "input_feature_dim": str(rank),
        "output_feature_dim": str(rank + 1),
        "shape": _texts(kernel),
        "spatial_dims": [str(axis) for axis in range(rank)],
    }
    config = {
        "dims": str(rank + 2),
        "feature_groups": str(groups),
        "input": {"dims": "0", "data": data},
        "kernel": {"dims": "0", "filter": filters},
        "optimization_config": _PLAIN,
        "output": {"dims": "0", "data": data},
        "window": {
            "pad_left": [str(low) for low, _ in pads],
            "pad_right": [str(high) for _, high in pads],
            "size": [],
            "strides": [str(s) for s in strides],
            "window_dilations": [str(d) for d in dilation],
        },
    }
    return _call(_CONVOLUTION, "onednn_conv_config", config, result, x, kernel)


_PLAIN = {"bias_broadcast": False, "user_scratchpad": False, "weights_prepacked": False}


def _texts(array: jax.Array | jax.ShapeDtypeStruct) -> list[str]:
    return [str(n) for n in array.shape]


def _call(
    target: str, name: str, config: dict, result: jax.ShapeDtypeStruct, *operands: jax.Array
) -> jax.Array:
    """Call what XLA knows by a name, which reads its configuration from a text of JSON."""
    text = json.dumps({name: config, "outer_dimension_partitions": []})
    call = jax.ffi.ffi_call(target, result, custom_call_api_version=2, legacy_backend_config=text)
    return call(*operands)
