"""identity: all that determines what a run ends with, as JSON, beside each of its checkpoints."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from convjax import models, nn
from convjax.train._described import attributes, described, digest_of
from convjax.train._host import leaves_of
from convjax.train._recipe import Recipe
from convjax.train._set_up import is_written
from convjax.train._source import Source


def identity(
    net: nnx.Module,
    source: Source,
    recipe: Recipe,
    mesh: Mesh | None,
    *,
    optimiser: optax.GradientTransformation | None,
    optimiser_name: str | None,
    frozen: models.Split | None,
    call: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Return what tells this run from another; what comes first is compared first."""
    if not is_written(net):
        net = nnx.merge(*nnx.split(net))
        net.train()  # a mode that is an attribute is fit's to set
    return {
        **({} if call is None else {"call": described(call)}),
        "recipe": described(dataclasses.asdict(recipe)),
        "optimiser": described(optimiser) if optimiser_name is None else optimiser_name,
        "frozen": described(None if frozen is None else _frozen(frozen)),
        "devices": _devices(net, recipe, mesh),
        "examples": source.count,
        "batch_size": source.batch_size,
        "data": {
            "source": type(source).__qualname__,
            **described(getattr(source, "about", {})),
            **{name.strip("[']"): digest_of(a) for name, a in leaves_of(source.arrays).items()},
        },
        "network": {
            "/".join(map(str, path)) or "(the whole)": _node(node)
            for path, node in nnx.iter_modules(net)
        },
        "initial values": {
            "/".join(map(str, path)): described(variable)
            for path, variable in nnx.to_flat_state(nnx.state(net))
        },
    }


def _node(node: nnx.Module) -> Any:
    """Describe what a module holds beside its variables and the modules in it."""
    graph = (nnx.Module, nnx.Variable)
    found = {"class": type(node).__qualname__}
    for name, value in sorted(attributes(node).items()):
        if name == "origin":  # whence its initial values came, which are compared themselves
            continue
        inside = jax.tree.leaves(value, is_leaf=lambda part: isinstance(part, graph))
        if not any(isinstance(part, graph) for part in inside):
            found[name] = described(value)
    return found


def _frozen(frozen: models.Split) -> Mapping[str, Any]:
    def texts(paths):
        return sorted("/".join(map(str, path)) for path in paths)

    still = [path for path, word in frozen.labels.words if word == "frozen"]
    return {"parameters": texts(still), "statistics": texts(frozen.statistics)}


def _devices(net: nnx.Module, recipe: Recipe, mesh: Mesh | None) -> Any:
    """Return how many devices share a batch, where the result depends on it by more than rounding.

    Dropout has random numbers of each device, and so may any leaf that convjax does not know.
    """
    random = not is_written(net) or any(
        getattr(node, "rate", 0) > 0
        if isinstance(node, nn.Dropout | nn.StochasticDepth)
        else not type(node).__module__.startswith("convjax.")
        for _, node, _ in nn.walk(net)
    )
    if not random and (recipe.batch_norm != "per_device" or mesh is None or mesh.size == 1):
        return "any"
    return "one" if mesh is None else mesh.size
