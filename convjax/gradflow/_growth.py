"""growth: does a gradient profile follow an exponential or a power law of depth?"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from convjax.gradflow._check import numbers

FLAT = 0.05


@dataclasses.dataclass(frozen=True)
class Growth:
    """Two straight-line fits to the logarithm of the gradient's norm.

    Attributes:
      rate: fall of ln norm per unit, forward: the gradient grows by ``exp(rate)`` for each unit
        that it travels back. Slope of the exponential fit.
      power: fall of ln norm per unit of ln(position + 1). Slope of the power-law fit.
      exponential_r2: share of the variance that the exponential explains.
      power_r2: share of the variance that the power law explains.
      law: ``"exponential"`` or ``"power law"``, whichever explains more; ``"flat"`` where ln norm
        scatters by less than 0.05 around its mean, so that neither says anything.
    """

    rate: float
    power: float
    exponential_r2: float
    power_r2: float
    law: str


def growth(log_norms: ArrayLike) -> Growth:
    """Fit an exponential and a power law to gradient norms along a trunk.

    Formulas: ``ln |g_l| = a - rate * l`` and ``ln |g_l| = a - power * ln(l + 1)`` for the positions
    l = 0 (input side), 1, …, by least squares, two parameters each.

    Args:
      log_norms: natural logarithms of the norms, input side first, one dimension, at least three.

    Returns:
      The two fits, and which is better.

    Raises:
      ValueError: fewer than three values, another number of dimensions, or values not finite.

    Example:
      >>> import numpy as np
      >>> from convjax import gradflow
      >>> fit = gradflow.growth(-0.19 * np.arange(50))
      >>> round(fit.rate, 3), fit.law
      (0.19, 'exponential')
      >>> gradflow.growth(-1.47 / 2 * np.log(np.arange(50) + 1)).law
      'power law'
    """
    y = numbers("log_norms", log_norms)
    if y.ndim != 1 or len(y) < 3:
        raise ValueError(f"log_norms has shape {y.shape}; growth needs one axis of at least three")
    if not np.isfinite(y).all():
        place = int(np.argmin(np.isfinite(y)))
        raise ValueError(f"log_norms[{place}]={y[place]} is not finite")
    position = np.arange(len(y), dtype=np.float64)
    rate, exponential_r2 = _line(position, y)
    power, power_r2 = _line(np.log1p(position), y)
    law = "exponential" if exponential_r2 >= power_r2 else "power law"
    return Growth(-rate, -power, exponential_r2, power_r2, "flat" if y.std() < FLAT else law)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return slope and explained share of variance of the least-squares line."""
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    total = float(y @ y)
    return slope, 1.0 - float(np.sum((y - slope * x) ** 2)) / total if total > 0 else 1.0
