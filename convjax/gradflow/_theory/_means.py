"""What weighted means over windows make of the correlations of pairs of sites, class by class."""

from collections.abc import Sequence

import numpy as np

from convjax.gradflow._theory._state import CLASSES, Pairs

Matrices = Sequence[np.ndarray]


def averaged(values: np.ndarray, pairs: Pairs, left: Matrices, right: Matrices) -> np.ndarray:
    """Return the covariances of two linear maps of one field, whose axes are handled one by one.

    Args:
      values: ``(segments, 1 + nodes)``, covariance of a site with itself, then of every node.
      pairs: the classes of pairs.
      left: for each axis the map of the first of a pair, ``(out, in)``.
      right: that of the second.

    Returns:
      The same of the outputs, ``(segments, 1 + nodes)``.
    """
    weights, rest = _weights(left, right)
    self_, nodes = values[:, :1], values[:, 1:].reshape(len(values), CLASSES, -1)
    near, far, twin, other = np.moveaxis(nodes, 1, 0)
    means = (self_, near.mean(1, keepdims=True), far.mean(1, keepdims=True))
    out = [sum(w * v for w, v in zip(weights[0], means, strict=True))]
    out += [row[0] * self_ + row[1] * near + row[2] * far for row in weights[1:]]
    # Two examples are at the same places as one is with itself.
    out += [row[0] * twin + (row[1] + row[2]) * other for row in (weights[0], rest)]
    return np.concatenate(out, axis=1)


def _weights(left: Matrices, right: Matrices) -> tuple[np.ndarray, np.ndarray]:
    """Return how much of each class comes into each, and into all pairs of two places."""
    bands = np.array([_banded(one, two) for one, two in zip(left, right, strict=True)])
    sums, counts = bands[:, :, :3].prod(0), bands[:, :, 3].prod(0)
    # Of sites alike, at most one step apart, and any: each holds the one before.
    sums, counts = (np.diff(v, axis=0, prepend=0 * v[:1]) for v in (sums, counts))
    weights = np.diff(sums, axis=1, prepend=0) / np.maximum(counts, 1)[:, None]
    apart = np.diff(sums[1:].sum(0), prepend=0) / max(counts[1:].sum(), 1)
    return weights, apart if counts[1:].any() else weights[0]


def _banded(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return, for three bands of pairs of outputs, their sums over three bands of pairs of inputs.

    And how many pairs of outputs there are: ``(3, 4)``.
    """
    inner, outer = (np.abs(np.subtract.outer(np.arange(n), np.arange(n))) for n in left.shape[::-1])
    inputs = [inner == 0, inner <= 1, inner >= 0]
    outputs = [outer == 0, outer <= 1, outer >= 0]
    sums = [[(left @ b @ right.T)[o].sum() for b in inputs] + [o.sum()] for o in outputs]
    return np.array(sums, float)
