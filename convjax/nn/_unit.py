"""What may be a unit of a combinator: a module, or a plain function."""

import dataclasses
import types
from typing import Any, cast

import jax
from flax import nnx

from convjax import _check
from convjax.nn._applied import check_call
from convjax.nn._node import Node
from convjax.nn._simple import Activation

RIGHT = "a node of convjax.nn, any other nnx.Module, or a function of one array"


def unit(argument: str, given: Any) -> nnx.Module:
    """Return a unit as a module; refuse what cannot be one.

    Args:
      argument: what it is called in a message.
      given: a module, or a function of one array, which becomes an ``nn.Activation``.
    """
    if isinstance(given, type):
        _check.wrong_type(argument, given, f"{RIGHT}: an instance, not a class")
    if isinstance(given, nnx.Module):
        if not isinstance(given, Node):
            check_call(argument, given)
        return given
    if not callable(given):
        _check.wrong_type(argument, given, RIGHT)
    if isinstance(getattr(given, "__self__", None), nnx.Module):
        _check.wrong_type(argument, given, f"{RIGHT}; give the module whose method this is")
    if not isinstance(given, jax.tree_util.Partial) and _holds_values(given):
        right = f"{RIGHT}; nn.Function(apply, params) makes a module of another framework's"
        _check.wrong_type(argument, given, right)
    for name, module in _around(given):
        raise ValueError(
            f"{argument}: the function uses {name!r} ({type(module).__name__}) from around it, "
            "whose parameters would be no part of the network; give the module itself, or write "
            "an nnx.Module that holds it"
        )
    return Activation(cast(Any, given))


def _holds_values(given: Any) -> bool:
    """Whether what can be called is a pytree or a dataclass: a module of another framework."""
    return dataclasses.is_dataclass(given) or jax.tree.leaves(given) != [given]


def _around(function: Any) -> list[tuple[str, nnx.Module]]:
    """Return the modules that a function closes over, by name."""
    if not isinstance(function, types.FunctionType) or not function.__closure__:
        return []
    pairs = zip(function.__code__.co_freevars, function.__closure__, strict=True)
    found = []
    for name, cell in pairs:
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if isinstance(value, nnx.Module):
            found.append((name, value))
    return found
