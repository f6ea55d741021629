"""Augment: random cuts, flips, holes and mixtures of images, inside the compiled step."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from convjax._check import array, flag, instance, integer, number, shown, wrong_type
from convjax._check import key as check_key

LARGEST = 2**20  # pixels
SMALLEST = 1e-6  # of mixup: where Beta's samples are no numbers in float32, and far above


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes of training images, each a function of the step's key and the example's place.

    In this order: the image is cut out of itself padded by ``crop`` pixels of zero, flipped, and a
    square of it is set to zero. Zero is zero of the images given, so that of standardised images it
    is the mean. Switching one of them on or off does not change the random numbers of the others,
    and a share of a batch comes out as it does within the whole.

    Args:
      crop: pixels of padding on every side; the cut has the size of the image, and each of its
        ``(2 crop + 1)²`` positions the same chance.
      flip: whether every image is mirrored, left to right, with probability one half.
      cutout: side of a square that is set to zero, in pixels. Its centre is any pixel with the same
        chance, so part of the square may lie outside. With an even side the centre is the pixel to
        the lower right of the middle.
      mixup: of the image at place p and the one at the mirrored place of the batch, the convex
        combination with the weights λ and 1 − λ, λ ~ Beta(``mixup``, ``mixup``), one for every p;
        of their labels likewise. 0 mixes nothing. Sources of batches apply it; a call does not.

    Raises:
      ValueError: a number that is negative, infinite or NaN, pixels that are no integer; in the
        call, images not of four axes, or a key or places that are none.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from convjax import data
      >>> images = jnp.arange(1.0, 13.0).reshape(2, 2, 3, 1)
      >>> augment = data.Augment(flip=True)
      >>> augment(images, jax.random.key(0), jnp.arange(2))[:, 0, :, 0].tolist()
      [[1.0, 2.0, 3.0], [9.0, 8.0, 7.0]]

    Reference: He et al., arXiv:1512.03385 (4 pixels and flips); DeVries and Taylor,
    arXiv:1708.04552 (cutout); Zhang et al., arXiv:1710.09412 (mixup).
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0
    mixup: int | float = 0.0

    def __post_init__(self):
        checked = {
            "crop": integer("crop", self.crop, 0, LARGEST),
            "flip": flag("flip", self.flip),
            "cutout": integer("cutout", self.cutout, 0, LARGEST),
            "mixup": number("mixup", self.mixup, least=0, most=1 / SMALLEST),
        }
        if 0 < checked["mixup"] < SMALLEST:
            raise ValueError(f"mixup={self.mixup} must be 0, or at least {SMALLEST}")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __call__(self, images: jax.Array, key: jax.Array, places: jax.Array) -> jax.Array:
        """Return the images cut, flipped and with holes, but not mixed.

        Args:
          images: ``(N, H, W, C)``.
          key: of the step.
          places: int ``(N,)``, the place of each image in the whole batch.

        Returns:
          Images of the same shape and dtype.
        """
        images = _real("images", images, ndim=4)
        places = checked_places(places, len(images))
        key = check_key("key", key)
        if not (self.crop or self.flip or self.cutout):
            return images
        # Five numbers of every place: two of the position, one of the flip, two of the hole. They
        # are made together, because making them takes longer to compile than cutting.
        draw = jax.vmap(lambda key: jax.random.bits(key, (5,), jnp.uint32))
        bits = draw(_keys(key, places)[:, 0])
        if self.crop or self.flip:
            down, right = (_below(bits[:, i], 2 * self.crop + 1) - self.crop for i in (0, 1))
            flips = (_below(bits[:, 2], 2) == 1) & self.flip
            images = _cropped(images, down, right, flips)
        if self.cutout:
            rows, columns = (_holes(bits[:, 2 + i], images.shape[i], self.cutout) for i in (1, 2))
            hole = rows[:, :, None, None] & columns[:, None, :, None]
            images = jnp.where(hole, 0, images)
        return images

    def mix(
        self,
        own: tuple[jax.Array, jax.Array],
        other: tuple[jax.Array, jax.Array],
        key: jax.Array,
        places: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Return convex combinations of images, and of the probabilities of their labels.

        Args:
          own: images ``(N, H, W, C)`` and probabilities ``(N, classes)``.
          other: those of the mirrored places.
          key: of the step.
          places: as in the call.

        Returns:
          Images and probabilities.

        Raises:
          ValueError: what are no pairs of arrays of one shape, key or places that are none, or
            ``mixup`` is 0, of which there is nothing to mix.
        """
        own, other = _pair("own", own), _pair("other", other)
        for one, mirrored in zip(own, other, strict=True):
            if one.shape != mirrored.shape or one.dtype != mirrored.dtype:
                raise ValueError(
                    f"other={shown(mirrored)} must have the shape and dtype of own={shown(one)}"
                )
        key, places = check_key("key", key), checked_places(places, len(own[0]))
        number("mixup", self.mixup, above=0)
        share = jax.vmap(lambda k: jax.random.beta(k, self.mixup, self.mixup, dtype=jnp.float32))(
            _keys(key, places)[:, 1]
        )

        def mixed(a, b):
            weight = share.reshape(-1, *[1] * (a.ndim - 1)).astype(a.dtype)
            return weight * a + (1 - weight) * b

        return mixed(own[0], other[0]), mixed(own[1], other[1])


def checked_augment(augment: Any) -> Augment:
    """Return what changes images; None changes nothing."""
    if augment is None:
        return Augment()
    return instance("augment", augment, Augment, "a data.Augment, or None")


def _real(name: str, value: Any, *, ndim: int) -> jax.Array:
    found = array(name, value, ndim=ndim)
    if jnp.issubdtype(found.dtype, jnp.complexfloating):
        raise ValueError(f"{name}={shown(found)} must be real numbers")
    return found


def _pair(name: str, value: Any) -> tuple[jax.Array, jax.Array]:
    """Return images and probabilities of one batch."""
    if not isinstance(value, Sequence) or len(value) != 2:
        wrong_type(name, value, "images and probabilities of their labels")
    images = _real(f"{name}[0]", value[0], ndim=4)
    shares = array(f"{name}[1]", value[1], ndim=2)
    if len(shares) != len(images) or not jnp.issubdtype(shares.dtype, jnp.floating):
        raise ValueError(
            f"{name}[1]={shown(shares)} must be probabilities of classes, of {len(images)} images"
        )
    return images, shares


def checked_places(places: Any, count: int) -> jax.Array:
    """Return the places of some images in the whole batch."""
    places = array("places", places, ndim=1)
    if len(places) != count or not jnp.issubdtype(places.dtype, jnp.integer):
        raise ValueError(
            f"places are {places.dtype} of the shape {places.shape}; {count} images need integers "
            f"of the shape ({count},)"
        )
    return places


def _keys(key: jax.Array, places: jax.Array) -> jax.Array:
    """Return two keys for every place: of what the call changes, and of the mixture."""
    return jax.vmap(lambda place: jax.random.split(jax.random.fold_in(key, place), 2))(places)


def _below(bits: jax.Array, size: int) -> jax.Array:
    """Return numbers 0 to size − 1, uniform but for one part in 2³² / size."""
    return (bits % jnp.uint32(size)).astype(jnp.int32)


def _cropped(images: jax.Array, down: jax.Array, right: jax.Array, flips: jax.Array) -> jax.Array:
    count, height, width, _ = images.shape
    rows = jnp.arange(height)[None] + down[:, None]
    columns = jnp.arange(width)[None]
    columns = jnp.where(flips[:, None], width - 1 - columns, columns) + right[:, None]
    inside = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
    # One gather of pixels is twice as fast on CPU as a dynamic_slice for every image.
    found = images.at[
        jnp.arange(count)[:, None, None],
        jnp.clip(rows, 0, height - 1)[:, :, None],
        jnp.clip(columns, 0, width - 1)[:, None, :],
    ].get(mode="promise_in_bounds")
    return jnp.where(inside[..., None], found, 0)


def _within(indices: jax.Array, size: int) -> jax.Array:
    return (indices >= 0) & (indices < size)


def _holes(bits: jax.Array, size: int, side: int) -> jax.Array:
    """Return which rows or columns the square covers, ``(N, size)``."""
    first = _below(bits, size)[:, None] - side // 2
    place = jnp.arange(size)[None]
    return (place >= first) & (place < first + side)
