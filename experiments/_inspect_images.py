"""Pictures of a folder, prepared as a network's published weights want them."""

from pathlib import Path

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
    options = {**how, "size": how.size if size is None else size}
    return data.image_folder(folder, **options, limit=limit, seed=seed)
