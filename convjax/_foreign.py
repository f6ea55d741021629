"""What stands where a network is asked for and is none of Flax NNX, and what would serve."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from convjax import _check


def module(name: str, value: Any, expected: str) -> nnx.Module:
    """Return a module of NNX; what is none is refused, with what would serve in its place.

    Args:
      name: of the argument.
      value: that was given.
      expected: what it must be, a noun phrase.
    """
    if isinstance(value, nnx.Module):
        return value
    advice = serves(value)
    _check.wrong_type(name, value, f"{expected}; {advice}" if advice else expected)


def serves(value: Any) -> str:
    """Return what would serve in place of something that is no module of NNX; "" if unknown."""
    if isinstance(value, type):
        return f"a class is no network, its instance is: {value.__name__}(…, rngs=nnx.Rngs(0))"
    for fits, words in RULES:
        if fits(value):
            return words
    return ""


def comes_from(value: Any, *packages: str) -> bool:
    """Whether a value's class, or one that it is derived from, stands in one of some packages."""
    modules = [kind.__module__ for kind in type(value).__mro__]
    return any(f"{one}.".startswith(f"{package}.") for one in modules for package in packages)


def is_linen(value: Any) -> bool:
    """Whether a value is a module of Flax Linen."""
    return comes_from(value, "flax.linen") and hasattr(value, "apply")


def is_equinox(value: Any) -> bool:
    """Whether a value is a module of Equinox that can be called."""
    return comes_from(value, "equinox") and callable(value)


def is_haiku(value: Any) -> bool:
    """Whether a value is what ``haiku.transform`` returned."""
    return comes_from(value, "haiku") and hasattr(value, "init") and hasattr(value, "apply")


def is_arrays(value: Any) -> bool:
    """Whether a value is a pytree of arrays and nothing else."""
    leaves = jax.tree.leaves(value)
    arrays = all(isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in leaves)
    return bool(leaves) and arrays


def _is_split(value: Any) -> bool:
    several = value if isinstance(value, tuple) else (value,)
    return any(type(one).__name__ in ("GraphDef", "State") for one in several) and any(
        comes_from(one, "flax.nnx") for one in several
    )


def _is_pair(value: Any, first: Callable[[Any], bool] = callable) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and first(value[0])


def _is_method(value: Any) -> bool:
    return isinstance(getattr(value, "__self__", None), nnx.Module)


def _are_layers(value: Any) -> bool:
    several = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    return several and not isinstance(value, str | Mapping) and all(map(callable, value))


RULES: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda v: is_linen(v) and v.scope is not None,
        "a bound Linen module: module, variables = net.unbind(), then "
        "nn.Function(lambda v, x: module.apply(v, x), variables)",
    ),
    (
        is_linen,
        "a Linen module holds no parameters: nn.Function(lambda v, x: net.apply(v, x), variables), "
        "with variables = net.init(key, x)",
    ),
    (
        is_equinox,
        "of an Equinox module: arrays, rest = eqx.partition(net, eqx.is_array), then "
        "nn.Function(lambda a, x: jax.vmap(eqx.combine(a, rest))(x), arrays)",
    ),
    (
        is_haiku,
        "of a Haiku transform: nn.Function(lambda p, x: net.apply(p, None, x), params), with "
        "params = net.init(key, x)",
    ),
    (
        lambda v: comes_from(v, "keras"),
        "of a Keras model on JAX: nn.Function(lambda p, x: net.stateless_call(p, rest, x)[0], "
        "params), with params and rest the .value of its trainable and its other variables",
    ),
    (
        lambda v: comes_from(v, "torch"),
        "a network of PyTorch is no JAX function; write it in Flax NNX, or take it from "
        "models.create and load its weights by models.load_weights",
    ),
    (
        lambda v: comes_from(v, "flax.training"),
        "of a TrainState: nn.Function(lambda p, x: net.apply_fn({'params': p}, x), net.params)",
    ),
    (_is_split, "of a network that was split: nnx.merge(graphdef, state) is one again"),
    (
        lambda v: _is_pair(v, is_linen),
        "of a Linen module and its variables: module, variables = net, then "
        "nn.Function(lambda v, x: module.apply(v, x), variables)",
    ),
    (
        lambda v: _is_pair(v, is_equinox),
        "of the two parts of an Equinox module: arrays, rest = net, then "
        "nn.Function(lambda a, x: jax.vmap(eqx.combine(a, rest))(x), arrays)",
    ),
    (_is_pair, "of a function and its parameters: nn.Function(apply, params)"),
    (_are_layers, "of layers in a list: nnx.Sequential(*layers), or nn.Chain(layers)"),
    (
        is_arrays,
        "parameters alone are no network: nn.Function(apply, params), with the function that "
        "takes them",
    ),
    (
        lambda v: isinstance(v, str),
        "a name is no network: models.create(name, rngs=nnx.Rngs(0))",
    ),
    (_is_method, "of a method: give the network itself, and call=lambda net, x: … that calls it"),
    (
        lambda v: comes_from(v, "flax.nnx") and callable(v),
        "of a network within nnx.jit: give the network itself, it is compiled here",
    ),
    (
        callable,
        "of a function: nn.Function(apply, params), called as apply(params, x)",
    ),
)
"""Tests, and the words that belong to them, the most special first."""
