"""How the gradient's energy is shared among paths of each length."""

import numpy as np
from numpy.typing import ArrayLike

from convjax.gradflow.oracles._check import gains


def path_energy(branch_gains: ArrayLike) -> np.ndarray:
    """Return the share of the gradient's energy that came along paths of each length.

    Formula: ``e_k`` in proportion to the coefficient of ``t^k`` in ``prod(1 + a_l t)``: paths are
    uncorrelated, so their energies add. With equal gains a it is Binomial(L, a / (1 + a)).

    Args:
      branch_gains: a_l, the gain of every branch by itself, beside an identity shortcut of gain 1.

    Returns:
      Shares for k = 0 (the shortcuts alone) to L branches passed through; they sum to 1.

    Raises:
      ValueError: more than one axis, a gain below 0 or not finite.

    Example:
      >>> from convjax.gradflow import oracles
      >>> oracles.path_energy([1.0, 1.0, 1.0]).tolist()
      [0.125, 0.375, 0.375, 0.125]

    Reference: Veit et al., Residual Networks Behave Like Ensembles of Relatively Shallow Networks,
    2016, for the paths; their energy is derived here.
    """
    shares = np.ones(1)
    for gain in gains("branch_gains", branch_gains):
        shares = np.convolve(shares, np.array([1.0, gain]) / (1 + gain))
    return shares


def sampled_paths(branch_gains: ArrayLike) -> np.ndarray:
    """Return what Veit et al. measured by sampling paths: how many, times the gradient's norm.

    Formula: shares in proportion to the coefficient of ``t^k`` in ``prod(1 + sqrt(a_l) t)``: all
    paths of length k, each with its norm. Norms do not add: this overrates long paths against
    ``path_energy``. With all gains 1 it is the number of paths, Binomial(L, 1/2).

    Args:
      branch_gains: a_l, the gain (of squared norms) of every branch by itself, as in
        ``path_energy``.

    Returns:
      Shares for k = 0 to L branches passed through; they sum to 1.

    Raises:
      ValueError: more than one axis, a gain below 0 or not finite.

    Example:
      >>> import numpy as np
      >>> from convjax.gradflow import oracles
      >>> paths = oracles.sampled_paths(np.ones(54))
      >>> round(float(paths[5:18].sum()), 4)
      0.0045

    Reference: Veit et al. 2016: nearly all of the gradient from paths of 5 to 17 of 54 modules,
    0.45 % of all paths.
    """
    return path_energy(np.sqrt(gains("branch_gains", branch_gains)))
