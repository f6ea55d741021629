"""Which pool, or the derivative of one, an equation of lax's windowed reductions is.

XLA's own maximum over windows takes three to twelve times as long on CPU as one of slices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax.ops._maximum import windowed_maximum


class _Window(NamedTuple):
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]


def maximum(equation: Any) -> Callable[..., jax.Array] | None:
    """Return a function that computes a maximum over windows; None where none serves."""
    told = equation.params
    dilations = (*told["base_dilation"], *told["window_dilation"])
    if max(dilations, default=1) > 1 or not _is_plain(equation):
        return None
    window = _window(told)
    return lambda x: _maximum(x, window)


def maximum_gradient(equation: Any) -> Callable[..., jax.Array] | None:
    """Return a function that computes the gradient of such a maximum; None where none serves."""
    if equation.params["select_prim"].name != "ge" or not _is_plain(equation):
        return None
    window = _window(equation.params)

    def compute(g: jax.Array, x: jax.Array) -> jax.Array:
        _, pull = jax.vjp(lambda x: _maximum(x, window), x)
        return pull(g)[0]

    return compute


def _is_plain(equation: Any) -> bool:
    """Whether an equation is one of floating numbers, and of known shapes."""
    avals = [v.aval for v in (*equation.invars, *equation.outvars)]
    dtype = avals[-1].dtype
    return (
        all(isinstance(n, int) and n > 0 for aval in avals for n in aval.shape)
        and jnp.issubdtype(dtype, jnp.floating)
        and dtype.itemsize >= 2
        and not any(axis is not None for aval in avals for axis in aval.sharding.spec)
    )


def _window(told: dict[str, Any]) -> _Window:
    sizes, strides = tuple(told["window_dimensions"]), tuple(told["window_strides"])
    return _Window(sizes, strides, tuple(map(tuple, told["padding"])))


def _maximum(x: jax.Array, window: _Window) -> jax.Array:
    edge = np.asarray(-np.inf, x.dtype)
    x = lax.pad(x, edge, [(low, high, 0) for low, high in window.pads])
    # The last axis first: so ties go to the first element in row-major order.
    for axis in reversed(range(x.ndim)):
        taps, stride = window.sizes[axis], window.strides[axis]
        if (taps, stride) != (1, 1):
            output = (x.shape[axis] - taps) // stride + 1
            x = windowed_maximum(x, axis, taps, stride, output)
    return x
