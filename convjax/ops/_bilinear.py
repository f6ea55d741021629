"""The convolution and its two derivatives as three primitives that are one another's transposes.

A convolution ``y = F(x, w)``, its input gradient ``X(g, w)`` and its kernel gradient ``W(x, g)``
are each linear in either argument, and

    <F(x, w), g> = <x, X(g, w)> = <w, W(x, g)>,

so that every derivative of every order is one of the three, and each is computed by the form that
is fastest for it where it runs: derivatives never are what JAX would make of a form by itself,
which is slow for all of them. Under ``vmap`` they stay primitives too.

Where mesh axes are explicit, lax computes and differentiates them: it knows how to spread its own.
This file, `_maximum`, `_rows`, `_shield` and `_remat` alone touch JAX's half-public modules.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import jet
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

from convjax._trace import PLAIN, tell_nan
from convjax.ops import _remat
from convjax.ops._forms import _choose, _lax, _onednn, _shift
from convjax.ops._geometry import Geometry
from convjax.ops._shield import shielded

# Sums of shifted images, and calls, are no products to the compiler.
_NO_PRODUCTS = (_shift.__name__, _onednn.__name__)


def convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Return F(x, w), shape (batch, *out_spatial, D)."""
    return _bind(_forward, _lax.forward, x, kernel, geometry)


def input_gradient(g: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Return X(g, w), shape (batch, *spatial, C)."""
    return _bind(_input, _lax.input_gradient, g, kernel, geometry)


def kernel_gradient(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
    """Return W(x, g), shape (*window, C / groups, D)."""
    return _kernel.bind(x, g, geometry=geometry)


def _bind(primitive: Primitive, by_lax: Callable, a, b, geometry: Geometry) -> jax.Array:
    if is_spread(a) or is_spread(b):
        return shielded(partial(by_lax, geometry=geometry), a, b)
    varying = jax.typeof(a).manual_axis_type.varying | jax.typeof(b).manual_axis_type.varying
    return primitive.bind(_vary(a, varying), _vary(b, varying), geometry=geometry)


def is_spread(a: jax.Array) -> bool:
    """Whether the type of an array names axes of a mesh that are explicit."""
    return any(axis is not None for axis in jax.typeof(a).sharding.spec)


def _vary(a: jax.Array, axes: frozenset[str]) -> jax.Array:
    """Say that ``a`` may vary along a ``shard_map``'s axes; backward, that sums over them."""
    missing = tuple(sorted(axes - jax.typeof(a).manual_axis_type.varying))
    return lax.pcast(a, missing, to="varying") if missing else a


def _primitive(direction: str, batch: Callable) -> Primitive:
    primitive = Primitive(f"convolution_{direction}")
    primitive.def_impl(partial(xla.apply_primitive, primitive))

    def abstract(a, b, *, geometry):
        stack = a.shape[:1] if geometry.stacked else ()
        inner = _SHAPES[direction](a.shape[len(stack)], geometry)
        return a.update(shape=(*stack, *inner), weak_type=False)

    primitive.def_abstract_eval(abstract)
    for platform in (None, "cpu"):
        lowered = partial(_lower, direction, platform)
        mlir.register_lowering(primitive, lowered, platform=platform)
    batching.primitive_batchers[primitive] = partial(_batch, primitive, batch)
    jet.jet_rules[primitive] = partial(_series, primitive)
    _remat.ask_as_lax(primitive, partial(_by_lax, direction))
    PLAIN[primitive.name] = partial(_by_lax, direction)
    tell_nan(primitive)
    return primitive


def _lower(direction: str, platform: str | None, ctx, a, b, *, geometry: Geometry):
    """Write a primitive's program, which may call what only this process has if it runs here."""
    here = platform == "cpu" and _runs_here(ctx.module_context)
    form = partial(_form, direction, platform, here)
    return mlir.lower_fun(form, multiple_results=False)(ctx, a, b, geometry=geometry)


def _runs_here(module: mlir.ModuleContext) -> bool:
    """Whether a program is for one CPU of this process, or for one of each part of a `shard_map`.

    An export is for other processes. What is spread over devices automatically, the compiler must
    be able to take apart.
    """
    if module.lowering_parameters.for_export or tuple(module.platforms) != ("cpu",):
        return False
    context: Any = module.axis_context
    mesh = getattr(context, "mesh", None)
    if mesh is not None:
        return mesh.size == 1 or frozenset(mesh.axis_names) == context.manual_axes
    return getattr(context, "num_devices", None) == 1


def _form(
    direction: str, platform: str | None, here: bool, a, b, *, geometry: Geometry
) -> jax.Array:
    """Compute by the form that is chosen for a platform (None: any but the CPU)."""
    if 0 in a.shape or 0 in b.shape:
        shape = _SHAPES[direction](a.shape[int(geometry.stacked)], geometry)
        return jnp.zeros((*a.shape[: int(geometry.stacked)], *shape), a.dtype)
    images = a.shape[0] if here and not geometry.stacked else None
    form = _choose.choose(direction, geometry, a.dtype, platform or "other", images=images)

    def compute(a, b):
        if direction == "kernel_gradient":
            # Else XLA fuses the transposes that many forms begin with and all that made x and g,
            # computing it anew: in a residual network, everything since its stage began.
            a, b = lax.optimization_barrier((a, b))
        elif platform == "cpu" and form is _lax.input_gradient:
            # Where the kernel was just flipped and exchanged, the compiler undoes both.
            return _lax.input_gradient(a, b, geometry, guard=lax.optimization_barrier)
        elif platform == "cpu" and form.__module__ not in _NO_PRODUCTS:
            # Else a kernel of one repeated number gives a wrong result: see `_shield`.
            b = lax.optimization_barrier(b)
        return form(a, b, geometry)

    return (jax.vmap(compute) if geometry.stacked else compute)(a, b)


def _by_lax(direction: str, a, b, *, geometry: Geometry) -> jax.Array:
    compute = partial(getattr(_lax, direction), geometry=geometry)
    return (jax.vmap(compute) if geometry.stacked else compute)(a, b)


def _series(primitive: Primitive, primals, series, *, geometry: Geometry):
    """Return the Taylor series of the product of two: of every order, the sum of all pairs."""
    first, second = ([primal, *terms] for primal, terms in zip(primals, series, strict=True))
    bind = partial(primitive.bind, geometry=geometry)
    result, *higher = (
        sum(bind(a, b) for a, b in zip(first[: k + 1], second[k::-1], strict=True))
        for k in range(len(first))
    )
    return result, higher


def _batch(primitive: Primitive, fold: Callable, operands, axes, *, geometry: Geometry):
    """Fold what one operand alone is mapped over into its channels or batch; stack the rest."""
    first, second = (isinstance(axis, int) for axis in axes)
    a, b = (
        jnp.moveaxis(operand, axis, 0) if isinstance(axis, int) else operand
        for operand, axis in zip(operands, axes, strict=True)
    )
    if not geometry.stacked and first != second:
        folded = fold(primitive, a, b, 0 if first else 1, geometry)
        if folded is not None:
            return folded, 0
    if first != second:
        size = (a if first else b).shape[0]
        a, b = (
            operand if mapped else jnp.broadcast_to(operand, (size, *operand.shape))
            for operand, mapped in ((a, first), (b, second))
        )
    if not geometry.stacked:
        stacked = dataclasses.replace(geometry, stacked=True)
        return primitive.bind(a, b, geometry=stacked), 0
    sizes = a.shape[:2]
    y = primitive.bind(_merge(a, 0), _merge(b, 0), geometry=geometry)
    return _split(y, 0, sizes), 0


def _merge(a: jax.Array, axis: int) -> jax.Array:
    """Make one axis of two adjacent ones."""
    return a.reshape(*a.shape[:axis], math.prod(a.shape[axis : axis + 2]), *a.shape[axis + 2 :])


def _split(a: jax.Array, axis: int, sizes: tuple[int, ...]) -> jax.Array:
    """Undo `_merge`, where the two have these sizes."""
    return a.reshape(*a.shape[:axis], *sizes, *a.shape[axis + 1 :])


def _into_batch(primitive, a, b, geometry):
    return _split(primitive.bind(_merge(a, 0), b, geometry=geometry), 0, a.shape[:2])


def _into_groups(a: jax.Array, groups: int) -> jax.Array:
    """Turn (V, ..., groups * n) into (..., groups * V * n)."""
    split = a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups)
    moved = jnp.moveaxis(split, 0, -2)
    return moved.reshape(*moved.shape[:-3], math.prod(moved.shape[-3:]))


def _out_of_groups(a: jax.Array, groups: int, size: int, features: int) -> jax.Array:
    """Undo `_into_groups`, to (size, ..., features)."""
    split = a.reshape(*a.shape[:-1], groups, size, features // groups)
    moved = jnp.moveaxis(split, -2, 0)
    return moved.reshape(*moved.shape[:-2], math.prod(moved.shape[-2:]))


def _more_outputs(geometry: Geometry, size: int) -> Geometry:
    return dataclasses.replace(geometry, out_features=geometry.out_features * size)


def _more_inputs(geometry: Geometry, size: int) -> Geometry:
    return dataclasses.replace(geometry, in_features=geometry.in_features * size)


def _fold_forward(primitive, x, kernel, mapped, geometry):
    if mapped == 0:
        return _into_batch(primitive, x, kernel, geometry)
    size, groups = kernel.shape[0], geometry.groups
    wide = _into_groups(kernel, groups)
    y = primitive.bind(x, wide, geometry=_more_outputs(geometry, size))
    return _out_of_groups(y, groups, size, geometry.out_features)


def _fold_input(primitive, g, kernel, mapped, geometry):
    if mapped == 0:
        return _into_batch(primitive, g, kernel, geometry)
    if geometry.groups > 1:
        return None
    size = kernel.shape[0]
    wide = _merge(jnp.moveaxis(kernel, 0, -3), kernel.ndim - 3)
    x = primitive.bind(g, wide, geometry=_more_inputs(geometry, size))
    return _out_of_groups(x, 1, size, geometry.in_features)


def _fold_kernel(primitive, x, g, mapped, geometry):
    groups = geometry.groups
    if mapped == 1:
        size = g.shape[0]
        wide = _into_groups(g, groups)
        gradient = primitive.bind(x, wide, geometry=_more_outputs(geometry, size))
        return _out_of_groups(gradient, groups, size, geometry.out_features)
    if groups > 1:
        return None
    size = x.shape[0]
    gradient = primitive.bind(_into_groups(x, 1), g, geometry=_more_inputs(geometry, size))
    sizes = (size, geometry.in_features)
    return jnp.moveaxis(_split(gradient, gradient.ndim - 2, sizes), -3, 0)


_SHAPES = {
    "forward": lambda n, geometry: (n, *geometry.out_spatial, geometry.out_features),
    "input_gradient": lambda n, geometry: (n, *geometry.spatial, geometry.in_features),
    "kernel_gradient": lambda n, geometry: geometry.kernel_shape,
}
_forward = _primitive("forward", _fold_forward)
_input = _primitive("input_gradient", _fold_input)
_kernel = _primitive("kernel_gradient", _fold_kernel)

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
