"""Which pool, or the derivative of one, an equation of lax's windowed reductions is.

XLA's own maximum over windows takes up to thirty times as long on CPU.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from convjax.ops._maximum import Windows, windowed_maximum


def maximum(equation: Any) -> Callable[..., jax.Array] | None:
    """Return a function that computes a maximum over windows; None where none serves."""
    told = equation.params
    dilations = (*told["base_dilation"], *told["window_dilation"])
    if max(dilations, default=1) > 1 or not _is_plain(equation):
        return None
    windows = _windows(told)
    return lambda x: windowed_maximum(x, windows)


def maximum_gradient(equation: Any) -> Callable[..., jax.Array] | None:
    """Return a function that computes the gradient of such a maximum; None where none serves."""
    if equation.params["select_prim"].name != "ge" or not _is_plain(equation):
        return None
    windows = _windows(equation.params)

    def compute(g: jax.Array, x: jax.Array) -> jax.Array:
        _, pull = jax.vjp(lambda x: windowed_maximum(x, windows), x)
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


def _windows(told: dict[str, Any]) -> Windows:
    sizes, strides = tuple(told["window_dimensions"]), tuple(told["window_strides"])
    return Windows(sizes, strides, tuple(map(tuple, told["padding"])))
