"""Many steps as few bins."""

from typing import NamedTuple

import numpy as np


class Bins(NamedTuple):
    """Edges of the bins, and of each bin and column the median, the least and the largest."""

    edges: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


def medians(steps: np.ndarray, values: np.ndarray, most: int) -> Bins:
    """Return medians over neighbouring steps, in at most ``most`` bins of equal width.

    Bins without a step are left out; edges lie halfway between the steps on both sides.

    Args:
      steps: increasing.
      values: ``(steps, columns)``; NaN is missing, and a bin with ∞ in it is ∞ (−∞ is a number like
        others).
      most: how many bins at most.
    """
    bins = np.arange(len(steps))
    if len(steps) > most:
        bins = np.floor((steps - steps[0]) * (most / (steps[-1] - steps[0] + 1))).astype(int)
    begins = np.flatnonzero(np.diff(bins, prepend=bins[0] - 1))
    ends = np.append(begins[1:], len(steps))
    if len(begins) == len(steps):
        middle = low = high = values
    else:
        found = [_median(values[a:b]) for a, b in zip(begins, ends, strict=True)]
        middle, low, high = (np.stack(rows) for rows in zip(*found, strict=True))
    between = (steps[ends[:-1] - 1] + steps[begins[1:]]) / 2
    first = steps[0] - (between[0] - steps[ends[0] - 1] if len(between) else 0.5)
    last = steps[-1] + (steps[begins[-1]] - between[-1] if len(between) else 0.5)
    return Bins(np.concatenate([[first], between, [last]]), middle, low, high)


def _median(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return median, least and largest of each column, NaN left out; ∞ outweighs the rest."""
    ordered = np.sort(values, axis=0)  # NaN comes last
    count = (~np.isnan(ordered)).sum(axis=0)
    column = np.arange(values.shape[1])
    below, above, high = (
        ordered[np.maximum(place, 0), column] for place in ((count - 1) // 2, count // 2, count - 1)
    )
    with np.errstate(invalid="ignore"):
        middle = (below + above) / 2
    return np.where(high == np.inf, np.inf, middle), ordered[0], high
