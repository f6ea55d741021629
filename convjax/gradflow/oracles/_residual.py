"""Shortcuts without norm: residual, highway, zero-initialised, and mixed streams."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from convjax.gradflow.oracles._check import Count, Number, count, number, numbers


def residual_gain(units: Count, scale: Number, branch_gain: Number) -> float:
    """Return the gain of a whole residual network without norm.

    Formula: ``(1 + scale^2 * branch_gain)^units``: branch and shortcut are uncorrelated, so their
    energies add.

    Args:
      units: residual units with identity shortcuts.
      scale: factor on every branch. At ``units**-0.5`` the gain tends to e as depth grows (for a
        branch gain of 1), at ``1 / units`` to 1.
      branch_gain: gain of one branch: 1 for ReLU, then a He convolution; 2 for a He convolution,
        ReLU, He convolution.

    Returns:
      Squared norm of the gradient at the input over that at the output; the mean over networks.

    Raises:
      ValueError: a negative number of units, a branch gain below 0, a number not finite.

    Example:
      >>> from convjax.gradflow import oracles
      >>> oracles.residual_gain(24, 1.0, 1.0), round(oracles.residual_gain(24, 24**-0.5, 1.0), 2)
      (16777216.0, 2.66)

    Reference: after Balduzzi et al. 2017 (2^L) and Hayou et al. 2021 (scales).
    """
    factor = 1 + number("scale", scale, least=-math.inf) ** 2 * number("branch_gain", branch_gain)
    with np.errstate(over="ignore"):
        return float(np.power(factor, count("units", units, 0)))


def residual_width_factor(units: Count, scale: Number, width: Count) -> float:
    """Return by which factor narrow trunks ``x + scale * W relu(x)`` exceed ``residual_gain``.

    Formula: ``1 + 2 / (pi n) * (s^2 / (1 + s^2))^2 * sum_m (L - m) (arcsin r_m + r_m sqrt(1 -
    r_m^2))`` for m = 1 … L - 1, with ``r_m = (1 + s^2)^(-m/2)``, the correlation of a trunk's
    feature with what it was m units before.

    The gates sit on the trunk, where a large feature keeps its gate open for units to come and
    feeds all others meanwhile: feature i and its derivative change the covariance that all weights
    of a unit see, by 2/n of their own squares and product where the gate is open; what that does to
    the gate of i itself, units later, is a Gaussian integral. (For W, ReLU, W the factor is 1 at
    any width: whether a gate is open depends on the sign of fresh weights alone.)

    Args:
      units: residual units initialised as He et al. say, their input Gaussian.
      scale: factor on every branch.
      width: n, features of the trunk.

    Returns:
      The factor, to first order in 1/n.

    Raises:
      ValueError: a negative number of units, a scale that is not finite, a width below 1.

    Example:
      >>> from convjax.gradflow import oracles
      >>> [round(oracles.residual_width_factor(units, 1.0, 256), 3) for units in (16, 32)]
      [1.036, 1.082]

    Reference: derived here.
    """
    square = number("scale", scale, least=-math.inf) ** 2
    back = np.arange(1, count("units", units, 0))
    r = (1 + square) ** (-back / 2)
    gates = np.arcsin(r) + r * np.sqrt(1 - r**2)
    strength = 2 / (math.pi * count("width", width, 1)) * (square / (1 + square)) ** 2
    return 1 + strength * float((units - back) @ gates)


def highway_carry(bias: Number, units: Count) -> float:
    """Return what the shortcuts alone hand through a highway network.

    Formula: ``(1 - sigmoid(bias))^units``, a factor of norms, not of their squares.

    Args:
      bias: initial bias of the gates, usually negative.
      units: gated units, one after the other.

    Returns:
      Norm of the gradient that came over the shortcuts alone, over the norm that entered; exact
      where the gates' kernels are 0.

    Raises:
      ValueError: a bias that is not finite, a negative number of units.

    Example:
      >>> from convjax.gradflow import oracles
      >>> [float(f"{oracles.highway_carry(b, 50):.2g}") for b in (-1, -2, -3)]
      [1.6e-07, 0.0018, 0.088]

    Reference: Srivastava et al., Highway Networks, 2015, for the negative bias; the product is
    derived here.
    """
    # 1 - sigmoid(b) = 1 / (1 + exp(b))
    opened = np.logaddexp(0.0, number("bias", bias, least=-math.inf))
    return float(np.exp(-count("units", units, 0) * opened))


def fixup_scale(units: Count, convs: Count) -> float:
    """Return Fixup's factor on the initial weights of a branch's layers but the last.

    Formula: ``units^(-1 / (2 * convs - 2))``; the last layer of a branch, and the classifier, start
    at zero.

    Args:
      units: residual units.
      convs: convolutions in a branch, at least two.

    Returns:
      The factor on He's initialisation.

    Raises:
      ValueError: units below 1, convs below 2.

    Example:
      >>> from convjax.gradflow import oracles
      >>> round(oracles.fixup_scale(54, 2), 3)
      0.136

    Reference: after Zhang et al., Fixup Initialization, 2019.
    """
    return count("units", units, 1) ** (-1 / (2 * count("convs", convs, 2) - 2))


class CompoundGain(NamedTuple):
    """How far a product of mixing matrices can enlarge or shrink.

    Attributes:
      forward: largest absolute row sum of the product.
      backward: largest absolute column sum.
      log: largest ``|ln|`` of any absolute row or column sum; ``inf`` where one is 0. It sees what
        shrinks, which the other two do not.
    """

    forward: float
    backward: float
    log: float


def compound_gain(matrices: ArrayLike) -> CompoundGain:
    """Return the gains of the product of matrices that mix parallel residual streams.

    Formulas: for ``P = H_L … H_2 H_1``, ``max_i |sum_j P_ij|`` forward, ``max_j |sum_i P_ij|``
    backward, and the largest ``|ln|`` of all those sums. Doubly stochastic matrices give 1, 1, 0.

    Args:
      matrices: ``(L, n, n)``, the first one first applied.

    Returns:
      The ``CompoundGain``, with absolute values taken of the sums.

    Raises:
      ValueError: not a stack of square matrices, or numbers not finite.

    Example:
      >>> import numpy as np
      >>> from convjax.gradflow import oracles
      >>> oracles.compound_gain(np.array([[[0.5, 0.5], [0.25, 0.75]]])).backward
      1.25

    Reference: the gain as in mHC, arXiv 2512.24880, from a secondary source; the logarithm is
    added here, because a largest sum hides a column that is lost.
    """
    stack = numbers("matrices", matrices, "an array of numbers, a stack (L, n, n)")
    if stack.ndim != 3 or stack.shape[1] != stack.shape[2] or not stack.shape[1]:
        raise ValueError(f"matrices has shape {stack.shape}; give a stack (L, n, n)")
    product = np.eye(stack.shape[1])
    for matrix in stack:
        product = matrix @ product
    rows, columns = np.abs(product.sum(1)), np.abs(product.sum(0))
    with np.errstate(divide="ignore"):
        log = np.abs(np.log(np.concatenate([rows, columns]))).max()
    return CompoundGain(float(rows.max()), float(columns.max()), float(log))
