"""The maximum of windows, of which the first of equal elements has the derivative.

Every step takes the larger of two maxima, the earlier where they are equal. So the order of the
elements is kept, and windows may overlap: an element that is seen twice was the first both times.
Where a window is small, its tap that is the first largest is kept as a number, by which a tangent
is picked out, and a cotangent spread: two linear primitives, each other's transposes. On CPU, XLA's
own windowed maximum takes up to thirty times as long for the same derivative.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import jet
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

from convjax._trace import PLAIN
from convjax.ops._bilinear import is_spread

# A window of more taps is taken along one axis after the other.
AT_ONCE = 9
# Along one axis, more taps are taken in a number of steps that is logarithmic: a step for each is
# quicker to run where there are few, and slow to compile where there are many.
FEW = 5

Sizes = tuple[int, ...]


class Windows(NamedTuple):
    """Sizes, strides and pads of the windows, one for every axis of an array."""

    sizes: Sizes
    strides: Sizes
    pads: tuple[tuple[int, int], ...]

    def number(self, shape: Sizes) -> Sizes:
        """Return how many windows an array has along every axis."""
        return tuple(
            (n + sum(pad) - k) // s + 1
            for n, k, s, pad in zip(shape, self.sizes, self.strides, self.pads, strict=True)
        )

    def mapped(self) -> "Windows":
        """Return the same for arrays with one more axis before all others."""
        return Windows((1, *self.sizes), (1, *self.strides), ((0, 0), *self.pads))


def windowed_maximum(x: jax.Array, windows: Windows) -> jax.Array:
    """Return the maxima of windows, with minus infinity beyond the edges of x."""
    return (_maxima if is_spread(x) else _largest.bind)(x, windows=windows)


def _maxima(x: jax.Array, *, windows: Windows) -> jax.Array:
    if _is_small(windows):
        return functools.reduce(_earlier, _taps(x, -np.inf, windows))
    x = lax.pad(x, np.asarray(-np.inf, x.dtype), [(*pad, 0) for pad in windows.pads])
    # The last axis first: together with "earlier wins", ties then go to the first in row-major
    # order.
    for axis in reversed(range(x.ndim)):
        taps, stride = windows.sizes[axis], windows.strides[axis]
        if (taps, stride) != (1, 1):
            x = _along(x, axis, taps, stride, (x.shape[axis] - taps) // stride + 1)
    return x


def _is_small(windows: Windows) -> bool:
    """Whether all taps of a window are numbered, and compared one after the other."""
    return math.prod(windows.sizes) <= AT_ONCE


def _along(x: jax.Array, axis: int, taps: int, stride: int, size: int) -> jax.Array:
    """Return the maxima of ``size`` windows of so many taps, ``stride`` apart, along an axis."""
    if taps <= FEW:
        x = lax.slice_in_dim(x, 0, (size - 1) * stride + taps, axis=axis)
        sizes, strides = (
            tuple(n if a == axis else 1 for a in range(x.ndim)) for n in (taps, stride)
        )
        return windowed_maximum(x, Windows(sizes, strides, ((0, 0),) * x.ndim))
    if taps >= 2 * stride:
        # Two windows of the smaller kind, so many strides apart, cover one of the larger.
        apart = taps // (2 * stride)
        smaller = _along(x, axis, taps - apart * stride, stride, size + apart)
        return _earlier(
            lax.slice_in_dim(smaller, 0, size, axis=axis),
            lax.slice_in_dim(smaller, apart, apart + size, axis=axis),
        )
    own = _block_maximum(x, axis, min(taps, stride), stride, size)
    if taps <= stride:
        return own
    beyond = lax.slice_in_dim(x, stride, x.shape[axis], axis=axis)
    return _earlier(own, _along(beyond, axis, taps - stride, stride, size))


def _block_maximum(x: jax.Array, axis: int, taps: int, stride: int, size: int) -> jax.Array:
    """Return the maxima of windows that do not overlap, by halving each of them."""
    missing = max(size * stride - x.shape[axis], 0)  # beyond the last window
    x = lax.slice_in_dim(x, 0, min(size * stride, x.shape[axis]), axis=axis)
    pads = [(0, missing if a == axis else 0, 0) for a in range(x.ndim)]
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    x = x.reshape(*x.shape[:axis], size, stride, *x.shape[axis + 1 :])
    inner = axis + 1
    x = lax.slice_in_dim(x, 0, taps, axis=inner)
    while (count := x.shape[inner]) > 1:
        even = count - count % 2
        pairs = _earlier(
            lax.slice_in_dim(x, 0, even, 2, inner), lax.slice_in_dim(x, 1, even, 2, inner)
        )
        alone = [lax.slice_in_dim(x, even, count, axis=inner)] if count % 2 else []
        x = lax.concatenate([pairs, *alone], inner)
    return lax.squeeze(x, (inner,))


def _wins(a: jax.Array, b: jax.Array) -> jax.Array:
    return (a >= b) | jnp.isnan(a)


def _earlier(a: jax.Array, b: jax.Array) -> jax.Array:
    # Not jnp.maximum: that splits the derivative of a tie in halves.
    return jnp.where(_wins(a, b), a, b)


def _first_largest(x: jax.Array, windows: Windows) -> jax.Array:
    """Return the number of the tap that is the first largest of its window."""
    taps = _taps(x, -np.inf, windows)
    best = next(taps)
    first = jnp.zeros(best.shape, jnp.uint8)
    for n, tap in enumerate(taps, 1):
        wins = _wins(best, tap)
        best, first = jnp.where(wins, best, tap), jnp.where(wins, first, jnp.uint8(n))
    return first


def _taps(x: jax.Array, edge: float, windows: Windows) -> Iterator[jax.Array]:
    """Yield what every tap of the window reads, in row-major order."""
    sizes, strides, pads = windows
    out = windows.number(x.shape)
    if not any(map(any, pads)):
        for begin in itertools.product(*map(range, sizes)):
            end = [b + (n - 1) * s + 1 for b, n, s in zip(begin, out, strides, strict=True)]
            yield lax.slice(x, begin, end, strides)
        return
    # Strided slices of a padded image take longer than slices of its phases.
    steps = [o + (k - 1) // s for o, k, s in zip(out, sizes, strides, strict=True)]
    fill = [
        (low, n * s - low - size, 0)
        for n, s, (low, _), size in zip(steps, strides, pads, x.shape, strict=True)
    ]
    phases: dict[Sizes, jax.Array] = {(): lax.pad(x, np.asarray(edge, x.dtype), fill)}
    for axis, (n, s) in enumerate(zip(steps, strides, strict=True)):
        phases = {
            (*phase, i): part
            for phase, whole in phases.items()
            for i, part in enumerate(_split(whole, axis, n, s))
        }
    for tap in itertools.product(*map(range, sizes)):
        part = phases[tuple(t % s for t, s in zip(tap, strides, strict=True))]
        begin = [t // s for t, s in zip(tap, strides, strict=True)]
        yield lax.slice(part, begin, [b + o for b, o in zip(begin, out, strict=True)])


def _split(x: jax.Array, axis: int, size: int, stride: int) -> list[jax.Array]:
    if stride == 1:
        return [x]
    x = x.reshape(*x.shape[:axis], size, stride, *x.shape[axis + 1 :])
    return [lax.squeeze(part, (axis + 1,)) for part in lax.split(x, [1] * stride, axis + 1)]


def _pick_taps(first: jax.Array, x: jax.Array, *, windows: Windows, shape: Sizes) -> jax.Array:
    """Return of every window the element of x that ``first`` numbers."""
    taps = enumerate(_taps(x, 0.0, windows))
    _, picked = next(taps)
    for n, tap in taps:
        picked = jnp.where(first == n, tap, picked)
    return picked


def _spread_taps(first: jax.Array, g: jax.Array, *, windows: Windows, shape: Sizes) -> jax.Array:
    """Add every element of g where its window's first largest lies.

    Not by the transposes of strided slices, which write every stride-th element of an image each:
    by the phases of the image, one for each offset modulo the strides.
    """
    sizes, strides, pads = windows
    first, g = lax.optimization_barrier((first, g))
    back = [(k - 1) // s for k, s in zip(sizes, strides, strict=True)]
    steps = [o + b for o, b in zip(g.shape, back, strict=True)]
    first, g = (lax.pad(a, np.zeros((), a.dtype), [(b, b, 0) for b in back]) for a in (first, g))
    number = {tap: n for n, tap in enumerate(itertools.product(*map(range, sizes)))}

    def of(phase: Sizes) -> jax.Array:
        axis = len(phase)
        if axis < g.ndim:
            return _interleaved([of((*phase, n)) for n in range(strides[axis])], axis)
        total = zero = np.zeros((), g.dtype)
        for tap in itertools.product(*map(range, phase, sizes, strides)):
            begin = [b - t // s for b, t, s in zip(back, tap, strides, strict=True)]
            end = [n + b for n, b in zip(steps, begin, strict=True)]
            here = lax.slice(first, begin, end) == number[tap]
            total = total + jnp.where(here, lax.slice(g, begin, end), zero)
        return jnp.broadcast_to(total, steps)

    spread = of(())
    cut = [(-low, n + low - m, 0) for (low, _), n, m in zip(pads, shape, spread.shape, strict=True)]
    return lax.pad(spread, np.zeros((), g.dtype), cut)


def _interleaved(parts: list[jax.Array], axis: int) -> jax.Array:
    """Undo `_split`."""
    if len(parts) == 1:
        return parts[0]
    x = jnp.stack(parts, axis + 1)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _primitive(name: str, shape: Callable, compute: Callable, plain: Callable) -> Primitive:
    """Make a primitive of arrays that are mapped over together."""
    primitive = Primitive(name)

    def batched(operands, axes, *, windows, **how):
        length = next(o.shape[a] for o, a in zip(operands, axes, strict=True) if _is_mapped(a))
        operands = [
            jnp.moveaxis(o, a, 0) if _is_mapped(a) else jnp.broadcast_to(o, (length, *o.shape))
            for o, a in zip(operands, axes, strict=True)
        ]
        how = {name: (length, *shape) for name, shape in how.items()}
        return primitive.bind(*operands, windows=windows.mapped(), **how), 0

    primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(
        lambda *a, **how: a[-1].update(shape=shape(a[0].shape, **how), weak_type=False)
    )
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    batching.primitive_batchers[primitive] = batched
    PLAIN[name] = plain
    return primitive


def _is_mapped(axis: object) -> bool:
    return isinstance(axis, int)


def _linear(name: str, shape: Callable, compute: Callable) -> Primitive:
    """Make a primitive that is linear in its second operand, and numbered by its first."""
    primitive = _primitive(name, shape, compute, compute)

    def series(primals, terms, **how):
        bind = functools.partial(primitive.bind, primals[0], **how)
        return bind(primals[1]), [bind(term) for term in terms[1]]

    ad.defjvp(primitive, None, lambda t, first, x, **how: primitive.bind(first, t, **how))
    jet.jet_rules[primitive] = series
    return primitive


def _transposed(other: Primitive, g, first, x, **how):
    return None, ad.Zero(x.aval) if isinstance(g, ad.Zero) else other.bind(first, g, **how)


def _xla_maximum(x: jax.Array, *, windows: Windows) -> jax.Array:
    return lax.reduce_window(x, np.asarray(-np.inf, x.dtype), lax.max, *windows)


def _maximum_jvp(primals, tangents, *, windows: Windows) -> tuple:
    if not _is_small(windows):
        return jax.jvp(functools.partial(_maxima, windows=windows), primals, tangents)
    (x,), (t,) = primals, tangents
    y = _largest.bind(x, windows=windows)
    if isinstance(t, ad.Zero):
        return y, ad.Zero(y.aval)
    return y, _pick.bind(_first_largest(x, windows), t, windows=windows, shape=t.shape)


def _maximum_series(primals, terms, *, windows: Windows) -> tuple:
    if not _is_small(windows):
        return jet.jet(functools.partial(_maxima, windows=windows), primals, terms)
    (x,), (terms,) = primals, terms
    first = _first_largest(x, windows)
    pick = functools.partial(_pick.bind, first, windows=windows, shape=x.shape)
    return pick(x), [pick(term) for term in terms]


_largest = _primitive(
    "windowed_maximum", lambda x, windows: windows.number(x), _maxima, _xla_maximum
)
_pick = _linear("windowed_pick", lambda first, **how: first, _pick_taps)
_spread = _linear("windowed_spread", lambda first, shape, **how: shape, _spread_taps)
ad.primitive_jvps[_largest] = _maximum_jvp
jet.jet_rules[_largest] = _maximum_series
ad.primitive_transposes[_pick] = functools.partial(_transposed, _spread)
ad.primitive_transposes[_spread] = functools.partial(_transposed, _pick)
