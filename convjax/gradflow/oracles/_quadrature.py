"""Means over a unit Gaussian, and the activations that they are taken of."""

import functools
from collections.abc import Callable

import numpy as np
import scipy

from convjax import _check

Function = Callable[[np.ndarray], np.ndarray]

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
_STEP = 1e-3


def gaussian_mean(f: Function) -> float:
    """Return E[f(z)] for z unit Gaussian."""
    nodes, masses = _rule()
    return float(masses @ f(nodes))


@functools.cache
def _rule() -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and masses of the Gaussian.

    Beyond 12 standard deviations lies 1e-33 of the mass. Each half by itself: kinks sit at 0. The
    square crowds nodes there too, where a function of a wide Gaussian turns.
    """
    roots, weights = np.polynomial.legendre.leggauss(240)
    t = (roots + 1) / 2
    half = 12 * t**2
    mass = weights * 12 * t * np.exp(-(half**2) / 2) / np.sqrt(2 * np.pi)
    masses = np.concatenate([mass[::-1], mass])
    return np.concatenate([-half[::-1], half]), masses / masses.sum()


def function_of(activation: str | Function) -> Function:
    """Return the function of a name in ``FUNCTIONS``; a function stays as it is."""
    if not isinstance(activation, str):
        return _check.function("activation", activation, "the name of an activation, or a function")
    _check.choice("activation", activation, FUNCTIONS)
    return FUNCTIONS[activation][0]


def derivative_of(activation: str | Function) -> Function:
    """Return the derivative, of a function by differences that do not reach across 0."""
    if isinstance(activation, str):
        function_of(activation)
        return FUNCTIONS[activation][1]

    def slope(x: np.ndarray) -> np.ndarray:
        h = np.where(x == 0, _STEP, np.minimum(_STEP, np.abs(x) / 4))
        near = activation(x + h) - activation(x - h)
        far = activation(x + 2 * h) - activation(x - 2 * h)
        return (8 * near - far) / (12 * h)

    return slope


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(_gelu_inner(x)))


def _gelu_inner(x: np.ndarray) -> np.ndarray:
    return np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)


def _gelu_slope(x: np.ndarray) -> np.ndarray:
    t = np.tanh(_gelu_inner(x))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)


def _elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _elu_slope(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, 1.0, np.exp(np.minimum(x, 0)))


def _selu(x: np.ndarray) -> np.ndarray:
    return SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0)))


def _selu_slope(x: np.ndarray) -> np.ndarray:
    return SELU_SCALE * np.where(x > 0, 1.0, SELU_ALPHA * np.exp(np.minimum(x, 0)))


def _sigmoid_slope(x: np.ndarray) -> np.ndarray:
    return scipy.special.expit(x) * scipy.special.expit(-x)


# Each function beside its derivative. The names mean what they mean in nn.ACTIVATIONS: gelu is the
# form with tanh, exact_gelu the one with erf.
FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "erf": (lambda x: scipy.special.erf(x), lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2))),
    "sigmoid": (lambda x: scipy.special.expit(x), _sigmoid_slope),
    "softplus": (lambda x: np.logaddexp(x, 0.0), lambda x: scipy.special.expit(x)),
    "silu": (
        lambda x: x * scipy.special.expit(x),
        lambda x: scipy.special.expit(x) + x * _sigmoid_slope(x),
    ),
    "gelu": (_gelu, _gelu_slope),
    "exact_gelu": (
        lambda x: x * scipy.special.ndtr(x),
        lambda x: scipy.special.ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
    ),
    "elu": (_elu, _elu_slope),
    "selu": (_selu, _selu_slope),
    "relu": (lambda x: np.maximum(x, 0.0), lambda x: (x > 0) * 1.0),
    "leaky_relu": (lambda x: np.where(x > 0, x, 0.01 * x), lambda x: np.where(x > 0, 1.0, 0.01)),
    "linear": (lambda x: x, np.ones_like),
}
