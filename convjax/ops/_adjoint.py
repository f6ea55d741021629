"""A convolution of an image whose elements are spread apart: the input gradient of another one.

So it is computed by the forms of that, and its derivatives are a convolution with stride and the
kernel gradient of it.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import lax

from convjax.ops import _bilinear
from convjax.ops._forms._lax import exchange
from convjax.ops._geometry import Geometry

Pads = Sequence[tuple[int, int]]


class Adjoint(NamedTuple):
    """How a convolution of a spread image is computed.

    Attributes:
        geometry: that of the convolution whose input gradient it is.
        beyond: zeros on either side, one pair per axis, where no element of the image reaches.
    """

    geometry: Geometry
    beyond: Pads

    def __call__(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolve x, shape (batch, *spatial, C), with the kernel, (*window, C / groups, D)."""
        flipped = lax.rev(kernel, range(self.geometry.rank))
        kernel = exchange(flipped, self.geometry.groups)
        return padded(_bilinear.input_gradient(x, kernel, self.geometry), self.beyond)


def adjoint(image: Sequence[int], geometry: Geometry) -> Adjoint | None:
    """Return how an image is spread by the strides, padded and convolved; None if it cannot be so.

    Args:
        image: spatial shape before it is spread.
        geometry: window, strides, dilation and the like; `pads` are added after that, or cut off
            where negative, `spatial` is the shape of the result, and `in_features` its channels.
    """
    reach = [extent - 1 for extent in geometry.extents]
    sides = [*zip(reach, geometry.strides, geometry.pads, strict=True)]
    beyond = [(max(low - r, 0), max(high - r - s + 1, 0)) for r, s, (low, high) in sides]
    spatial = [n - sum(zeros) for n, zeros in zip(geometry.spatial, beyond, strict=True)]
    inner = tuple((max(r - low, 0), max(r - high, 0)) for r, _, (low, high) in sides)
    geometry = dataclasses.replace(geometry, spatial=tuple(spatial), pads=inner)
    fits = min(spatial) >= 1 and geometry.out_spatial == tuple(image)
    return Adjoint(geometry, beyond) if fits else None


def padded(a: jax.Array, sides: Pads) -> jax.Array:
    """Add zeros on the sides of the spatial axes, or cut off where negative."""
    if not any(map(any, sides)):
        return a
    config = [(0, 0, 0), *((low, high, 0) for low, high in sides), (0, 0, 0)]
    return lax.pad(a, np.zeros((), a.dtype), config)
