"""Source: where the batches of a run come from."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np


@runtime_checkable
class Source(Protocol):
    """Where the batches of a run come from; ``data.resident`` and ``data.stream`` make one.

    Everything is a function of seed and step alone, so that a run which is taken up again at any
    step, on any number of devices, sees what it would have seen.

    Attributes:
      count: examples in the data.
      batch_size: examples in a batch, over all devices.
      arrays: pytree of arrays that stay on the device and are handed to every step.

    A source may say under ``classes`` how many there are, or their names; a network of fewer
    outputs is then refused before anything is compiled.

    A source may have a mapping ``about`` as well: seed, augmentation and what else tells it from
    another. A run is not resumed with a source that says something else, is of another type, or has
    other ``arrays``, of which a digest is noted.

    Example:
      >>> import numpy as np
      >>> from convjax import data, train
      >>> images, labels = data.gaussian(20, (4, 3, 1))
      >>> isinstance(data.resident(images, labels, batch_size=5), train.Source)
      True
    """

    @property
    def count(self) -> int:
        """Examples in the data."""
        ...

    @property
    def batch_size(self) -> int:
        """Examples in a batch, over all devices."""
        ...

    @property
    def arrays(self) -> Any:
        """What stays on the device."""
        ...

    def inputs(self, first: int, steps: int) -> Any:
        """Return what ``steps`` steps from ``first`` on need.

        Args:
          first: the first step.
          steps: how many.

        Returns:
          A pytree of NumPy arrays with leading axes ``(steps, batch_size)``.
        """
        ...

    def batch(self, arrays: Any, inputs: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return one step's images and labels; pure, and traced inside the compiled step.

        Args:
          arrays: the source's ``arrays``.
          inputs: one step's slice of ``inputs``, or one device's share of it.
          key: the step's PRNG key, the same on every device.

        Returns:
          Images ``(N, H, W, C)``, and labels, int32 ``(N,)`` or probabilities ``(N, classes)``.
        """
        ...


def classes_of(source: Source) -> int | None:
    """Return how many classes a source has, or None where it does not say."""
    classes = getattr(source, "classes", None)
    return len(classes) if isinstance(classes, Sequence) else classes


def padded(inputs: Any, steps: int) -> Any:
    """Return inputs with their first axis lengthened to ``steps``, by their last entry."""

    def pad(array: np.ndarray) -> np.ndarray:
        short = steps - len(array)
        return array if not short else np.concatenate([array, np.repeat(array[-1:], short, 0)])

    return jax.tree.map(pad, inputs)
