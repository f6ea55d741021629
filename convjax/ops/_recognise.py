"""Which convolution, or which of its two derivatives, an equation of lax's convolution is.

``jax.grad`` writes the derivatives of lax's convolution as convolutions: the input gradient of a
strided one has its image dilated; a kernel gradient exchanges batch and channels, and its window is
as large as the image. Here each becomes the primitive of `_bilinear` that it is, whose forms are
chosen for just that.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax.ops import _bilinear, _lowering, _precision
from convjax.ops._adjoint import adjoint, padded
from convjax.ops._geometry import Geometry

_OP = "accelerate"


def convolution(equation: Any, made_by: Callable[[Any], Any]) -> Callable[..., jax.Array] | None:
    """Return a function that computes an equation of lax's convolution; None where none serves."""
    if not _is_plain(equation):
        return None
    call = _Call.of(equation)
    for read in _readings(call, _is_flipped(equation, call, made_by)):
        if (compute := read(call)) is not None:
            return compute
    return None


def _readings(call: "_Call", flipped: bool) -> list[Callable[["_Call"], Any]]:
    """Return what a call may be, likeliest first: whether it fits has to be seen."""
    if call.batch_groups > 1:
        return [_of_kernel] if call.groups == 1 else []
    both = [_of_input, _of_forward] if flipped else [_of_forward, _of_input]
    if call.groups > 1 or not _is_kernel_gradient(call):
        return both
    return [_of_kernel, _of_transposed_kernel, *both]


def _is_plain(equation: Any) -> bool:
    """Whether an equation is one of real numbers of one dtype, and of known shapes."""
    avals = [v.aval for v in (*equation.invars, *equation.outvars)]
    sizes = [n for aval in avals for n in aval.shape]
    dtype = avals[0].dtype
    return (
        3 <= avals[0].ndim <= 5
        and all(isinstance(n, int) and n > 0 for n in sizes)
        and all(aval.dtype == dtype for aval in avals)
        and jnp.issubdtype(dtype, jnp.floating)
        and dtype.itemsize >= 2
        and not any(axis is not None for aval in avals for axis in aval.sharding.spec)
        and not any(getattr(equation.params.get("out_sharding"), "spec", ()))
    )


class _Call(NamedTuple):
    """The static facts of an equation: sizes of both operands and the result, and the rest."""

    numbers: lax.ConvDimensionNumbers
    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    out: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int
    batch_groups: int
    precision: _precision.Fixed

    @classmethod
    def of(cls, equation: Any) -> "_Call":
        told = equation.params
        precision = told["precision"]
        return cls(
            numbers=told["dimension_numbers"],
            lhs=equation.invars[0].aval.shape,
            rhs=equation.invars[1].aval.shape,
            out=equation.outvars[0].aval.shape,
            strides=tuple(told["window_strides"]),
            pads=tuple(told["padding"]),
            lhs_dilation=tuple(told["lhs_dilation"]),
            rhs_dilation=tuple(told["rhs_dilation"]),
            groups=told["feature_group_count"],
            batch_groups=told["batch_group_count"],
            precision=_precision.DEFAULT if precision is None else _precision.fix(_OP, precision),
        )

    @property
    def image(self) -> tuple[int, ...]:
        return tuple(self.lhs[axis] for axis in self.numbers.lhs_spec[2:])

    @property
    def window(self) -> tuple[int, ...]:
        return tuple(self.rhs[axis] for axis in self.numbers.rhs_spec[2:])

    @property
    def result(self) -> tuple[int, ...]:
        return tuple(self.out[axis] for axis in self.numbers.out_spec[2:])

    def geometry(self, **facts: Any) -> Geometry:
        """Return the geometry of these facts, by the form that is asked for around here."""
        return Geometry(**facts, precision=self.precision, lowering=_lowering.of_block())


def _is_kernel_gradient(call: _Call) -> bool:
    """Whether a call is rather a kernel gradient: it could always be read as a convolution too.

    The cotangent, which takes the kernel's part, is as large as an image. But so are the patches of
    a vision transformer, and where an image is small, so are its kernels. What tells then is that
    an image and its cotangent have one layout, with the batch in front, which is summed over.
    """
    window, result = np.prod(call.window), np.prod(call.result)
    lhs, rhs = call.numbers.lhs_spec, call.numbers.rhs_spec
    if lhs[1] == rhs[1] == 0:
        return bool(window > result or result <= 49 or max(call.rhs_dilation) > 1)
    return bool(window > result and lhs == rhs and lhs[:2] != (0, 1))


def _is_flipped(equation: Any, call: _Call, made_by: Callable[[Any], Any]) -> bool:
    """Whether the kernel was just flipped along all of its window, as for an input gradient."""
    before = made_by(equation.invars[1])
    if before is None or before.primitive.name != "rev":
        return False
    return set(before.params["dimensions"]) == set(call.numbers.rhs_spec[2:])


def _of_forward(call: _Call) -> Callable[..., jax.Array] | None:
    if max(call.lhs_dilation) > 1:
        return None
    cuts = [(min(low, 0), min(high, 0)) for low, high in call.pads]
    image = tuple(n + sum(cut) for n, cut in zip(call.image, cuts, strict=True))
    geometry = call.geometry(
        spatial=image,
        window=call.window,
        strides=call.strides,
        pads=tuple((max(low, 0), max(high, 0)) for low, high in call.pads),
        dilation=call.rhs_dilation,
        groups=call.groups,
        in_features=call.lhs[call.numbers.lhs_spec[1]],
        out_features=call.rhs[call.numbers.rhs_spec[0]],
    )
    if min(image) < 1 or geometry.out_spatial != call.result:
        return None

    def compute(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        x = padded(_last(lhs, call.numbers.lhs_spec), cuts)
        return _back(_bilinear.convolve(x, _kernel(rhs, call), geometry), call.numbers.out_spec)

    return compute


def _of_input(call: _Call) -> Callable[..., jax.Array] | None:
    if max(call.strides) > 1:
        return None
    geometry = call.geometry(
        spatial=call.result,
        window=call.window,
        strides=call.lhs_dilation,
        pads=call.pads,
        dilation=call.rhs_dilation,
        groups=call.groups,
        in_features=call.out[call.numbers.out_spec[1]],
        out_features=call.lhs[call.numbers.lhs_spec[1]],
    )
    spread = adjoint(call.image, geometry)
    if spread is None:
        return None

    def compute(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        y = spread(_last(lhs, call.numbers.lhs_spec), _kernel(rhs, call))
        return _back(y, call.numbers.out_spec)

    return compute


def _of_kernel(call: _Call) -> Callable[..., jax.Array] | None:
    if max(call.lhs_dilation) > 1:
        return None
    lows = [low for low, _ in call.pads]
    cuts, pads = _kernel_pads(call.image, call.window, call.rhs_dilation, call, lows)
    image = tuple(n + sum(cut) for n, cut in zip(call.image, cuts, strict=True))
    geometry = call.geometry(
        spatial=image,
        window=call.result,
        strides=call.rhs_dilation,
        pads=pads,
        dilation=call.strides,
        groups=call.batch_groups,
        in_features=call.lhs[call.numbers.lhs_spec[0]],
        out_features=call.rhs[call.numbers.rhs_spec[0]],
    )
    if min(image) < 1 or geometry.out_spatial != call.window:
        return None

    def compute(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        x = padded(_summed_first(lhs, call.numbers.lhs_spec), cuts)
        g = _last(rhs, (call.numbers.rhs_spec[1], call.numbers.rhs_spec[0], *_window_axes(call)))
        y = _bilinear.kernel_gradient(x, g, geometry)
        batch, features, *spatial = call.numbers.out_spec
        return lax.transpose(y, np.argsort((*spatial, batch, features)))

    return compute


def _of_transposed_kernel(call: _Call) -> Callable[..., jax.Array] | None:
    """Of a transposed convolution: the dilated operand is the cotangent, and the taps run back."""
    if max(call.lhs_dilation) == 1 or max(call.rhs_dilation) > 1:
        return None
    taps = zip(call.strides, call.result, call.pads, strict=True)
    lows = [d * (k - 1) - low for d, k, (low, _) in taps]
    cuts, pads = _kernel_pads(call.window, call.image, call.lhs_dilation, call, lows)
    image = tuple(n + sum(cut) for n, cut in zip(call.window, cuts, strict=True))
    geometry = call.geometry(
        spatial=image,
        window=call.result,
        strides=call.lhs_dilation,
        pads=pads,
        dilation=call.strides,
        groups=1,
        in_features=call.rhs[call.numbers.rhs_spec[0]],
        out_features=call.lhs[call.numbers.lhs_spec[0]],
    )
    if min(image) < 1 or geometry.out_spatial != call.image:
        return None

    def compute(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        outputs, summed = call.numbers.rhs_spec[:2]
        x = padded(_last(rhs, (summed, outputs, *_window_axes(call))), cuts)
        g = _summed_first(lhs, call.numbers.lhs_spec)
        y = lax.rev(_bilinear.kernel_gradient(x, g, geometry), range(geometry.rank))
        batch, features, *spatial = call.numbers.out_spec
        return lax.transpose(y, np.argsort((*spatial, features, batch)))

    return compute


def _kernel_pads(image, cotangent, strides, call: _Call, lows):
    """Return what is cut off the image, and the padding that makes just so many outputs of it."""
    cuts, pads = [], []
    sizes = zip(image, cotangent, strides, call.strides, call.result, lows, strict=True)
    for n, outputs, stride, dilation, taps, low in sizes:
        seen = stride * (outputs - 1) + dilation * (taps - 1) + 1
        high = seen - n - low
        high += min(max(-high, 0), stride - 1)  # elements that the last window does not reach
        cuts.append((min(low, 0), min(high, 0)))
        pads.append((max(low, 0), max(high, 0)))
    return cuts, tuple(pads)


def _window_axes(call: _Call) -> tuple[int, ...]:
    return tuple(call.numbers.rhs_spec[2:])


def _last(a: jax.Array, spec: Sequence[int]) -> jax.Array:
    """Bring axes (batch, features, *spatial) into the order (batch, *spatial, features)."""
    batch, features, *spatial = spec
    return lax.transpose(a, (batch, *spatial, features))


def _summed_first(a: jax.Array, spec: Sequence[int]) -> jax.Array:
    """The same of a kernel gradient's image, where channels have the place of the batch."""
    channels, summed, *spatial = spec
    return lax.transpose(a, (summed, *spatial, channels))


def _back(y: jax.Array, spec: Sequence[int]) -> jax.Array:
    """Undo `_last`."""
    batch, features, *spatial = spec
    return lax.transpose(y, np.argsort((batch, *spatial, features)))


def _kernel(rhs: jax.Array, call: _Call) -> jax.Array:
    outputs, inputs, *window = call.numbers.rhs_spec
    return lax.transpose(rhs, (*window, inputs, outputs))
