"""Convolutions by oneDNN, which lies inside jaxlib's wheels for x86-64 and Linux.

XLA's CPU compiler calls it where a program asks for it by name; there is no flag that makes it do
so by itself. It blocks for registers and vectors as XLA's own convolutions do not.

What oneDNN cannot do ends the process. Hence it is called for what `tests/ops/onednn_table.py` has
tried, and for nothing else. A program that holds such a call runs where it was compiled alone, and
JAX cannot write it to disk: `_choose` says when it is left out.
"""

import functools
import json
import os
import platform
import threading
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax.ops import _precision
from convjax.ops._forms import _lax, _product, _windows
from convjax.ops._geometry import Geometry

SERVES = (
    "float32, and bfloat16 where the processor has AVX-512, at the backend's default precision, by "
    "a jaxlib for x86-64 and Linux"
)
_CONVOLUTION, _PRODUCT = "__onednn$convolution", "__onednn$matmul"
# The table has been tried with these versions of JAX, from the first on and before the last.
_TRIED = ((0, 10, 1), (0, 13))
_BFLOAT16_NEEDS = {"avx512f", "avx512bw", "avx512vl", "avx512dq"}


def serves(geometry: Geometry) -> bool:
    """Whether oneDNN computes a convolution of this kind, in a dtype that `is_there` for."""
    return geometry.precision == _precision.DEFAULT and not geometry.stacked


def differentiates(direction: str, geometry: Geometry) -> bool:
    """Whether it also computes a convolution's derivative, "input_gradient" or the other."""
    if direction != "input_gradient":
        return True
    ones = (1,) * geometry.rank
    reached = all(k >= s for k, s in zip(geometry.window, geometry.strides, strict=True))
    return geometry.strides == ones or (geometry.dilation == ones and reached)


def is_there(dtype: np.dtype) -> bool:
    """Whether this process can call oneDNN for arrays of a dtype; asked of XLA once."""
    if dtype == jnp.bfloat16:
        # Where it may not use all that the processor has, it may have no bfloat16.
        limits = {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"} & set(os.environ)
        return not limits and _processor() >= _BFLOAT16_NEEDS and _answers()
    return dtype == jnp.float32 and "avx2" in _processor() and _answers()


def multiplies(dtype: np.dtype) -> bool:
    """Whether the processor has products of a dtype, which oneDNN else converts."""
    return dtype != jnp.bfloat16 or "avx512_bf16" in _processor()


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
    flipped, order = jnp.flip(kernel, range(rank)), "SOI"
    if geometry.groups > 1:
        flipped, order = _lax.exchange(flipped, geometry.groups), "SIO"
    ones = (1,) * rank
    if geometry.strides == ones:
        pads = tuple(
            (e - 1 - low, e - 1 - high)
            for e, (low, high) in zip(geometry.extents, geometry.pads, strict=True)
        )
        return _convolve(g, flipped, ones, pads, geometry.dilation, geometry.groups, order)
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
        part = flipped[taps]
        pads = tuple(
            (k - 1, length - outputs)
            for k, length, outputs in zip(part.shape, lengths, geometry.out_spatial, strict=False)
        )
        return _convolve(g, part, ones, pads, ones, geometry.groups, order)

    parts = {r: residue(r) for r in np.ndindex(*geometry.strides)}
    return _windows.put_together(parts, geometry)


def kernel_gradient(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
    """Contract what lies under the window with the cotangent, over images and positions."""
    if _product.serves(geometry):
        rows = _product.rows(x, geometry)
        return _product_of_rows(rows, g).reshape(geometry.kernel_shape)
    if geometry.groups > 1 and x.dtype == jnp.bfloat16:
        # For many groups with a few bfloat16 channels each, oneDNN has no fast way.
        single = kernel_gradient(x.astype(jnp.float32), g.astype(jnp.float32), geometry)
        return single.astype(x.dtype)
    pads = tuple(
        (low, high - rest)
        for (low, high), rest in zip(geometry.pads, geometry.left_over, strict=True)
    )
    step = geometry.dilation[-1]
    # With pads within the call, rows of few features take longer than to copy them.
    if step > 1 or geometry.kernel_shape[-2] < 8:
        x, pads = _windows.pad_spatial(x, pads), ((0, 0),) * geometry.rank
    if step == 1:
        return _of_exchanged_roles(x, g, pads, geometry).reshape(geometry.kernel_shape)
    axis, reach = geometry.rank, geometry.extents[-1] - 1
    columns = [
        lax.slice_in_dim(x, start, x.shape[axis] - reach + start, axis=axis)
        for start in range(0, reach + 1, step)
    ]
    parts = [_of_exchanged_roles(column, g, pads, geometry) for column in columns]
    return jnp.concatenate(parts, axis - 1).reshape(geometry.kernel_shape)


def _of_exchanged_roles(
    x: jax.Array, g: jax.Array, pads: tuple[tuple[int, int], ...], geometry: Geometry
) -> jax.Array:
    """Convolve the image with the cotangent for a kernel; return (*window, features, outputs).

    The channels that are contracted are the images. The image's own channels stand beside one
    another along the last axis, where the cotangent's entries are as far apart: so the result has
    enough places for oneDNN's blocks, taps and channels, where it would have the few taps alone.
    """
    features, last = geometry.kernel_shape[-2], geometry.rank - 1
    images, *outer, wide, _ = x.shape

    def turned(x: jax.Array) -> jax.Array:
        split = x.reshape(images, *outer, wide, geometry.groups, features)
        turned = jnp.moveaxis(split, (-1, -2, 0), (-3, -2, -1))
        return turned.reshape(1, *outer, wide * features, geometry.groups * images)

    image = _by_itself(turned, x)
    apart = (*geometry.strides[:last], geometry.strides[last] * features)
    low, high = pads[last]
    pads = (*pads[:last], (low * features, high * features))
    steps = (*geometry.dilation[:last], 1)
    result = _convolve(image, g, steps, pads, apart, geometry.groups, "ISO")
    return result.reshape(*geometry.window[:last], -1, features, geometry.out_features)


def _by_itself(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Return a function of an array that is computed before.

    XLA of JAX 0.10 sees through barriers: it would fuse the function with all that the array is
    made from, back to the last convolutions, and compute that anew for each element in the order of
    the result. It does not fuse what a choice depends on. This one is always the first.
    """
    one = x[(0,) * x.ndim]
    return lax.cond((one == one) | jnp.isnan(one), function, lambda x: -function(x), x)


def _product_of_rows(x: jax.Array, g: jax.Array) -> jax.Array:
    """Return the product of two matrices, (K, M) transposed and (K, N): every axis but the last."""
    a, b = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
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
    order: str = "SIO",
) -> jax.Array:
    """Convolve with a kernel of spatial axes, inputs and outputs in some order.

    A negative pad cuts elements off.

    oneDNN has no fast way for elements that no window but those of the edge sees: what is padded by
    more than the window's extent is padded before.
    """
    rank = len(strides)
    first = order.index("S")
    window = kernel.shape[first : first + rank]
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, window, strict=True)]
    inside = tuple(
        (min(max(low, 0), e - 1), min(max(high, 0), e - 1))
        for (low, high), e in zip(pads, extents, strict=True)
    )
    if inside != tuple(pads):
        before = [(p - i, q - j) for (p, q), (i, j) in zip(pads, inside, strict=True)]
        x, pads = _windows.pad_spatial(x, before), inside
    if rank == 1:
        strides, dilation, pads = (1, *strides), (1, *dilation), ((0, 0), *pads)
        plane = jnp.expand_dims(kernel, first)
        return _convolve(x[:, None], plane, strides, pads, dilation, groups, order)[:, 0]
    taps = tuple(range(first, first + rank))
    inputs, outputs = (order.index(c) + (rank - 1) * (order.index(c) > first) for c in "IO")
    images = (0, rank + 1, *range(1, rank + 1))
    result = jax.eval_shape(
        lambda x, kernel: lax.conv_general_dilated(
            x,
            kernel,
            strides,
            pads,
            rhs_dilation=dilation,
            dimension_numbers=lax.ConvDimensionNumbers(images, (outputs, inputs, *taps), images),
            feature_group_count=groups,
        ),
        x,
        kernel,
    )
    spatial = [str(axis) for axis in range(1, rank + 1)]
    data = {"batch_dim": "0", "feature_dim": str(rank + 1), "spatial_dims": spatial}
    filters = {
        "input_feature_dim": str(inputs),
        "output_feature_dim": str(outputs),
        "shape": _texts(kernel),
        "spatial_dims": [str(axis) for axis in taps],
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
