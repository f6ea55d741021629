"""Which form is fastest where: the rule behind ``lowering="auto"``.

``python -m experiments bench-forms`` times every form on every layer of eight networks, and says
how much the rule loses against the best one.
"""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np

from convjax.ops._forms import _lax, _onednn, _product, _shift, _taps, _winograd
from convjax.ops._geometry import Geometry

Form = Callable[[jax.Array, jax.Array, Geometry], jax.Array]

FORMS: dict[str, ModuleType] = {
    "lax": _lax,
    "onednn": _onednn,
    "product": _product,
    "shift": _shift,
    "taps": _taps,
    "winograd": _winograd,
}


def serving(geometry: Geometry, dtype: np.dtype) -> list[str]:
    """Return the names of the forms that can compute a geometry."""
    return [name for name in FORMS if _serves(name, geometry, dtype)]


def _serves(name: str, geometry: Geometry, dtype: np.dtype) -> bool:
    if name == "lax":
        return True
    there = name != "onednn" or _onednn.is_there(dtype)
    return FORMS[name].serves(geometry) and there


def choose(
    direction: str,
    geometry: Geometry,
    dtype: np.dtype,
    platform: str,
    *,
    images: int | None = None,
) -> Form:
    """Return the function that computes one of the three, "forward" or a gradient, on a platform.

    A form that is named computes whatever it can, on every platform; what it cannot (a derivative
    may have another geometry than the call that it comes from) is chosen as by "auto".

    Args:
        direction: the name of the function.
        geometry: what it computes.
        dtype: of both operands.
        platform: "cpu", or any other name.
        images: how many there are, where the program runs in this process, on one device of it.
            None elsewhere: such a program may not call oneDNN.
    """
    named = geometry.lowering
    called = images is not None and _onednn.differentiates(direction, geometry)
    able = called or named != "onednn"
    if named != "auto" and able and _serves(named, geometry, dtype):
        form = getattr(FORMS[named], direction, None)
        if form is not None:
            return form
    if (
        called
        and _is_worth_a_call(geometry, images or 0)
        and _calls_onednn(direction, geometry, dtype)
    ):
        return getattr(_onednn, direction)
    return getattr(_fastest(direction, geometry, dtype, platform), direction)


def _is_worth_a_call(geometry: Geometry, images: int) -> bool:
    """Whether there are so many products that the ten microseconds of a call do not count."""
    products = images * math.prod(geometry.out_spatial) * math.prod(geometry.kernel_shape)
    return products >= (1 << 19 if geometry.groups > 1 else 1 << 22)


def _calls_onednn(direction: str, geometry: Geometry, dtype: np.dtype) -> bool:
    """Whether oneDNN is there and the fastest, and nobody asked to keep programs on disk.

    JAX cannot write a program that calls it. Where the second run is to start at once, that counts
    for more.
    """
    settings: Any = jax.config
    kept = settings.jax_enable_compilation_cache and settings.jax_compilation_cache_dir
    able = _onednn.serves(geometry) and _onednn.multiplies(dtype)
    if kept or not able or not _onednn.is_there(dtype):
        return False
    # In bfloat16 the compiler has no products of its own: it makes single precision of them.
    half = dtype.itemsize == 2 and geometry.groups == 1
    patches = direction == "input_gradient" and _product.serves(geometry)
    if half and (_is_pointwise(geometry) or not patches):
        return True
    return _ONEDNN_WINS[direction](geometry)


def _forward_by_onednn(geometry: Geometry) -> bool:
    if geometry.groups > 1:
        # A kernel gradient of a 1x1 for each image, as lax writes it, is products of matrices.
        whole = math.prod(geometry.out_spatial) == 1 and geometry.multiplier > 4
        return not whole and (not 1 < geometry.multiplier <= 4 or not _shift.serves(geometry))
    if _is_pointwise(geometry):
        return min(geometry.spatial) >= 32
    if _product.serves(geometry):
        return geometry.in_features < 16 or min(geometry.spatial) >= 28
    return not _is_tiny(geometry)


def _input_gradient_by_onednn(geometry: Geometry) -> bool:
    strided = max(geometry.strides) > 1
    if geometry.groups > 1:
        return not _shift.serves(geometry) or (geometry.multiplier == 1 and not strided)
    if _product.serves(geometry):
        return False
    if geometry.rank == 3:
        return True
    features = min(geometry.in_features, geometry.out_features)
    if strided:
        return features >= 32 and min(geometry.spatial) >= 28
    return features >= 3 and not _is_tiny(geometry)


def _kernel_gradient_by_onednn(geometry: Geometry) -> bool:
    if _product.serves(geometry):
        return _is_pointwise(geometry)
    if geometry.rank == 1 and _is_long(geometry):
        return False
    return geometry.multiplier > 4 or not _shift.serves(geometry)


def _is_long(geometry: Geometry) -> bool:
    """Whether an ungrouped sequence's cotangent is a kernel for which oneDNN has no fast way."""
    spread = max(geometry.dilation) > 1
    long = geometry.out_spatial[0] >= 1000 and geometry.out_features >= 64
    return geometry.groups == 1 and (spread or (long and max(geometry.strides) == 1))


# Whether oneDNN's time was below that of every other form by a clear margin, on JAX 0.10 and 0.12.
_ONEDNN_WINS: dict[str, Callable[[Geometry], bool]] = {
    "forward": _forward_by_onednn,
    "input_gradient": _input_gradient_by_onednn,
    "kernel_gradient": _kernel_gradient_by_onednn,
}


def _is_pointwise(geometry: Geometry) -> bool:
    return geometry.groups == 1 and math.prod(geometry.window) == 1


def _is_tiny(geometry: Geometry) -> bool:
    return _taps.serves(geometry) and min(geometry.out_spatial) <= 3


def _fastest(direction: str, geometry: Geometry, dtype: np.dtype, platform: str) -> ModuleType:
    pointwise = _is_pointwise(geometry)
    if platform != "cpu":
        # A window of 1 is a matrix product for every backend.
        return _product if pointwise and _product.serves(geometry) else _lax
    if _shift.serves(geometry) and geometry.multiplier <= 4:
        return _shift
    if geometry.groups > 1:
        return _lax
    if direction == "kernel_gradient":
        return _for_kernel_gradient(geometry)
    # XLA's input gradient of patches takes a hundred times as long where they are large.
    wide = pointwise or geometry.in_features >= 16 or direction == "input_gradient"
    if _product.serves(geometry) and wide:
        return _product
    # XLA takes the smaller operand for the kernel, and what then is the image, the larger kernel,
    # is run over by a scalar loop.
    if _is_tiny(geometry) or (geometry.rank == 3 and _taps.serves(geometry)):
        return _taps
    if _winograd.serves(geometry) and dtype.itemsize >= 4 and _pays(geometry):
        return _winograd
    return _lax


def _for_kernel_gradient(geometry: Geometry) -> ModuleType:
    """Return the form for a kernel gradient: XLA's own makes the cotangent a kernel."""
    if _product.serves(geometry):
        return _product
    features = sorted((geometry.in_features, geometry.out_features))
    column = geometry.window[-1] == 1 or geometry.rank == 3
    positions = math.prod(geometry.out_spatial) if geometry.rank > 1 else 0
    large = positions >= 2500 and features[0] >= 64 and features[1] >= 128
    return _taps if _taps.serves(geometry) and (column or large) else _lax


def _pays(geometry: Geometry) -> bool:
    """Whether fewer products outweigh the transforms, which cost the same for any channels."""
    features = min(geometry.in_features, geometry.out_features)
    most = max(geometry.in_features, geometry.out_features)
    width = geometry.out_spatial[_winograd.axis_of(geometry)]
    return (features >= 48 and width >= 12) or (features >= 32 and most >= 64 and width >= 64)
