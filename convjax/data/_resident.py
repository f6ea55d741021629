"""resident: a small set that lives on the device, cut into batches inside the compiled step."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax._check import instance, integer, shown
from convjax.data._augment import Augment, checked_augment
from convjax.data._batches import LARGEST, check_order, indices_of_steps
from convjax.data._given import check_divisor, checked_images, reals
from convjax.data._labels import checked_labels

Moments = Sequence[int | float] | np.ndarray | int | float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Resident:
    """A small set that lives on the device; ``resident`` makes one.

    Attributes:
      count: examples in the data.
      batch_size: examples in a batch, over all devices.
      classes: how many there are.
      seed: of the order of the examples.
      augment: what changes the images at random.
      arrays: what stays on the device: images, labels, and what standardises the images.
    """

    count: int
    batch_size: int
    classes: int
    seed: int
    augment: Augment
    arrays: dict[str, Any]

    def __post_init__(self):
        count = integer("count", self.count, 1, LARGEST)
        size, seed = check_order(count, self.batch_size, self.seed)
        arrays = instance("arrays", self.arrays, Mapping, "a mapping from names to arrays")
        for name in ("images", "labels"):
            if len(arrays.get(name, ())) != count:
                raise ValueError(f"arrays={sorted(arrays)} must hold {count} {name}, as count says")
        checked = {"count": count, "batch_size": size, "seed": seed}
        checked |= {"classes": integer("classes", self.classes, 1, LARGEST)}
        checked |= {"augment": checked_augment(self.augment)}
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def about(self) -> dict[str, Any]:
        """What a run that is resumed must find again, beside ``arrays``."""
        augment = dataclasses.asdict(self.augment)
        return {"seed": self.seed, "classes": self.classes, "augment": augment}

    def inputs(self, first: int, steps: int) -> dict[str, np.ndarray]:
        """Return which examples form the batches of ``steps`` steps from ``first`` on.

        Args:
          first: the first step.
          steps: how many.

        Returns:
          ``index`` and ``place``, and with mixup the ``partner``, each int32
          ``(steps, batch_size)``.
        """
        index = indices_of_steps(
            self.count, self.batch_size, seed=self.seed, first=first, steps=steps
        )
        found = {"index": index, "place": places(steps, self.batch_size)}
        if self.augment.mixup:
            found["partner"] = index[:, ::-1]
        return found

    def batch(self, arrays: Any, inputs: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return one step's images and labels; pure, to be traced inside the compiled step.

        Args:
          arrays: the attribute of that name.
          inputs: one step's slice of ``inputs``, or a share of it.
          key: of the step.

        Returns:
          Images, float32, and labels, int32 ``(N,)``; with mixup probabilities ``(N, classes)``.
        """
        place = inputs["place"]

        def taken(index, place):
            images = arrays["images"].at[index].get(mode="promise_in_bounds")
            images = self.augment(standardised(images, arrays), key, place)
            return images, arrays["labels"].at[index].get(mode="promise_in_bounds")

        own = taken(inputs["index"], place)
        if not self.augment.mixup:
            return own
        # Made anew even where the whole batch is at hand: on CPU, a reversed copy of it takes XLA
        # four times as long.
        other = taken(inputs["partner"], self.batch_size - 1 - place)
        own, other = (
            (images, jax.nn.one_hot(labels, self.classes, dtype=jnp.float32))
            for images, labels in (own, other)
        )
        return self.augment.mix(own, other, key, place)

    def once(self) -> Iterator[tuple[jax.Array, jax.Array]]:
        """Yield every example once, in the order given: ``train.fit``'s ``test=``.

        They are standardised and not augmented; the last batch holds what is left.

        Yields:
          Images, float32, and labels, int32.
        """
        for begin in range(0, self.count, self.batch_size):
            part = slice(begin, begin + self.batch_size)
            images = standardised(self.arrays["images"][part], self.arrays)
            yield images, self.arrays["labels"][part]


def resident(
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    *,
    batch_size: int,
    seed: int = 0,
    augment: Augment | None = None,
    mean: Moments = None,
    std: Moments = None,
    classes: int | None = None,
) -> Resident:
    """Return a source of batches whose images live on the device.

    Bytes stay bytes there, a quarter of what float32 takes, and are standardised within the step,
    before they are augmented. The order is that of ``batch_indices``.

    Args:
      images: ``(N, H, W, C)``, uint8 or floating point, which becomes float32.
      labels: whole numbers ``(N,)``.
      batch_size: examples in a batch, over all devices.
      seed: of the order.
      augment: what changes the images at random; None changes nothing.
      mean: is subtracted: of every channel, or of every pixel ``(H, W, C)``. For uint8 in units of
        brightness, [0, 1], and never left out; ``moments`` of the training images finds it.
      std: what is divided by, likewise.
      classes: how many there are; None counts up to the largest label.

    Returns:
      The ``Resident``, for ``train.fit``.

    Raises:
      ValueError: images, labels, mean or std of the wrong shape, dtype or range, or a batch bigger
        than the data.

    Example:
      >>> import jax
      >>> from convjax import data
      >>> images, labels = data.digits("train")
      >>> source = data.resident(images, labels, batch_size=32, augment=data.Augment(crop=1))
      >>> inputs = source.inputs(first=5, steps=2)
      >>> step = {name: array[0] for name, array in inputs.items()}
      >>> x, y = jax.jit(source.batch)(source.arrays, step, jax.random.key(5))
      >>> x.shape, y.tolist() == labels[data.batch_indices(1437, 32, seed=0, step=5)].tolist()
      ((32, 8, 8, 1), True)
    """
    images = checked_images("images", images)
    batch_size, seed = check_order(len(images), batch_size, seed)
    classes = None if classes is None else integer("classes", classes, 1, LARGEST)
    labels = checked_labels("labels", labels, len(images), classes)
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
    arrays = {"images": jnp.asarray(images), "labels": jnp.asarray(labels)}
    arrays |= standard(images.dtype, images.shape[1:], mean, std)
    return Resident(
        count=len(images),
        batch_size=batch_size,
        classes=int(labels.max()) + 1 if classes is None else classes,
        seed=seed,
        augment=checked_augment(augment),
        arrays=arrays,
    )


def places(steps: int, batch_size: int) -> np.ndarray:
    """Return the places 0, 1, … of a batch, for every step."""
    return np.tile(np.arange(batch_size, dtype=np.int32), (steps, 1))


def standard(dtype: Any, shape: tuple[int, ...], mean: Moments, std: Moments) -> dict[str, Any]:
    """Return what ``standardised`` subtracts and multiplies by; nothing where there is neither."""
    if mean is None and std is None and dtype == np.float32:
        return {}
    if mean is None or std is None:
        raise ValueError(
            f"mean={shown(mean)} and std={shown(std)} must both be given for {dtype} images, or "
            "both left out for float32 ones; data.moments(images) finds them"
        )
    given = std
    mean, std = _spread("mean", mean, shape), _spread("std", std, shape)
    check_divisor("std", given)
    unit = 1.0
    if dtype == np.uint8:
        unit = 255.0
        if mean.min() < 0 or mean.max() > 1:
            raise ValueError(f"mean={mean.ravel().tolist()!r} of uint8 images must lie in [0, 1]")
    return {
        "mean": jnp.asarray(mean * unit, jnp.float32),
        "scale": jnp.asarray(1 / (std * unit), jnp.float32),
    }


def _spread(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    found = reals(name, values)
    if found.shape not in ((), shape[-1:], shape):
        raise ValueError(
            f"{name} of the shape {found.shape} must be for {shape[-1]} channels or for pixels of "
            f"the shape {shape}"
        )
    return found.reshape((1,) * (4 - found.ndim) + found.shape)


def standardised(images: jax.Array, arrays: Any) -> jax.Array:
    """Return images as float32, with mean and scale taken out where there are some."""
    images = images.astype(jnp.float32)
    return images if "mean" not in arrays else (images - arrays["mean"]) * arrays["scale"]
