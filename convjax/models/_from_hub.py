"""from_hub: a network with the weights that the Hugging Face hub holds under its name."""

import json
from collections.abc import Sequence
from typing import Any

from flax import nnx

from convjax._check import flag, instance, integer
from convjax.models._create import create, is_known, known
from convjax.models._network import Network
from convjax.models._weights._hub import fetch, fetch_weights, name_of
from convjax.models._weights._load import checked_globs


def from_hub(
    repo_id: str,
    *,
    revision: str | None = None,
    filename: str | None = None,
    allow: str | Sequence[str] = (),
    adapt_input: bool = False,
    use_ema: bool = True,
    rngs: nnx.Rngs,
    **options: Any,
) -> Network:
    """Return a network with published weights, fetched once into the hub's own cache.

    Needs the extra ``weights``. ``models.preprocessing`` takes the same name.

    Args:
      repo_id: such as ``"timm/resnet50.a1_in1k"``; what stands before the first dot is the
        network's name. Where the zoo has none of that name, as in ``"me/leaves"``, it is the
        ``architecture`` in the repository's config.json, which timm writes.
      revision: a branch, tag or commit of the repository; None means the newest.
      filename: the file of weights in it. None means ``model.safetensors`` where there is one, else
        ``pytorch_model.bin``, the index of a sharded checkpoint, or the one file of weights that
        there is.
      allow: as in ``models.load_weights``; ``"head/*"`` with ``num_classes`` gives a new head,
        also to weights that were published without one.
      adapt_input: as in ``models.load_weights``, for ``in_features`` other than the file's.
      use_ema: as in ``models.load_weights``.
      rngs: source of the values that are not loaded.
      **options: as in ``models.create``; without ``num_classes`` it and ``in_features`` are those
        of config.json; ``num_classes=0`` leaves the classifier out.

    Returns:
      The network.

    Raises:
      ImportError: the extra ``weights`` is not installed; and a ValueError.
      ValueError: a name that is not in the zoo; no network, no such repository or file, and then
        the message tells how to fetch the file by hand; weights that do not fit.

    Example:
      >>> from flax import nnx
      >>> from convjax import models
      >>> models.from_hub("timm/resnet5.a1_in1k", rngs=nnx.Rngs(0))  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      ValueError: name='resnet5' is not known; did you mean 'resnet50' ...
    """
    name = name_of(repo_id)
    own = not is_known(name) and not repo_id.rpartition(":")[2].startswith("timm/")
    if not own:
        name = known(name)
    allow = checked_globs(allow)
    if filename is not None:
        instance("filename", filename, str, "a file of the repository, or None")
    use_ema = flag("use_ema", use_ema)
    instance("rngs", rngs, nnx.Rngs, "nnx.Rngs, such as nnx.Rngs(0)")
    if own or "num_classes" not in options:
        found = _of_config(repo_id, timm_config(repo_id, revision), options)
        name = known(found.pop("architecture", name)) if own else name
        options = found | options
    weights = fetch_weights(repo_id, filename=filename, revision=revision)
    how = {"allow": allow, "adapt_input": adapt_input, "use_ema": use_ema}
    return create(name, weights=weights, rngs=rngs, **how, **options)


def _of_config(repo_id: str, config: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return what timm's config.json says of a network, but for what is given."""
    where, found = f"repo_id={repo_id!r}: its config.json's", {}
    if "architecture" in config:
        found["architecture"] = instance(
            f"{where} architecture", config["architecture"], str, "a network's name"
        )
    if "num_classes" not in given:
        classes = config.get("num_classes", 1000)
        found["num_classes"] = integer(f"{where} num_classes", classes, least=0)
    published = config.get("pretrained_cfg")
    size = published.get("input_size") if isinstance(published, dict) else None
    if "in_features" not in given and isinstance(size, list) and len(size) == 3 and size[0] != 3:
        found["in_features"] = integer(f"{where} input_size", size[0], least=1)
    return found


def timm_config(repo_id: str, revision: str | None = None) -> dict[str, Any]:
    """Return what timm wrote beside the weights of a repository."""
    file = fetch(repo_id, filename="config.json", revision=revision)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"repo_id={repo_id!r}: its config.json is no JSON: {error}") from error
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise ValueError(f"repo_id={repo_id!r}: its config.json holds one {kind}, not a mapping")
    return found
