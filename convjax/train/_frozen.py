"""What a split freezes, out of the parameters as a state holds them, and back among them."""

from typing import Any

import jax
from flax import nnx

from convjax import models
from convjax._check import instance


def check_frozen(frozen: models.Split | None, net: nnx.Module) -> None:
    """Refuse what is no split, that of another network, and one that leaves nothing to train."""
    if frozen is None:
        return
    instance("frozen", frozen, models.Split, "what models.freeze returns, or None")
    params = nnx.to_pure_dict(nnx.state(net, nnx.Param))
    known = {path for path, _ in frozen.labels.words}
    here = {tuple(part.key for part in p) for p, _ in jax.tree.leaves_with_path(params)}
    if odd := sorted("/".join(map(str, path)) for path in known ^ here):
        raise ValueError(f"frozen is another network's split: {odd[0]!r} is in one of them only")
    if not frozen.trainable.paths:
        raise ValueError("frozen: every parameter is frozen, so there is nothing to train")


def divided(params: Any, frozen: models.Split | None) -> tuple[Any, Any]:
    """Return the trainable part of nested dictionaries, and the frozen one."""
    if frozen is None:
        return params, {}
    moving = frozen.trainable.paths
    return _only(params, lambda path: path in moving), _only(params, lambda p: p not in moving)


def joined(params: Any, others: Any) -> Any:
    """Return two parts of nested dictionaries as one; ``divided`` is its inverse."""
    if not (isinstance(params, dict) and isinstance(others, dict)):
        return params
    names = sorted({*params, *others}, key=str)
    return {
        name: joined(params[name], others.get(name)) if name in params else others[name]
        for name in names
    }


def _only(tree: dict[Any, Any], keep: Any, path: tuple[Any, ...] = ()) -> dict[Any, Any]:
    """Return the leaves at the paths to keep, without dictionaries that would be empty."""
    found = {}
    for name, value in tree.items():
        here = (*path, name)
        if isinstance(value, dict):
            if inner := _only(value, keep, here):
                found[name] = inner
        elif keep(here):
            found[name] = value
    return found
