"""State: all that a run changes, as one pytree."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from convjax import models
from convjax.train import _arguments
from convjax.train._frozen import check_frozen, divided
from convjax.train._optimiser import optimiser_of
from convjax.train._precision import first_scale
from convjax.train._recipe import Recipe


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that a run changes; with recipe and data it determines what follows, to the bit.

    Attributes:
      step: steps taken so far, an int32 scalar. Random numbers and the order of the examples are
        functions of it and of the seeds.
      params: nested dictionaries of parameters.
      rest: nested dictionaries of what else the network holds: running statistics, and the keys and
        counts of random numbers of its own.
      optimiser: optax's state.
      average: ``{"params": …, "rest": …}``, exponential moving averages, or None.
      scale: the loss scale of float16, or None.

    Example:
      >>> from flax import nnx
      >>> from convjax import models, train
      >>> net = models.resnet_cifar(8, width=4, rngs=nnx.Rngs(0))
      >>> state = train.start(net, train.Recipe())
      >>> int(state.step), sorted(state.params)
      (0, ['head', 'stage1', 'stage2', 'stage3', 'stem'])
    """

    step: Any
    params: Any
    rest: Any
    optimiser: Any
    average: Any = None
    scale: Any = None


def start(
    net: nnx.Module,
    recipe: Recipe,
    *,
    optimiser: optax.GradientTransformation | None = None,
    frozen: models.Split | None = None,
) -> State:
    """Return the state before the first step; its arrays are copies of the network's.

    Args:
      net: the network, with the initial values.
      recipe: says which optimiser, precision and average.
      optimiser: any optax transformation, in the place of the recipe's.
      frozen: what ``models.freeze`` returns, or None; the optimiser sees the other parameters.

    Returns:
      The state.

    Raises:
      WrongTypeError: what is no network, recipe or optimiser; this is a TypeError.

    Example:
      >>> from flax import nnx
      >>> from convjax import models, train
      >>> net = models.resnet_cifar(8, width=4, rngs=nnx.Rngs(0))
      >>> sorted(train.start(net, train.Recipe(average=0.99)).average)
      ['params', 'rest']
    """
    _arguments.check_plan(net, recipe, optimiser)
    check_frozen(frozen, net)
    if optimiser is None:
        optimiser = optimiser_of(net, recipe)
    _, params, rest = parts(net)
    # Copies: a state is donated to the step, and the network stays as it is.
    params, rest = jax.tree.map(jnp.array, (params, rest))
    average = None
    if recipe.average:
        average = jax.tree.map(jnp.array, {"params": params, "rest": rest})
    return State(
        step=jnp.int32(0),
        params=params,
        rest=rest,
        optimiser=jax.tree.map(jnp.array, optimiser.init(divided(params, frozen)[0])),
        average=average,
        scale=first_scale(recipe.precision),
    )


def state_of(net: nnx.Module, before: Any) -> Any:
    """Return what a network holds beside its parameters, in the form that it had before a call.

    Of what the call has added, such as what ``sow`` keeps, nothing is taken.
    """

    def taken(old: Any, new: Any) -> Any:
        if isinstance(old, dict):
            return {name: taken(inner, new[name]) for name, inner in old.items()}
        return new.astype(old.dtype) if is_floating(old) else new

    return taken(before, parts(net)[2])


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is a statistic, and no count and no key of random numbers."""
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def parts(net: nnx.Module) -> tuple[Any, Any, Any]:
    """Return a network's graph, and its parameters and the rest as nested dictionaries."""
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


def assembled(graphdef: Any, params: Any, rest: Any) -> Any:
    """Return the network of a graph and nested dictionaries; ``parts`` is its inverse."""
    return nnx.merge(graphdef, nnx.State(params), nnx.State(rest), copy=True)
