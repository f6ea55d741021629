"""Many networks' values as one series of a figure: their middle between whiskers, and theory."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from convjax import plots
from convjax.lab._means import Mean


def series(
    label: str,
    x: ArrayLike,
    values: np.ndarray | Mean | Sequence[Mean],
    expected: ArrayLike | None = None,
    *,
    errors: int | float | None = None,
    positive: bool = False,
    middle: Callable[..., Any] = np.mean,
    logs: bool = False,
    joined: bool = False,
) -> plots.Series:
    """Return what is drawn of many networks: the middle, with whiskers to the least and largest.

    Args:
      label: in the legend.
      x: places.
      values: a row for each network, a column for each place; or a ``Mean`` of that shape, or one
        for each place, which bring their expectation.
      expected: what theory says at each place.
      errors: whiskers reach so many standard errors to both sides, not to the least and largest.
      positive: whether the axis is logarithmic, where a whisker cannot reach below 0.
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
    if isinstance(values, Sequence):
        expected = [one.expected for one in values]
        values = np.stack([one.values for one in values], 1)
    elif isinstance(values, Mean):
        expected, values = values.expected, values.values
    if expected is not None:
        expected = np.broadcast_to(np.asarray(expected, float), np.shape(x))
    y, low, high = (of(values, axis=0) for of in (middle, np.min, np.max))
    if errors is not None:
        reach = errors * Mean(None, values, None).error
        low, high = y - reach, y + reach
    if positive:
        low = np.maximum(low, 0.1 * y)
    drawn = np.exp if logs else np.asarray
    theory = None if expected is None else drawn(expected)
    return plots.Series(label, x, drawn(y), drawn(low), drawn(high), theory, joined=joined)
