"""Pictures of a folder, prepared as a network's published weights want them."""

import dataclasses
from pathlib import Path

import numpy as np

from convjax import data, models


def pictures(
    folder: Path,
    network: str,
    *,
    reference: str = "torch",
    size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> data.ImageFolder:
    """Return the pictures of a folder, by ``models.preprocessing`` but for another size.

    Raises:
      ValueError: no picture to be read, or a network of which nothing is known.
    """
    how = models.preprocessing(network, reference=reference)
    found = data.image_folder(
        folder,
        size=how.size if size is None else size,
        crop=how.crop,
        interpolation=how.interpolation,
        mean=how.mean,
        std=how.std,
        limit=limit,
        seed=seed,
    )
    if how.order == "RGB":
        return found
    return dataclasses.replace(found, images=np.ascontiguousarray(found.images[..., ::-1]))
