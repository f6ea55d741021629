"""The Jacobian of a network, by products with it: written out, bidiagonalised, and sampled.

All three see it as a matrix ``A`` of shape (q, p), q >= p: the Jacobian, or its transpose where
the output is smaller than the input.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from convjax.gradflow._function import as_function
from convjax.gradflow._norm import at_least_float32, sum_squares

_CHUNK = 64

Product = Callable[[jax.Array], jax.Array]


class _Operator(NamedTuple):
    """Products with ``A`` and with its transpose, on flat vectors of at least float32."""

    times: Product
    times_transposed: Product
    p: int
    q: int
    dtype: Any


def _operator(run: Callable[[jax.Array], jax.Array], x: jax.Array) -> _Operator:
    y, pullback = jax.vjp(run, x)
    _, push = jax.linearize(run, x)
    forward, backward = _flat(push, x), _flat(lambda u: pullback(u)[0], y)
    dtype = _dtype(x, y)
    if x.size <= y.size:
        return _Operator(forward, backward, x.size, y.size, dtype)
    return _Operator(backward, forward, y.size, x.size, dtype)


def _flat(product: Product, like: Any) -> Product:
    """Return a product as one from vectors of at least float32 to such vectors."""

    def flat(v):
        out = product(v.reshape(like.shape).astype(like.dtype))
        return out.reshape(-1).astype(v.dtype)

    return flat


def _dtype(x: Any, y: Any) -> Any:
    return at_least_float32(jnp.result_type(x.dtype, y.dtype))


@partial(jax.jit, static_argnames=("graphdef", "train"))
def dense(state, x, streams, *, graphdef, train) -> jax.Array:
    """Return the transpose of ``A``, shape (p, q)."""
    run = as_function(graphdef, (state,), streams, train=train)
    y = jax.eval_shape(run, x)
    # One mode only: a function with a gradient of its own may have no forward mode.
    if x.size <= y.size:
        like, times = x, _flat(jax.linearize(run, x)[1], x)
    else:
        pullback = jax.vjp(run, x)[1]
        like, times = y, _flat(lambda u: pullback(u)[0], y)

    def column(i):
        return times(jnp.zeros(like.size, _dtype(x, y)).at[i].set(1))

    return jax.lax.map(column, jnp.arange(like.size), batch_size=min(_CHUNK, like.size))


class Bidiagonal(NamedTuple):
    """``A V = U B`` and ``A^T U = V B^T + rest * (next v) e_k^T``, all times ``scale``.

    ``B`` is upper bidiagonal: ``diagonal`` of length k and ``above`` of length k - 1.
    """

    diagonal: jax.Array
    above: jax.Array
    rest: jax.Array
    scale: jax.Array


@partial(jax.jit, static_argnames=("graphdef", "train", "steps"))
def bidiagonalise(state, x, streams, key, *, graphdef, train, steps) -> Bidiagonal:
    """Return ``steps`` steps of Golub and Kahan's bidiagonalisation, fully reorthogonalised.

    Where a new direction vanishes, a random one takes its place with a zero in ``B``: the relations
    above still hold, and equal singular values are all found.
    """
    a = _operator(as_function(graphdef, (state,), streams, train=train), x)
    first, *keys = jax.random.split(key, 3)
    v = jax.random.normal(first, (a.p,), a.dtype)
    v = v / jnp.linalg.norm(v)
    squares, divisor = sum_squares(a.times(v), careful=True)
    size = divisor * jnp.sqrt(squares)
    # Of unit size, products with A can be squared whatever the depth of the network.
    scale = jnp.where(size > 0, size, jnp.ones_like(size))
    right = jnp.zeros((steps + 1, a.p), a.dtype).at[0].set(v)
    left = jnp.zeros((steps, a.q), a.dtype)

    def step(j, carry):
        left, right, diagonal, above, largest = carry
        u = a.times(right[j]) / scale
        u, alpha = _next(u, left, largest, jax.random.fold_in(keys[0], j))
        left = left.at[j].set(u)
        largest = jnp.maximum(largest, alpha)
        v = a.times_transposed(u) / scale
        v, beta = _next(v, right, largest, jax.random.fold_in(keys[1], j))
        right = right.at[j + 1].set(v)
        largest = jnp.maximum(largest, beta)
        return left, right, diagonal.at[j].set(alpha), above.at[j].set(beta), largest

    empty = jnp.zeros(steps, a.dtype)
    carry = (left, right, empty, empty, jnp.zeros((), a.dtype))
    _, _, diagonal, above, _ = jax.lax.fori_loop(0, steps, step, carry)
    return Bidiagonal(diagonal, above[:-1], above[-1], scale)


def _next(w: jax.Array, basis: jax.Array, largest: jax.Array, key: jax.Array):
    """Return the unit vector along the part of ``w`` outside the basis, and that part's norm.

    Rows of the basis that are not filled yet are zeros.
    """
    outside = _without(w, basis)
    norm = jnp.linalg.norm(outside)
    # Below rounding the direction is noise.
    lost = norm <= 32 * jnp.finfo(w.dtype).eps * jnp.maximum(largest, jnp.linalg.norm(w))
    fresh = _without(jax.random.normal(key, w.shape, w.dtype), basis)
    outside = jnp.where(lost, fresh, outside)
    length = jnp.linalg.norm(outside)
    # A full basis leaves nothing outside; the zero vector then ends the recurrence.
    ends = length <= 32 * jnp.finfo(w.dtype).eps * jnp.sqrt(jnp.asarray(w.size, w.dtype))
    ends = ends & lost
    unit = jnp.where(ends, jnp.zeros_like(w), outside / jnp.where(ends, 1, length))
    return unit, jnp.where(lost, jnp.zeros_like(norm), norm)


def _without(w: jax.Array, basis: jax.Array) -> jax.Array:
    """Take the basis out of ``w``, twice: once leaves rounding errors that grow."""
    for _ in range(2):
        inside = jnp.matmul(basis, w, precision="highest")
        w = w - jnp.matmul(inside, basis, precision="highest")
    return w


class Probes(NamedTuple):
    """Of every probe z: ln |A z| and ln |A^T A z|, minus infinity for zero."""

    log_once: jax.Array
    log_twice: jax.Array


@partial(jax.jit, static_argnames=("graphdef", "train", "samples"))
def probe(state, x, streams, key, *, graphdef, train, samples) -> Probes:
    """Return the norms of ``A z`` and ``A^T A z`` for random signs z, one pass each."""
    a = _operator(as_function(graphdef, (state,), streams, train=train), x)

    def one(key):
        # Signs scatter less than Gaussians: what is on the diagonal of A^T A scatters not at all.
        once = a.times(jax.random.rademacher(key, (a.p,), a.dtype))
        unit, log_once = _unit(once)
        _, log_again = _unit(a.times_transposed(unit))
        return Probes(log_once, log_once + log_again)

    return jax.lax.map(one, jax.random.split(key, samples))


def _unit(w: jax.Array) -> tuple[jax.Array, jax.Array]:
    squares, divisor = sum_squares(w, careful=True)
    root = jnp.sqrt(squares)
    unit = w / divisor / jnp.where(root > 0, root, jnp.ones_like(root))
    return unit, jnp.log(divisor) + jnp.log(root)
