"""What the borders of an image and pooling take from the gradient."""

import math
from collections.abc import Sequence

import numpy as np
import scipy

from convjax import _check
from convjax.gradflow.oracles._check import Count, count, counts

Sizes = Count | Sequence[int]


def padding_gain(size: Sizes, layers: Count, kernel_size: Count = 3, rank: Count = 2) -> float:
    """Return the share of the gradient's energy that zero padding leaves after a number of layers.

    Formula: along each axis of length H the mean over its places of ``T^layers 1``, where
    ``T_ij = 1 / kernel_size`` if place j lies in the window around i, else 0; the product over the
    axes. The first layer of a 3x3 window leaves ``((3H - 2) / 3H)^2``: at the border part of the
    window sees zeros, and what would have gone back there is lost.

    Args:
      size: places along every axis, or a sequence with those of each.
      layers: convolutions with SAME zero padding, of He's initialisation with ReLU (or LeCun's,
        linear), stride 1, between the two gradients.
      kernel_size: window along every axis, odd.
      rank: number of spatial axes; a sequence of sizes has its own.

    Returns:
      Squared norm of the gradient that many layers back, over that of a cotangent with the same
      energy at every place; the mean over networks.

    Raises:
      ValueError: a size or a window below 1, an even window, a negative number of layers.

    Example:
      >>> from convjax.gradflow import oracles
      >>> round(oracles.padding_gain(8, 1), 3), round(oracles.padding_gain(8, 50), 4)
      (0.84, 0.0132)
      >>> round(oracles.padding_gain((8, 6), 1), 4)
      0.8148

    Reference: derived here.
    """
    layers = count("layers", layers, 0)
    share = 1.0
    for length in _lengths(size, rank):
        energy = np.ones(length)
        window = _window(length, kernel_size)
        for _ in range(layers):
            energy = window @ energy
        share *= float(energy.mean())
    return share


def padding_limit(size: Sizes, kernel_size: Count = 3, rank: Count = 2) -> float:
    """Return the factor per layer to which zero padding's loss of energy settles.

    Formula: the largest eigenvalue of the matrix T of ``padding_gain``, multiplied over the axes;
    for a window of 3 it is ``(1 + 2 cos(pi / (H + 1))) / 3`` along each.

    Args:
      size: places along every axis, or a sequence with those of each.
      kernel_size: window along every axis, odd.
      rank: number of spatial axes; a sequence of sizes has its own.

    Returns:
      ``padding_gain`` of one layer more over that of many layers.

    Raises:
      ValueError: a size or a window below 1, an even window.

    Example:
      >>> from convjax.gradflow import oracles
      >>> round(oracles.padding_limit(8), 3), round(oracles.padding_limit(32), 4)
      (0.921, 0.994)

    Reference: derived here; the eigenvalue is that of a path graph.
    """
    lengths = _lengths(size, rank)
    return math.prod(float(scipy.linalg.eigvalsh(_window(n, kernel_size))[-1]) for n in lengths)


def separable_gain(size: Sizes, layers: Count, kernel_size: Count = 3, rank: Count = 2) -> float:
    """Return the gain of depthwise-separable layers with SAME zero padding.

    Formula: that of ``padding_gain``. A depthwise weight of variance 1 / (window's places), a
    pointwise one of variance 2 / channels and one ReLU have gain 1; the borders take the rest.

    Args:
      size: places along every axis, or a sequence with those of each.
      layers: pairs of a depthwise and a pointwise convolution, with one ReLU for each pair.
      kernel_size: window of the depthwise part along every axis, odd.
      rank: number of spatial axes; a sequence of sizes has its own.

    Returns:
      Squared norm of the gradient that many pairs back, over that of a cotangent with the same
      energy at every place; the mean over networks.

    Raises:
      ValueError: a size or a window below 1, an even window, a negative number of layers.

    Example:
      >>> from convjax.gradflow import oracles
      >>> round(oracles.separable_gain(8, 12), 3)
      0.299

    Reference: derived here.
    """
    return padding_gain(size, layers, kernel_size, rank)


def pooling_gain(kind: str, window_shape: Sequence[int]) -> float:
    """Return the gain of pooling over windows that do not overlap.

    Formulas: mean ``1 / (window's places)``: each gets that share of the gradient; largest value 1:
    one place gets all of it.

    Args:
      kind: ``"avg"`` or ``"max"``.
      window_shape: window, one integer per spatial axis; for global pooling the image's.

    Returns:
      Squared norm of the gradient before the pool over that after it; exact.

    Raises:
      ValueError: an unknown kind, a window below 1.

    Example:
      >>> from convjax.gradflow import oracles
      >>> oracles.pooling_gain("avg", (2, 4)), oracles.pooling_gain("max", (2, 4))
      (0.125, 1.0)

    Reference: derived here.
    """
    _check.choice("kind", kind, ("avg", "max"))
    places = math.prod(_check.integers("window_shape", window_shape, least=1))
    return 1 / places if kind == "avg" else 1.0


def _lengths(size: Sizes, rank: Count) -> tuple[int, ...]:
    return counts("size", size, count("rank", rank, 1))


def _window(length: int, kernel_size: Count) -> np.ndarray:
    """Return how one axis spreads energy: a band of 1 / kernel_size, cut off at the borders."""
    width = count("kernel_size", kernel_size, 1)
    if width % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size} must be odd, so that SAME pads both sides")
    place = np.arange(length)
    return (np.abs(place[:, None] - place) <= width // 2) / width
