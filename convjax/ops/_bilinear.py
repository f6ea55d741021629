"""The convolution and its two derivatives as three primitives that are one another's transposes.

A convolution ``y = F(x, w)``, its input gradient ``X(g, w)`` and its kernel gradient ``W(x, g)``
are each linear in either argument, and

    <F(x, w), g> = <x, X(g, w)> = <w, W(x, g)>,

so that every derivative of every order is one of the three. They are primitives for one reason:
what JAX makes of the transpose of ``lax.conv_general_dilated`` is a convolution with permuted
dimensions, and inside a loop XLA's CPU backend runs that with scalar code, some thirty times
slower than one in canonical order. Here all three are written in canonical order, outside loops
and in them.

This file alone touches JAX's half-public modules.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

LAYOUT = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The static facts of a convolution; shapes too, which a transposed operand cannot tell.

    Attributes:
        spatial: the image's spatial shape.
        window: the kernel's.
        strides: step of the window, one per axis.
        pads: elements added at the low and high side, one pair per axis.
        dilation: distance between the kernel's entries, one per axis.
        groups: number of groups that the channels are split into.
        precision: of the products.
    """

    spatial: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    precision: lax.PrecisionLike = None

    @property
    def extents(self) -> list[int]:
        """How far the dilated window reaches, one number per axis."""
        return [d * (k - 1) + 1 for d, k in zip(self.dilation, self.window, strict=True)]

    @property
    def left_over(self) -> list[int]:
        """How many padded elements the last window does not reach, one number per axis."""
        sides = zip(self.spatial, self.pads, self.extents, self.strides, strict=True)
        return [(n + low + high - e) % s for n, (low, high), e, s in sides]


def convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Return F(x, w), shape (batch, *out_spatial, D)."""
    varying = jax.typeof(x).manual_axis_type.varying | jax.typeof(kernel).manual_axis_type.varying
    return _forward.bind(_vary(x, varying), _vary(kernel, varying), geometry=geometry)


def _vary(a: jax.Array, axes: frozenset[str]) -> jax.Array:
    """Say that ``a`` may vary along a ``shard_map``'s axes; backward, that sums over them."""
    missing = tuple(sorted(axes - jax.typeof(a).manual_axis_type.varying))
    return lax.pcast(a, missing, to="varying") if missing else a


def _forward_form(x: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.pads,
        rhs_dilation=geometry.dilation,
        dimension_numbers=LAYOUT[len(geometry.window)],
        feature_group_count=geometry.groups,
        precision=geometry.precision,
    )


def _input_form(g: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Convolve the strided-out cotangent with the flipped kernel, in and out channels exchanged."""
    pads = [
        (e - 1 - low, e - 1 - high + rest)
        for (low, high), e, rest in zip(
            geometry.pads, geometry.extents, geometry.left_over, strict=True
        )
    ]
    flipped = jnp.flip(kernel, range(len(geometry.window)))
    return lax.conv_general_dilated(
        g,
        _exchange(flipped, geometry.groups),
        (1,) * len(geometry.window),
        pads,
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.dilation,
        dimension_numbers=LAYOUT[len(geometry.window)],
        feature_group_count=geometry.groups,
        precision=geometry.precision,
    )


def _exchange(kernel: jax.Array, groups: int) -> jax.Array:
    """Turn (*window, C/groups, D) into (*window, D/groups, C), group by group."""
    *window, inputs, outputs = kernel.shape
    split = kernel.reshape(*window, inputs, groups, outputs // groups)
    return (
        jnp.moveaxis(split, -1, -3)
        .swapaxes(-1, -2)
        .reshape(*window, outputs // groups, groups * inputs)
    )


def _kernel_form(x: jax.Array, g: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Convolve the image with the cotangent, examples taking the part of channels."""
    if geometry.groups > 1:
        return _grouped_kernel_form(x, g, geometry)
    rank = len(geometry.window)
    pads = [
        (low, high - rest)
        for (low, high), rest in zip(geometry.pads, geometry.left_over, strict=True)
    ]
    y = lax.conv_general_dilated(
        jnp.swapaxes(x, 0, -1),
        jnp.moveaxis(g, 0, -2),
        geometry.dilation,
        pads,
        rhs_dilation=geometry.strides,
        dimension_numbers=LAYOUT[rank],
        precision=geometry.precision,
    )
    return jnp.moveaxis(y, 0, -2)


def _grouped_kernel_form(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
    shape = (*geometry.window, x.shape[-1] // geometry.groups, g.shape[-1])
    like = jax.ShapeDtypeStruct(shape, x.dtype)
    (gradient,) = jax.linear_transpose(lambda w: _forward_form(x, w, geometry=geometry), like)(g)
    return gradient


def _primitive(name: str, form: Callable[..., jax.Array]) -> Primitive:
    primitive = Primitive(name)
    primitive.def_impl(partial(_apply, form))
    primitive.def_abstract_eval(partial(_shape_of, form))
    mlir.register_lowering(primitive, mlir.lower_fun(form, multiple_results=False))
    batching.primitive_batchers[primitive] = partial(_batch, primitive, form)
    return primitive


@partial(jax.jit, static_argnums=(0,), static_argnames=("geometry",))
def _apply(form, a, b, *, geometry):
    return form(a, b, geometry=geometry)


def _shape_of(form, a, b, *, geometry):
    out = jax.eval_shape(
        partial(form, geometry=geometry),
        jax.ShapeDtypeStruct(a.shape, a.dtype),
        jax.ShapeDtypeStruct(b.shape, b.dtype),
    )
    return a.update(shape=out.shape, dtype=out.dtype, weak_type=False)


def _batch(primitive, form, operands, axes, *, geometry):
    """Fold a mapped image or cotangent into its batch; map the form itself over anything else."""
    mapped = [isinstance(axis, int) for axis in axes]
    if mapped == [True, False] and primitive is not _kernel:
        a, b = operands
        a = jnp.moveaxis(a, axes[0], 0)
        folded = a.reshape(math.prod(a.shape[:2]), *a.shape[2:])
        y = primitive.bind(folded, b, geometry=geometry)
        return y.reshape(*a.shape[:2], *y.shape[1:]), 0
    in_axes = tuple(
        axis if is_mapped else None for axis, is_mapped in zip(axes, mapped, strict=True)
    )
    return jax.vmap(partial(form, geometry=geometry), in_axes=in_axes)(*operands), 0


_forward = _primitive("convolution", _forward_form)
_input = _primitive("convolution_input_gradient", _input_form)
_kernel = _primitive("convolution_kernel_gradient", _kernel_form)

ad.defbilinear(
    _forward,
    lambda g, x, w, *, geometry: _input.bind(g, w, geometry=geometry),
    lambda g, x, w, *, geometry: _kernel.bind(x, g, geometry=geometry),
)
ad.defbilinear(
    _input,
    lambda x, g, w, *, geometry: _forward.bind(x, w, geometry=geometry),
    lambda x, g, w, *, geometry: _kernel.bind(x, g, geometry=geometry),
)
ad.defbilinear(
    _kernel,
    lambda w, x, g, *, geometry: _input.bind(g, w, geometry=geometry),
    lambda w, x, g, *, geometry: _forward.bind(x, w, geometry=geometry),
)
