"""The optimiser that a recipe asks for, by optax: schedule, clip, and decay of some weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from convjax import nn
from convjax.train import _arguments
from convjax.train._precision import NORM_LEAVES
from convjax.train._recipe import Recipe, arguments_of

VECTORS = ("bias", "b", "scale", "offset")
"""What other frameworks call parameters of which there is one for each channel."""


def schedule_of(recipe: Recipe) -> optax.Schedule:
    """Return the learning rate as a function of the step.

    Args:
      recipe: its ``schedule``, ``learning_rate``, ``warmup``, ``boundaries``, ``factor``.

    Returns:
      A function of the step (0 is the first) that can be traced.

    Example:
      >>> import jax
      >>> from convjax import train
      >>> rate = train.schedule_of(train.Recipe(steps=100, learning_rate=0.2, warmup=10))
      >>> with jax.numpy_dtype_promotion("standard"):
      ...     [round(float(rate(step)), 3) for step in (0, 5, 10, 55, 100)]
      [0.0, 0.1, 0.2, 0.1, 0.0]
    """
    peak, warmup = _arguments.recipe(recipe).learning_rate, recipe.warmup
    left = recipe.steps - warmup
    if recipe.schedule == "steps":
        after = {step - warmup: recipe.factor for step in recipe.boundaries}
        main = optax.piecewise_constant_schedule(peak, after)
    elif recipe.schedule == "cosine":
        main = optax.cosine_decay_schedule(peak, left)
    elif recipe.schedule == "linear":
        main = optax.linear_schedule(peak, 0.0, left)
    else:
        main = optax.constant_schedule(peak)
    if not warmup:
        return main
    rising = optax.linear_schedule(peak * recipe.warmup_from, peak, warmup)
    return optax.join_schedules([rising, main], [warmup])


def optimiser_of(net: nnx.Module, recipe: Recipe) -> optax.GradientTransformation:
    """Return the optimiser of a recipe for a network: clip, decay, and the rule itself.

    Args:
      net: the network, whose norms, biases and scales may be left out of the decay.
      recipe: how to train.

    Returns:
      An optax transformation of gradients in the form of ``train.State``'s ``params``, or of a part
      of them, where others are frozen.

    Example:
      >>> from flax import nnx
      >>> from convjax import models, train
      >>> net = models.resnet_cifar(8, width=4, rngs=nnx.Rngs(0))
      >>> adamw = train.Recipe(optimiser="adamw", options={"b2": 0.99}, learning_rate=1e-3)
      >>> type(train.optimiser_of(net, adamw)).__name__
      'GradientTransformationExtraArgs'
    """
    _arguments.check_plan(net, recipe)
    takes, options = arguments_of(recipe.optimiser), dict(recipe.options or {})
    parts = [] if recipe.clip is None else [optax.clip_by_global_norm(recipe.clip)]
    mask = _decayed_of(net) if recipe.decayed == "kernels" else None
    masks = {"mask", "weight_decay_mask"} & set(takes)
    if "weight_decay" in takes:
        options.setdefault("weight_decay", recipe.weight_decay)
        if mask is not None and masks:
            options.setdefault(masks.pop(), mask)
    elif recipe.weight_decay:
        parts.append(optax.add_decayed_weights(recipe.weight_decay, mask))
    return optax.chain(*parts, getattr(optax, recipe.optimiser)(schedule_of(recipe), **options))


def _decayed_of(net: nnx.Module) -> Callable[[Any], Any]:
    """Return what says of some of a network's parameters which are decayed."""
    marks = dict(jax.tree_util.tree_flatten_with_path(decayed(net))[0])
    return partial(jax.tree_util.tree_map_with_path, lambda path, _: marks[path])


def recipe_rate(recipe: Recipe) -> Callable[[Any, Any], dict[str, jax.Array]]:
    """Return what tells, by the optimiser's state before a step, the step's learning rate.

    The optimiser counts for itself: a step that float16 skips does not move it on.
    """
    rate = schedule_of(recipe)

    def told(before: Any, after: Any) -> dict[str, jax.Array]:
        count = next(node.count for node in _nodes(before, optax.ScaleByScheduleState))
        return {"learning_rate": jnp.asarray(rate(count), jnp.float32)}

    return told


def injected_rate(before: Any, after: Any) -> dict[str, jax.Array]:
    """Return the learning rate that ``optax.inject_hyperparams`` says it has used.

    Nothing, where it is not in use, or in use more than once.
    """
    kinds = (optax.InjectHyperparamsState, optax.InjectStatefulHyperparamsState)
    found = [node.hyperparams.get("learning_rate") for node in _nodes(after, kinds)]
    rates = [rate for rate in found if rate is not None and jnp.ndim(rate) == 0]
    return {"learning_rate": jnp.asarray(rates[0], jnp.float32)} if len(rates) == 1 else {}


def _nodes(state: Any, kinds: type | tuple[type, ...]) -> list[Any]:
    """Return the parts of an optimiser's state that are of some types."""
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds))
    return [leaf for leaf in leaves if isinstance(leaf, kinds)]


def decayed(net: nnx.Module) -> Any:
    """Return which parameters a weight decay is meant for: kernels.

    Args:
      net: the network.

    Returns:
      Nested dictionaries of truth values, in the form of ``train.State``'s ``params``: false for
      what norms hold, for biases, and for scales. In modules of other frameworks these are the
      parameters with fewer than two axes, and those called bias, b, scale or offset.

    Example:
      >>> from flax import nnx
      >>> from convjax import models, train
      >>> mask = train.decayed(models.resnet_cifar(8, width=4, rngs=nnx.Rngs(0)))
      >>> mask["head"]["dense"]
      {'bias': False, 'kernel': True}
    """
    graphdef, params, rest = nnx.split(_arguments.network(net), nnx.Param, ...)
    twin = nnx.merge(graphdef, jax.tree.map(lambda _: np.True_, params), rest, copy=True)
    for _, node, _ in nn.walk(twin) if isinstance(net, nn.Node) else ():
        if isinstance(node, (*NORM_LEAVES, nn.Scale)):
            nnx.update(node, jax.tree.map(lambda _: np.False_, nnx.state(node, nnx.Param)))
    marks = nnx.to_pure_dict(nnx.split(twin, nnx.Param, ...)[1])
    modules = dict(nnx.iter_modules(net))

    def is_kernel(path: tuple[Any, ...], mark: Any, param: Any) -> bool:
        keys = tuple(part.key for part in path)
        above = (keys[:n] for n in range(len(keys), -1, -1))
        holder = next(modules[place] for place in above if place in modules)
        if isinstance(holder, nn.Node):
            return bool(mark) and keys[-1] != "bias"
        return param.ndim > 1 and str(keys[-1]).rpartition("/")[2] not in VECTORS

    return jax.tree.map_with_path(is_kernel, marks, nnx.to_pure_dict(params))
