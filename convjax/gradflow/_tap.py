"""Taps: the identity with a token whose gradient is the cotangent's norm.

A tap hands its input on. Its backward pass returns, as the gradient of the token, the logarithm of
the norm of the cotangent that came by. So ``jax.vjp`` with respect to the tokens is the profile.

A ``Signal`` is a trunk's value with one scalar beside it, which does double service. Forward it is
the power of two that was taken out of the value. Backward its cotangent is the power of two that
was taken out of the cotangents: JAX adds it up along the trunk, through ``scan`` too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from convjax.gradflow._norm import LOG2, log2_rms, log_norm


class Signal(NamedTuple):
    """The value ``x * 2 ** exponent``."""

    x: jax.Array
    exponent: jax.Array


@jax.custom_vjp
def tap(x: jax.Array, token: jax.Array) -> jax.Array:
    """Hand ``x`` on; the gradient of the token (shape (2,)) is (log norm of the cotangent, 0)."""
    return x


def _tap_forward(x, token):
    return x, token


def _tap_backward(token, cotangent):
    log = log_norm(cotangent).astype(token.dtype)
    return cotangent, jnp.stack([log, jnp.zeros_like(log)])


tap.defvjp(_tap_forward, _tap_backward)


@jax.custom_vjp
def cut(signal: Signal, token: jax.Array) -> Signal:
    """Hand the signal on; divide the cotangent by the power of two nearest to its RMS.

    The gradient of the token (shape (2,)) is (log norm of what is handed back, power of two taken
    out here and downstream). Dividing by a power of two rounds nothing, so that the cotangents are
    bit for bit those of a plain backward pass wherever that neither under- nor overflows.
    """
    return signal


def _cut_forward(signal, token):
    return signal, token


def _cut_backward(token, cotangent):
    log = log_norm(cotangent.x).astype(token.dtype)
    power = _within(cotangent.x.dtype, log2_rms(log, cotangent.x.size))
    total = cotangent.exponent + power
    handed = Signal(_times_power(cotangent.x, -power), total)
    return handed, jnp.stack([log - power * LOG2, total])


cut.defvjp(_cut_forward, _cut_backward)


def renormalise(signal: Signal, log: jax.Array) -> Signal:
    """Take the power of two nearest to the RMS out of the value; ``log`` is its log norm."""
    log = jax.lax.stop_gradient(log).astype(signal.exponent.dtype)
    power = _within(signal.x.dtype, log2_rms(log, signal.x.size))
    return Signal(_rescale(signal.x, -power), signal.exponent + power)


def restore(signal: Signal) -> Signal:
    """Put the power of two back into the value, where the next unit must see the true size."""
    power = jax.lax.stop_gradient(signal.exponent)
    return Signal(_rescale(signal.x, power), signal.exponent - power)


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
    """Keep the power of two and its reciprocal representable."""
    limit = -jnp.finfo(dtype).minexp - 1
    return jnp.clip(power, -limit, limit)


def _times_power(x: jax.Array, power: jax.Array) -> jax.Array:
    """Multiply by ``2 ** power`` exactly, in two steps so that any representable result is met."""
    limit = -jnp.finfo(x.dtype).minexp - 1
    first = jnp.clip(power, -limit, limit)
    second = jnp.clip(power - first, -limit, limit)
    one = jnp.ones((), x.dtype)
    return x * jnp.ldexp(one, first.astype(jnp.int32)) * jnp.ldexp(one, second.astype(jnp.int32))
