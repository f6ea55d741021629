"""Taps: the identity with a token whose gradient is the cotangent's norm.

A tap hands its input on. Its backward pass returns, as the gradient of the token, the norm of the
cotangent that came by. So ``jax.vjp`` with respect to the tokens is the profile.

A ``Signal`` is a trunk's value with one scalar beside it, which does double service. Forward it is
the power of two that was taken out of the value. Backward its cotangent is the power of two that
was taken out of the cotangents: JAX adds it up along the trunk, through ``scan`` too.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from convjax.gradflow._norm import Norm, lanes, power_of_two, sum_squares

TOKEN = (3,)
"""Shape of a token; its gradient holds the squares, divisor and exponent of a ``Norm``."""


class Signal(NamedTuple):
    """The value ``x * 2 ** exponent``."""

    x: jax.Array
    exponent: jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def tap(x: jax.Array, token: jax.Array, careful: bool) -> jax.Array:
    """Hand ``x`` on; the gradient of the token is the norm of the cotangent."""
    return x


def _tap_forward(x, token, careful):
    return x, token


def _tap_backward(careful, token, cotangent):
    squares, divisor = sum_squares(cotangent, careful)
    return cotangent, _report(token, squares, divisor, jnp.zeros((), token.dtype))


tap.defvjp(_tap_forward, _tap_backward)


@jax.custom_vjp
def plain_tap(x: jax.Array, token: jax.Array) -> jax.Array:
    """Hand ``x`` on; the gradient of the token, zeros as ``lanes(x)``, are the cotangent's."""
    return x


plain_tap.defvjp(lambda x, token: (x, None), lambda _, c: (c, lanes(c)))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def cut(signal: Signal, token: jax.Array, careful: bool) -> Signal:
    """Hand the signal on; divide the cotangent by the power of two next below its RMS.

    The gradient of the token is the norm of what is handed back, its exponent the power of two
    taken out here and downstream. Dividing by a power of two rounds nothing, so that the cotangents
    are bit for bit those of a plain backward pass wherever that neither under- nor overflows.
    """
    return signal


def _cut_forward(signal, token, careful):
    return signal, token


def _cut_backward(careful, token, cotangent):
    squares, divisor = sum_squares(cotangent.x, careful)
    power = _within(cotangent.x.dtype, power_of_two(squares, divisor, cotangent.x.size))
    power = power.astype(token.dtype)
    total = cotangent.exponent + power
    handed = Signal(_times_power(cotangent.x, -power), total)
    return handed, _report(token, squares, _times_power(divisor.astype(token.dtype), -power), total)


cut.defvjp(_cut_forward, _cut_backward)


def _report(token, *parts: jax.Array) -> jax.Array:
    return jnp.stack([part.astype(token.dtype) for part in parts])


def renormalise(signal: Signal, norm: Norm) -> Signal:
    """Take the power of two next below the RMS out of the value, whose norm was measured."""
    power = _within(signal.x.dtype, power_of_two(norm.squares, norm.divisor, norm.size))
    power = power.astype(signal.exponent.dtype)
    return Signal(_rescale(signal.x, -power), signal.exponent + power)


def restore(signal: Signal) -> Signal:
    """Put the power of two back into the value, where the next unit must see the true size."""
    power = jax.lax.stop_gradient(signal.exponent)
    # In two steps: one reaches only half of what a dtype spans.
    first = _within(signal.x.dtype, power)
    second = _within(signal.x.dtype, power - first)
    return Signal(_rescale(_rescale(signal.x, first), second), signal.exponent - power)


@jax.custom_vjp
def _rescale(x: jax.Array, power: jax.Array) -> jax.Array:
    """Multiply by ``2 ** power``; cotangents pass unscaled, as they are those of the true value."""
    return _times_power(x, power)


def _rescale_forward(x, power):
    return _times_power(x, power), power


def _rescale_backward(power, cotangent):
    return cotangent, jnp.zeros_like(power)


_rescale.defvjp(_rescale_forward, _rescale_backward)


def _within(dtype, power: jax.Array) -> jax.Array:
    """Keep a power of two and its reciprocal representable."""
    limit = -jnp.finfo(dtype).minexp - 1
    return jnp.clip(power, -limit, limit)


def _times_power(x: jax.Array, power: jax.Array) -> jax.Array:
    """Multiply by ``2 ** power`` exactly; the power is whole, and within the dtype's range."""
    info = jnp.finfo(x.dtype)
    integer = {16: jnp.int16, 32: jnp.int32, 64: jnp.int64}[info.bits]
    bits = (power.astype(integer) + (info.maxexp - 1)) << info.nmant
    return x * jax.lax.bitcast_convert_type(bits, x.dtype)
