"""Mean-field theory of wide plain networks: variance at rest, gain, correlation length."""

import math
from collections.abc import Callable

import numpy as np
import scipy

from convjax.gradflow.oracles._check import Number, number
from convjax.gradflow.oracles._quadrature import derivative_of, function_of, gaussian_mean

Activation = str | Callable[[np.ndarray], np.ndarray]

HOMOGENEOUS = ("relu", "leaky_relu", "linear")
LARGEST, SMALLEST = 1e12, 1e-12


def fixed_point(activation: Activation, weight_variance: Number, bias_variance: Number) -> float:
    """Return the variance q* at which pre-activations of a wide plain network come to rest.

    Formula: ``q = weight_variance * E[f(sqrt(q) z)^2] + bias_variance`` with z unit Gaussian, by
    quadrature.

    Args:
      activation: f: ``"tanh"``, ``"erf"``, ``"relu"``, ``"linear"`` and others of
        ``nn.ACTIVATIONS``, or a function of a NumPy array that is smooth except at 0.
      weight_variance: variance of a weight times its fan-in.
      bias_variance: variance of a bias.

    Returns:
      The fixed point that a signal of variance 1 comes to: 0 where it dies out (below 1e-12),
      ``inf`` where it grows without bound.

    Raises:
      ValueError: an unknown activation, a negative variance; a layer that keeps every variance, as
        ReLU does with weight variance 2 and no bias.

    Example:
      >>> from convjax.gradflow import oracles
      >>> round(oracles.fixed_point("tanh", 1.5, 0.05), 4)
      0.418

    Reference: Poole et al. 2016; Schoenholz et al., Deep Information Propagation, 2016.
    """
    f = function_of(activation)
    weight = number("weight_variance", weight_variance)
    bias = number("bias_variance", bias_variance)
    if isinstance(activation, str) and activation in HOMOGENEOUS:
        return _homogeneous(str(activation), weight * gaussian_mean(lambda z: f(z) ** 2), bias)

    def change(q: float) -> float:
        return weight * gaussian_mean(lambda z: f(math.sqrt(q) * z) ** 2) + bias - q

    # A signal of variance 1 goes up to the next root, or down to it: so does the bracket.
    high = 1.0
    while change(high) > 0:
        high *= 2
        if high > LARGEST:
            return math.inf
    low = min(high, 1.0)
    while change(low) <= 0:
        low /= 2
        if low < SMALLEST:
            return 0.0
    found = scipy.optimize.root_scalar(change, bracket=(low, high), xtol=1e-20, rtol=1e-13)
    return float(found.root)


def chi(activation: Activation, weight_variance: Number, bias_variance: Number) -> float:
    """Return the gain of one layer of a wide plain network at its fixed point.

    Formula: ``chi = weight_variance * E[f'(sqrt(q*) z)^2]`` with z unit Gaussian, by quadrature.
    Below 1 gradients fade (the ordered phase), above 1 they explode (the chaotic phase).

    Args:
      activation: f, as in ``fixed_point``; of a function its derivative is taken by differences.
      weight_variance: variance of a weight times its fan-in.
      bias_variance: variance of a bias.

    Returns:
      Squared norm of the gradient one layer back over that of the layer.

    Raises:
      ValueError: an unknown activation, a negative variance; a variance that grows without bound,
        for an activation whose slope depends on it.

    Example:
      >>> from convjax.gradflow import oracles
      >>> [round(oracles.chi("tanh", s, 0.05), 3) for s in (1.0, 1.5, 1.76, 2.0)]
      [0.759, 0.939, 1.0, 1.048]

    Reference: Schoenholz et al., Deep Information Propagation, 2016.
    """
    slope = derivative_of(activation)
    weight = number("weight_variance", weight_variance)
    if (
        isinstance(activation, str) and activation in HOMOGENEOUS
    ):  # the slope knows the sign alone, not the size
        number("bias_variance", bias_variance)
        return weight * gaussian_mean(lambda z: slope(z) ** 2)
    q = fixed_point(activation, weight, bias_variance)
    if math.isinf(q):
        raise ValueError(
            f"weight_variance={weight_variance} lets the variance grow without bound under "
            f"{activation!r}: there is no fixed point to take the gain at; make it smaller"
        )
    return weight * gaussian_mean(lambda z: slope(math.sqrt(q) * z) ** 2)


def edge_of_chaos(
    activation: Activation, bias_variance: Number, low: Number, high: Number
) -> float:
    """Return the weight variance at which ``chi`` is 1: gradients neither fade nor explode.

    Args:
      activation: f, as in ``chi``.
      bias_variance: variance of a bias.
      low: a weight variance on one side of the edge.
      high: one on the other.

    Returns:
      The weight variance between the two.

    Raises:
      ValueError: both on one side of the edge; what ``chi`` refuses.

    Example:
      >>> from convjax.gradflow import oracles
      >>> round(oracles.edge_of_chaos("tanh", 0.05, 1.0, 4.0), 2)
      1.76

    Reference: Poole et al. 2016; Schoenholz et al. 2016.
    """
    low, high = number("low", low), number("high", high)
    ends = [chi(activation, weight, bias_variance) for weight in (low, high)]
    if not min(ends) <= 1 <= max(ends):
        raise ValueError(
            f"low={low} and high={high} have a chi of {ends[0]:.3g} and {ends[1]:.3g}; they must "
            "lie on both sides of the edge, where it is 1"
        )
    found = scipy.optimize.root_scalar(
        lambda weight: chi(activation, weight, bias_variance) - 1, bracket=(low, high)
    )
    return float(found.root)


def correlation_length(chi: Number) -> float:
    """Return the number of layers over which gradients change by a factor e (squared norms).

    Formula: ``1 / |ln chi|``: -1 / ln chi in the ordered phase, as it is mostly written.

    Args:
      chi: gain of one layer.

    Returns:
      The length in layers; ``inf`` at chi = 1. Networks are said to train up to about 6 lengths.

    Raises:
      ValueError: a chi that is not positive and finite.

    Example:
      >>> from convjax.gradflow import oracles
      >>> round(oracles.correlation_length(oracles.chi("tanh", 1.5, 0.05)), 1)
      15.8

    Reference: Schoenholz et al. 2016, and after Xiao et al. 2018 for convolutions.
    """
    rate = abs(math.log(number("chi", chi, above=True)))
    return 1 / rate if rate > 0 else math.inf


def _homogeneous(name: str, factor: float, bias: float) -> float:
    """Solve q = factor * q + bias, which is what is left for f(c x) = c f(x)."""
    if math.isclose(factor, 1.0, rel_tol=1e-12):
        if bias == 0:
            raise ValueError(
                f"activation={name!r} with this weight_variance and bias_variance=0 keeps every "
                "variance as it is: the fixed point is the input's own"
            )
        return math.inf
    return bias / (1 - factor) if factor < 1 else math.inf
