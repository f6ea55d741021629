"""Plain stacks without norm: the mean gain, its scatter at finite width, the Jacobian's spread."""

from collections.abc import Sequence

import numpy as np

from convjax import _check
from convjax.gradflow.oracles._check import Count, Number, count, counts, number


def relu_gain(scale: Number) -> float:
    """Return the gain of one layer of a plain ReLU network: weights, then ReLU.

    Formula: ``scale / 2``: a weight's variance times its fan-in, and half of the gates are open. It
    holds in the mean at any width, because a weight and its negative open the gate equally often.

    Args:
      scale: variance of a weight times fan_in: 2 for He, 1 for LeCun (Flax's default), 1/3 for
        PyTorch's default.

    Returns:
      Squared norm of the gradient one layer back over that of the layer: 1 for He.

    Raises:
      ValueError: a scale below 0 or not finite.

    Example:
      >>> from convjax.gradflow import oracles
      >>> oracles.relu_gain(2), oracles.relu_gain(1), round(oracles.relu_gain(1 / 3), 4)
      (1.0, 0.5, 0.1667)

    Reference: Glorot and Bengio 2010; He et al., Delving Deep into Rectifiers, 2015. No bias; zero
    padding takes its part besides (``padding_gain``).
    """
    return number("scale", scale) / 2


def log_spread(
    depth: Count, width: Count | Sequence[int] | np.ndarray, per_layer: Number = 5.0
) -> tuple[float, float]:
    """Return mean and variance of ``ln |g|^2`` over He-initialised plain ReLU networks.

    Formula: about normal with ``mean = -beta / 2`` and ``variance = beta``, where
    ``beta = per_layer * sum(1 / n_l)``, to first order in 1/n: ``|g|^2`` is 1 in the mean and
    ``exp(-beta / 2)`` in the median.

    A layer's gain has relative variance 5/n: 3/n because the gates pass a random half of a Gaussian
    vector, 2/n because its weights scatter. Add ``depth * ln(relu_gain(scale))`` to the mean for
    another scale than He's.

    Args:
      depth: layers that the gradient travels back through.
      width: features of every layer, or a sequence with those of each.
      per_layer: relative variance of one layer's gain, times its width: 5 for ReLU, 2 for linear.

    Returns:
      Mean and variance, of one example through fully connected layers. Convolutions scatter less:
      they average over places.

    Raises:
      ValueError: a depth below 0, a width below 1, not as many widths as layers, a negative
        per_layer.

    Example:
      >>> from convjax.gradflow import oracles
      >>> oracles.log_spread(32, 64)
      (-1.25, 2.5)

    Reference: after Hanin, Which Neural Net Architectures Give Rise to Exploding and Vanishing
    Gradients?, 2018, whose beta is the sum of 1/n; the constant is derived here.
    """
    depth = count("depth", depth, 0)
    widths = np.array(counts("width", width, depth, depth))
    beta = number("per_layer", per_layer) * float(np.sum(1 / widths))
    return -beta / 2, beta


def jacobian_spread(
    depth: Count,
    kernel: str = "gaussian",
    activation: str = "relu",
) -> float:
    """Return the relative variance of the squared singular values of a plain network's Jacobian.

    Formula: ``depth * (kernel + activation)`` with 1 for Gaussian and 0 for orthogonal kernels, 1
    for ReLU (half of the gates shut) and 0 for linear. Their mean is 1 where the scale is He's
    (ReLU) or LeCun's (linear).

    Args:
      depth: layers of equal width.
      kernel: ``"gaussian"`` or ``"orthogonal"``.
      activation: ``"relu"`` or ``"linear"``.

    Returns:
      ``mean(s^4) / mean(s^2)^2 - 1``, in the limit of wide layers.

    Raises:
      ValueError: a depth below 0, an unknown name.

    Example:
      >>> from convjax.gradflow import oracles
      >>> oracles.jacobian_spread(6), oracles.jacobian_spread(6, "orthogonal")
      (12.0, 6.0)

    Reference: after Saxe et al. 2013 and Pennington et al. 2017.
    """
    kernels, activations = {"gaussian": 1, "orthogonal": 0}, {"relu": 1, "linear": 0}
    _check.choice("kernel", kernel, kernels)
    _check.choice("activation", activation, activations)
    return float(count("depth", depth, 0) * (kernels[kernel] + activations[activation]))
