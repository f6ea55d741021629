"""Batch norm at initialization: plain networks explode, residual ones follow a power law."""

import math

import numpy as np

from convjax import _check
from convjax.gradflow.oracles._check import Count, Number, count, number

CENTRED = 1 - 1 / math.pi
"""Variance over second moment of a ReLU of a unit Gaussian: the share that a mean-free view sees.

Its inverse, 1.467, is the gain of a plain layer whose activations are centred, by batch norm over
large batches or by standardised weights.
"""


def batch_norm_gain(batch_size: Count, activation: str = "relu") -> float:
    """Return the gain of one layer of a plain network with batch norm, in the limit of wide layers.

    Formulas, for batches of B: ReLU ``(J'(c) + B - 1) / ((B - 3) (1 - J(c))) - 1 / (B - 3)`` with
    ``c = -1 / (B - 1)``, ``J`` and ``J'`` being ``relu_correlation`` and ``relu_gate_correlation``;
    linear ``(B - 2) / (B - 3)``, the least of all activations.

    Args:
      batch_size: examples whose statistics are shared, at least 4: fully connected layers, no
        epsilon, the cotangent of mean 0 over the batch, some layers away from both ends.
      activation: ``"relu"`` or ``"linear"``, after the norm.

    Returns:
      Squared norm of the gradient of the batch one layer back over that of the layer; it falls with
      B to ``1 / CENTRED = pi / (pi - 1)``, or 1 for linear.

    Raises:
      ValueError: a batch below 4, for which the mean does not exist; an unknown activation.

    Example:
      >>> from convjax.gradflow import oracles
      >>> [round(oracles.batch_norm_gain(b), 3) for b in (4, 8, 64)]
      [3.084, 1.788, 1.493]

    Reference: Yang et al., A Mean Field Theory of Batch Normalization, 2019, theorem 8 (their rate
    is that of the squared norm) and theorem 9.
    """
    _check.choice("activation", activation, ("relu", "linear"))
    b = count("batch_size", batch_size, 4)
    if activation == "linear":
        return (b - 2) / (b - 3)
    c = -1 / (b - 1)
    gate = (math.pi - math.acos(c)) / math.pi
    moment = math.sqrt(1 - c**2) / math.pi + gate * c
    return (gate + b - 1) / ((b - 3) * (1 - moment)) - 1 / (b - 3)


def batch_norm_residual_variance(
    units: Count,
    variance: Number = 1.0,
    order: str = "norm-relu-conv",
) -> np.ndarray:
    """Return the variance over the batch before every unit of a residual network, and at its end.

    Formula: ``v_l = variance + slope * l``. Branches that end norm, ReLU, He convolution have
    ``slope = CENTRED``, because the mean of a ReLU is no variance; those that end ReLU, norm,
    LeCun convolution have slope 1.

    Args:
      units: residual units with identity shortcuts.
      variance: at the first unit's input.
      order: of a branch's last layers.

    Returns:
      ``units + 1`` variances, in the limit of wide layers and large batches.

    Raises:
      ValueError: a negative number of units, a variance below 0, an unknown order.

    Example:
      >>> from convjax.gradflow import oracles
      >>> oracles.batch_norm_residual_variance(3).round(2).tolist()
      [1.0, 1.68, 2.36, 3.05]

    Reference: De and Smith 2020; Brock et al. 2021, for 0.68 against 1.
    """
    slopes = {"norm-relu-conv": CENTRED, "relu-norm-conv": 1.0}
    _check.choice("order", order, slopes)
    return number("variance", variance) + slopes[order] * np.arange(count("units", units, 0) + 1)


def batch_norm_residual_gain(units: Count, convs: Count, variance: Number = 1.0) -> np.ndarray:
    """Return the gain of every unit of a pre-activation residual network with batch norm.

    Formula: ``1 + CENTRED^-(convs - 1) / (variance + CENTRED * l)`` for l = 0, 1, …: a branch's
    first norm divides by the trunk's variance, each later one by the variance of what a He
    convolution makes of a ReLU. Of the product the exponent is ``batch_norm_residual_exponent``.

    Args:
      units: residual units with identity shortcuts, of norm, ReLU, He convolution.
      convs: convolutions in a branch.
      variance: at the first unit's input, over the batch.

    Returns:
      One gain for each unit, input side first. Less 1 they are the gains of the branches alone, as
      ``path_energy`` takes them.

    Raises:
      ValueError: a negative number of units, convs below 1, a variance that is not positive.

    Example:
      >>> from convjax.gradflow import oracles
      >>> oracles.batch_norm_residual_gain(3, convs=2).round(3).tolist()
      [2.467, 1.872, 1.621]

    Reference: derived here; De and Smith 2020 for the variance that divides.
    """
    v = batch_norm_residual_variance(units, number("variance", variance, above=True))[:-1]
    return 1 + CENTRED ** -(count("convs", convs, 1) - 1) / v


def batch_norm_residual_exponent(convs: Count) -> float:
    """Return p in ``|g_0|^2 / |g_L|^2 ~ L^p`` for residual networks with batch norm.

    Formula: ``CENTRED^-convs``, from the sum of ``CENTRED^-(convs - 1) / (CENTRED * l)``.

    Args:
      convs: convolutions in a branch.

    Returns:
      The exponent of squared norms in the number L of units.

    Raises:
      ValueError: convs below 1.

    Example:
      >>> from convjax.gradflow import oracles
      >>> [round(oracles.batch_norm_residual_exponent(m), 3) for m in (1, 2)]
      [1.467, 2.152]

    Reference: derived here; that depth enters by a power is in Yang and Schoenholz 2017 and, after
    memory, in Labatie 2019.
    """
    return CENTRED ** -count("convs", convs, 1)


def scaled_shortcut_gain(scale: Number, convs: Count = 2) -> float:
    """Return the gain of a unit whose shortcut is scaled, with batch norm in the branch.

    Formula: ``scale^2 + (1 - scale^2) / CENTRED^convs``: where the variance has come to rest, the
    branch makes up for what the shortcut loses, whatever the branch's own scale.

    Args:
      scale: factor on the shortcut, below 1 in size.
      convs: convolutions in a branch of norm, ReLU, He convolution.

    Returns:
      Squared norm of the gradient one unit back over that of the unit, some units away from the
      input. It is greatest without any shortcut, at scale 0.

    Raises:
      ValueError: a scale of 1 or more in size, at which the variance does not come to rest (use
        ``batch_norm_residual_gain``); convs below 1.

    Example:
      >>> from convjax.gradflow import oracles
      >>> round(oracles.scaled_shortcut_gain(0.5), 3), round(oracles.scaled_shortcut_gain(0.0), 3)
      (1.864, 2.152)

    Reference: derived here. He et al., Identity Mappings in Deep Residual Networks, 2016, follow
    the product of the scales alone.
    """
    scale = number("scale", scale, least=-math.inf)
    if not -1 < scale < 1:
        raise ValueError(
            f"scale={scale} must be below 1 in size: at 1 the variance grows unit by unit, "
            "see batch_norm_residual_gain"
        )
    kept = scale**2
    return kept + (1 - kept) * batch_norm_residual_exponent(convs)
