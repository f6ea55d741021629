"""Gaussian integrals of an activation: what a normal pre-activation becomes, alone and in pairs.

An even-handed way for every function: its Hermite coefficients ``a_k`` about the pre-activation's
mean and scale. Then ``E f(z) f(z') = sum_k a_k**2 rho**k`` for a pair of correlation rho (Mehler),
with what the truncated series leaves out assigned to the next power, so that rho = 1 is exact.
ReLU about zero has closed forms and uses them.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy

TERMS = 48
_NODES = 40
_REACH = 9.0

Array = np.ndarray


class Moments(NamedTuple):
    """What becomes of ``z ~ N(m, v)`` under an activation f.

    Attributes:
      mean: E f.
      second: E f**2.
      slope: E f'**2.
      elasticity: how the logarithm of E f**2 follows that of E z**2, mean and scale together.
      pair: rho -> E f f'.
      slope_pair: rho -> E f'(z) f'(z').
      tilt_pair: rho -> E u f'(z) u' f'(z'), with u = (z - m) / sqrt(v).
      square_pair: rho -> E f**2 f'**2 / (E f**2)**2.
      noise_pair: rho -> covariance with its like of f**2 / E f**2 less what follows z**2 / E z**2,
        which is ``elasticity`` times that.
      gate_pair: rho -> E f'(z)**2 f'(z')**2 / (E f'**2)**2.
    """

    mean: float
    second: float
    slope: float
    elasticity: float
    pair: Callable[[Array], Array]
    slope_pair: Callable[[Array], Array]
    tilt_pair: Callable[[Array], Array]
    square_pair: Callable[[Array], Array]
    noise_pair: Callable[[Array], Array]
    gate_pair: Callable[[Array], Array]


class Function(NamedTuple):
    """An activation in NumPy: itself, its derivative, and where the derivative jumps."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    kinks: tuple[float, ...] = ()


def moments(name: str, function: Any, mean: float, variance: float) -> Moments:
    """Return the moments of an activation at a normal pre-activation.

    Args:
      name: the activation's name in ``nn.ACTIVATIONS``, or any name where ``function`` is one's
        own.
      function: the callable on JAX arrays, used where the name is not known.
      mean: m.
      variance: v, positive.
    """
    if name == "linear":
        return _linear(mean, variance)
    if name == "relu":
        # Homogeneous: one set of integrals for every scale.
        scale = math.sqrt(variance)
        unit = _relu() if mean == 0 else _series("relu", None, round(mean / scale, 6), 1.0)
        return unit._replace(
            mean=unit.mean * scale,
            second=unit.second * variance,
            pair=lambda rho: unit.pair(rho) * variance,
        )
    known = name in FUNCTIONS
    return _series(name, None if known else function, float(mean), float(variance))


def _linear(mean: float, variance: float) -> Moments:
    second = mean**2 + variance
    return Moments(
        mean,
        second,
        1.0,
        1.0,
        lambda rho: mean**2 + variance * rho,
        np.ones_like,
        lambda rho: rho,
        lambda rho: 1 + (2 * variance**2 * rho**2 + 4 * mean**2 * variance * rho) / second**2,
        np.zeros_like,
        np.ones_like,
    )


@functools.lru_cache(maxsize=1)
def _relu() -> Moments:
    return Moments(
        1 / math.sqrt(2 * math.pi),
        0.5,
        0.5,
        1.0,
        lambda rho: 0.5 * relu_pair(rho),
        lambda rho: 0.5 * gate_pair(rho),
        # u f'(u) is f itself.
        lambda rho: 0.5 * relu_pair(rho),
        lambda rho: 1 + 2 * rho**2 + _signed_squares(rho),
        # f**2 - z**2 / 2 is half of z |z|.
        _signed_squares,
        lambda rho: 2 * gate_pair(rho),
    )


def relu_pair(rho: Array) -> Array:
    """Return 2 E relu(z) relu(z') for unit variances: the arc-cosine kernel of degree one."""
    rho = np.clip(rho, -1.0, 1.0)
    return (np.sqrt(1 - rho**2) + (np.pi - np.arccos(rho)) * rho) / np.pi


def gate_pair(rho: Array) -> Array:
    """Return 2 P(z > 0, z' > 0): the arc-cosine kernel of degree zero."""
    return (np.pi - np.arccos(np.clip(rho, -1.0, 1.0))) / np.pi


def _signed_squares(rho: Array) -> Array:
    """Return E z|z| z'|z'| for unit variances."""
    rho = np.clip(rho, -1.0, 1.0)
    return 2 / np.pi * (3 * rho * np.sqrt(1 - rho**2) + (1 + 2 * rho**2) * np.arcsin(rho))


@functools.lru_cache(maxsize=4096)
def _series(name: str, function: Any, mean: float, variance: float) -> Moments:
    known = FUNCTIONS[name] if function is None else of_callable(function)
    scale = math.sqrt(variance)
    u, weight = _nodes(tuple((kink - mean) / scale for kink in known.kinks))
    z = mean + scale * u
    with np.errstate(over="ignore"):
        value, slope = known.value(z), known.slope(z)
    basis = _hermite(u) * weight

    def expect(values: Array) -> float:
        return float(values @ weight)

    def pair(values: Array) -> Callable[[Array], Array]:
        return functools.partial(_mehler, basis @ values, expect(values**2))

    second, slopes = expect(value**2), expect(slope**2)
    elastic = expect(value * slope * z) / max(second, 1e-300)
    noise = value**2 / max(second, 1e-300) - 1 - elastic * (z**2 / (mean**2 + variance) - 1)
    gates = slope**2 / max(slopes, 1e-300)
    return Moments(
        expect(value),
        second,
        slopes,
        elastic,
        pair(value),
        pair(slope),
        pair(u * slope),
        pair(value**2 / max(second, 1e-300)),
        pair(noise),
        pair(gates),
    )


def _mehler(coefficients: Array, whole: float, rho: Array) -> Array:
    squares = coefficients**2
    powers = np.clip(rho, -1.0, 1.0)[..., None] ** np.arange(len(squares) + 1)
    rest = max(whole - squares.sum(), 0.0)
    return powers @ np.append(squares, rest)


def _nodes(kinks: tuple[float, ...]) -> tuple[Array, Array]:
    """Return nodes and normal weights, Gauss-Legendre between the kinks."""
    inside = sorted(k for k in kinks if -_REACH < k < _REACH)
    # One interval in the middle even without a kink: the bulk is where the nodes should be.
    edges = np.unique([-_REACH, *(inside or [0.0]), _REACH])
    points, weights = _legendre()
    half = np.diff(edges)[:, None] / 2
    u = (edges[:-1, None] + half * (points + 1)).ravel()
    weight = (half * weights).ravel() * np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
    return u, weight / weight.sum()


@functools.lru_cache(maxsize=1)
def _legendre() -> tuple[Array, Array]:
    return np.polynomial.legendre.leggauss(_NODES)


def _hermite(u: Array) -> Array:
    """Return the normalised Hermite polynomials at the nodes, ``(TERMS, nodes)``."""
    rows = [np.ones_like(u), u]
    for k in range(1, TERMS - 1):
        rows.append((u * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.array(rows)


def function_of(name: str, function: Any) -> Function:
    """Return an activation in NumPy, by its name, or from the callable where that is not known."""
    return FUNCTIONS[name] if name in FUNCTIONS else of_callable(function)


def of_callable(function: Any) -> Function:
    """Return a callable on JAX arrays as one on NumPy's; its kinks are not known."""
    import jax
    import jax.numpy as jnp

    def value(z: Array) -> Array:
        return np.asarray(function(jnp.asarray(z, jnp.float32)), float)

    def slope(z: Array) -> Array:
        return np.asarray(jax.vmap(jax.grad(function))(jnp.asarray(z, jnp.float32)), float)

    return Function(value, slope)


def _gelu(z: Array) -> Array:
    # The tanh form, as jax.nn.gelu has it by default.
    return 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def _gelu_slope(z: Array) -> Array:
    inner = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    t = np.tanh(inner)
    return 0.5 * (1 + t) + 0.5 * z * (1 - t**2) * math.sqrt(2 / math.pi) * (1 + 0.134145 * z**2)


def _mish_slope(z: Array) -> Array:
    t = np.tanh(np.logaddexp(0, z))
    return t + z * (1 - t**2) * scipy.special.expit(z)


_ALPHA, _LAMBDA = 1.6732632423543772, 1.0507009873554805

FUNCTIONS: dict[str, Function] = {
    "relu": Function(lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0, (0.0,)),
    "relu6": Function(lambda z: np.clip(z, 0, 6), lambda z: ((z > 0) & (z < 6)) * 1.0, (0.0, 6.0)),
    "leaky_relu": Function(
        lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1.0, 0.01), (0.0,)
    ),
    "elu": Function(
        lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
        lambda z: np.where(z > 0, 1.0, np.exp(np.minimum(z, 0))),
        (0.0,),
    ),
    "selu": Function(
        lambda z: _LAMBDA * np.where(z > 0, z, _ALPHA * np.expm1(np.minimum(z, 0))),
        lambda z: _LAMBDA * np.where(z > 0, 1.0, _ALPHA * np.exp(np.minimum(z, 0))),
        (0.0,),
    ),
    "gelu": Function(_gelu, _gelu_slope),
    "exact_gelu": Function(
        lambda z: z * scipy.special.ndtr(z),
        lambda z: scipy.special.ndtr(z) + z * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi),
    ),
    "silu": Function(
        lambda z: z * scipy.special.expit(z),
        lambda z: scipy.special.expit(z) * (1 + z * scipy.special.expit(-z)),
    ),
    "hard_swish": Function(
        lambda z: z * np.clip(z + 3, 0, 6) / 6,
        lambda z: np.where(z < -3, 0.0, np.where(z > 3, 1.0, (2 * z + 3) / 6)),
        (-3.0, 3.0),
    ),
    "mish": Function(lambda z: z * np.tanh(np.logaddexp(0, z)), _mish_slope),
    "softplus": Function(lambda z: np.logaddexp(0, z), lambda z: scipy.special.expit(z)),
    "sigmoid": Function(
        lambda z: scipy.special.expit(z), lambda z: scipy.special.expit(z) * scipy.special.expit(-z)
    ),
    "hard_sigmoid": Function(
        lambda z: np.clip(z + 3, 0, 6) / 6, lambda z: (np.abs(z) < 3) / 6.0, (-3.0, 3.0)
    ),
    "tanh": Function(np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "linear": Function(lambda z: z, np.ones_like),
}
