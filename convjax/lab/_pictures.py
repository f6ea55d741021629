"""Pictures of a folder, prepared as a network's published weights want them."""

import os

from convjax import data, models


def pictures(
    folder: str | os.PathLike,
    network: str,
    *,
    reference: str = "torch",
    size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> data.ImageFolder:
    """Return the pictures of a folder, by ``models.preprocessing`` but for another size.

    Args:
      folder: of pictures, or of class folders.
      network: a name that ``models.list()`` knows.
      reference: whose weights: "torch" or "keras".
      size: height and width; None takes the network's own.
      limit: how many pictures at most, chosen at random.
      seed: of that choice.

    Raises:
      ValueError: no picture that can be read, or a network of which nothing is known.

    Example:
      >>> import tempfile
      >>> from convjax import lab
      >>> try:
      ...     lab.pictures(tempfile.mkdtemp(), "resnet50")
      ... except ValueError as error:
      ...     print("refused")
      refused
    """
    how = models.preprocessing(network, reference=reference)
    options = {**how, "size": how.size if size is None else size}
    return data.image_folder(folder, **options, limit=limit, seed=seed)
