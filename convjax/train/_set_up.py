"""What a recipe makes of a merged copy of a network: precision, remat, norms over devices."""

from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

from convjax import nn
from convjax.train._precision import lower
from convjax.train._recipe import Recipe

BATCH_NORMS = (nn.BatchNorm, nnx.BatchNorm)


def is_written(net: nnx.Module, call: Any = None) -> bool:
    """Whether a network is a node of ``convjax.nn``, called as one, and not read from a program."""
    return isinstance(net, nn.Node) and call is None


def check_served(net: nnx.Module, recipe: Recipe, axis_name: str | None) -> None:
    """Refuse what the recipe asks for and a network of another framework cannot do."""
    if is_written(net):
        return
    kind = type(net).__name__
    if recipe.remat != "none" and not any(isinstance(m, nn.Repeat) for m in _modules(net)):
        raise ValueError(
            f"remat={recipe.remat!r}: net={kind} holds no nn.Repeat; give 'none', and use "
            "nnx.remat or jax.checkpoint in the network"
        )
    if axis_name is not None and recipe.batch_norm == "synchronised":
        norms = [m for m in _modules(net) if isinstance(m, BATCH_NORMS)]
        known = {id(v) for m in norms for _, v in nnx.iter_graph(m)}
        for path, v in nnx.iter_graph(net):
            if isinstance(v, nnx.BatchStat) and id(v) not in known:
                raise ValueError(
                    f"batch_norm='synchronised': {'/'.join(map(str, path))!r} of net={kind} is not "
                    "an nnx.BatchNorm's, so it is not known how to share it between devices; give "
                    "batch_norm='per_device'"
                )


def set_up(net: nnx.Module, recipe: Recipe, axis_name: str | None) -> None:
    """Make a merged copy of a network compute as the recipe says."""
    lower(net, recipe.precision)
    if recipe.remat != "none":
        for module in _modules(net):
            if isinstance(module, nn.Repeat):
                nn.rematerialise(module, recipe.remat)
    if axis_name is None:
        return
    if recipe.batch_norm == "synchronised":
        for module in _modules(net):
            if isinstance(module, BATCH_NORMS):
                module.axis_name = axis_name
    # A key is the same everywhere, and what is drawn from it is not to be.
    place = jax.lax.axis_index(axis_name)
    nnx.update(net, jax.tree.map(lambda key: _folded(key, place), own_keys(net)))


def own_keys(net: nnx.Module) -> Any:
    """Return the keys of the random numbers that a network draws for itself."""
    return nnx.state(net, nnx.RngKey)


def _folded(key: jax.Array, place: jax.Array) -> jax.Array:
    fold = jax.random.fold_in
    for _ in range(key.ndim):
        fold = jax.vmap(fold, (0, None))
    return fold(key, place)


def _modules(net: nnx.Module) -> Iterator[nnx.Module]:
    return (module for _, module in nnx.iter_modules(net))
