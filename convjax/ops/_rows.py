"""The sum over the rows of a matrix, in an order that JAX 0.10 makes vector code of on CPU.

Its compiler writes a sum over a long first axis as scalar code, two to four times as slow as what
it makes of sixteen slices that are added up. Later versions do not, and sum as JAX does.
"""

import jax
import jax.numpy as jnp
from jax.experimental import jet
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from convjax._trace import PLAIN

_MOST = 16


def row_sum(rows: jax.Array, stage: int) -> jax.Array:
    """Return the sum over the first axis of (rows, features), by stages.

    Short sums keep float32 accurate to 2e-7 over a million elements, where XLA's single reduction
    on CPU (JAX 0.10) loses a digit.

    Args:
        rows: floating.
        stage: rows that are added up before others; it divides their number.
    """
    if jax.__version_info__ >= (0, 11):
        return _by_stages(rows, stage)
    return _row_sum.bind(rows, stage=stage)


def _by_stages(rows: jax.Array, stage: int) -> jax.Array:
    return jnp.sum(jnp.sum(rows.reshape(-1, stage, rows.shape[-1]), 1), 0)


def _by_slices(rows: jax.Array, stage: int) -> jax.Array:
    most = next(n for n in range(_MOST, 0, -1) if rows.shape[0] % n == 0)
    if most < _MOST // 2:
        return _by_stages(rows, stage)
    blocks = rows.reshape(-1, most, rows.shape[-1])
    total = blocks[:, 0]
    for row in range(1, most):
        total = total + blocks[:, row]
    return jnp.sum(jax.lax.optimization_barrier(total), 0)


_row_sum = Primitive("row_sum")
_row_sum.def_impl(jax.jit(_by_slices, static_argnames="stage"))
_row_sum.def_abstract_eval(lambda rows, stage: rows.update(shape=rows.shape[1:]))
PLAIN[_row_sum.name] = _by_stages
ad.deflinear2(_row_sum, lambda g, rows, stage: [jnp.broadcast_to(g, rows.aval.shape)])
jet.deflinear(_row_sum)
mlir.register_lowering(_row_sum, mlir.lower_fun(_by_stages, multiple_results=False))
mlir.register_lowering(_row_sum, mlir.lower_fun(_by_slices, multiple_results=False), platform="cpu")


def _batched(operands, axes, stage):
    """Sum all of a batch as one matrix with more features."""
    rows = jnp.moveaxis(operands[0], axes[0], 1)
    total = _row_sum.bind(rows.reshape(rows.shape[0], -1), stage=stage)
    return total.reshape(rows.shape[1:]), 0


batching.primitive_batchers[_row_sum] = _batched
