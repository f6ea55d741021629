"""Many networks' values as one series of a figure: their middle, the least and the largest."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from convjax import plots


def series(
    label: str,
    x: ArrayLike,
    values: np.ndarray,
    expected: ArrayLike | None = None,
    *,
    middle: Callable[..., Any] = np.mean,
    logs: bool = False,
    joined: bool = False,
) -> plots.Series:
    """Return what is drawn of many networks: the middle, with whiskers to the least and largest.

    Args:
      label: in the legend.
      x: places.
      values: a row for each network, a column for each place.
      expected: what theory says at each place.
      middle: ``np.mean`` or ``np.median``, over networks.
      logs: whether values and expectation are natural logarithms of what is drawn; the mean is the
        geometric one then.
      joined: whether a line joins the points.

    Example:
      >>> import numpy as np
      >>> from convjax import lab
      >>> one = lab.series("He", [1, 2], np.array([[0.9, 0.8], [1.1, 1.0]]))
      >>> one.y, one.low
      (array([1. , 0.9]), array([0.9, 0.8]))
    """
    drawn = np.exp if logs else np.asarray
    y, low, high = (drawn(of(values, axis=0)) for of in (middle, np.min, np.max))
    theory = None if expected is None else drawn(expected)
    return plots.Series(label, x, y, low, high, theory, joined=joined)
