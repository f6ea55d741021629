"""Correlation of the gradients of two inputs: shattering."""

import math

from convjax import _check
from convjax.gradflow.oracles._batch_norm import CENTRED
from convjax.gradflow.oracles._check import Count, Number, correlation, count

KINDS = ("plain", "centred", "residual")


def relu_correlation(rho: Number) -> float:
    """Return the correlation, about 0, of the ReLUs of two Gaussians of correlation rho.

    Formula: ``kappa_1 = (sqrt(1 - rho^2) + (pi - arccos rho) rho) / pi``.

    Args:
      rho: correlation of the two pre-activations.

    Returns:
      ``E[f(u) f(v)] / E[f(u)^2]``, means not subtracted: 1/pi for independent ones.

    Raises:
      ValueError: a rho beyond -1 or 1.

    Example:
      >>> from convjax.gradflow import oracles
      >>> round(oracles.relu_correlation(0.0), 4), oracles.relu_correlation(1.0)
      (0.3183, 1.0)

    Reference: Cho and Saul, Kernel Methods for Deep Learning, 2009: the arc-cosine kernel of
    degree 1.
    """
    rho = correlation("rho", rho)
    return math.sqrt(1 - rho**2) / math.pi + relu_gate_correlation(rho) * rho


def relu_gate_correlation(rho: Number) -> float:
    """Return how often the gates of two ReLUs are open together, of the times that one is.

    Formula: ``kappa_0 = (pi - arccos rho) / pi``.

    Args:
      rho: correlation of the two pre-activations.

    Returns:
      ``E[f'(u) f'(v)] / E[f'(u)^2]``: 1/2 for independent ones.

    Raises:
      ValueError: a rho beyond -1 or 1.

    Example:
      >>> from convjax.gradflow import oracles
      >>> oracles.relu_gate_correlation(0.0), oracles.relu_gate_correlation(1.0)
      (0.5, 1.0)

    Reference: Cho and Saul 2009: the arc-cosine kernel of degree 0.
    """
    return 1 - math.acos(correlation("rho", rho)) / math.pi


def gradient_correlation(depth: Count, kind: str, rho: Number = 0.0) -> float:
    """Return the correlation of the gradients with respect to two inputs.

    Formulas: a product over layers, in which the inputs' correlation rho goes on from layer to
    layer: plain ``kappa_0(rho)``, then ``rho <- kappa_1(rho)``; centred (as batch norm does)
    ``kappa_0(rho)``, then ``rho <- (kappa_1(rho) - 1/pi) / CENTRED``, which is 2^-depth from
    rho = 0; residual ``(1 + kappa_0(rho)) / 2``, then ``rho <- (rho + kappa_1(rho)) / 2``.

    Args:
      depth: layers, or residual units ``x + W relu(x)``, of He's initialisation.
      kind: ``"plain"``, ``"centred"`` or ``"residual"``.
      rho: correlation of the two inputs.

    Returns:
      Mean product of the two gradients of one output over their mean square, for wide layers;
      narrow ones correlate more.

    Raises:
      ValueError: a negative depth, an unknown kind, a rho beyond -1 or 1.

    Example:
      >>> from convjax.gradflow import oracles
      >>> [round(oracles.gradient_correlation(8, k), 4) for k in ("plain", "centred", "residual")]
      [0.05, 0.0039, 0.1871]

    Reference: Balduzzi et al., The Shattered Gradients Problem, 2017, theorem 1, whose 2^-L is the
    centred one; that plain ReLU networks follow the product of kappa_0 is derived here.
    """
    _check.choice("kind", kind, KINDS)
    rho = correlation("rho", rho)
    product = 1.0
    for _ in range(count("depth", depth, 0)):
        gate, relu = relu_gate_correlation(rho), relu_correlation(rho)
        if kind == "plain":
            factor, rho = gate, relu
        elif kind == "centred":
            factor, rho = gate, (relu - 1 / math.pi) / CENTRED
        else:
            factor, rho = (1 + gate) / 2, (rho + relu) / 2
        product *= factor
        rho = min(1.0, max(-1.0, rho))
    return product
