"""What the functions of this room are given: networks, recipes, optimisers, sources, rows, …."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import optax
from flax import nnx

from convjax import _check
from convjax.train._observe import Observer, check_rows
from convjax.train._recipe import Recipe
from convjax.train._source import Source


def network(net: Any) -> nnx.Module:
    """Return a network."""
    right = "a network: a module of Flax NNX, or nn.Function(apply, params)"
    return _check.function("net", _check.instance("net", net, nnx.Module, right), right)  # pyright: ignore


def recipe(given: Any) -> Recipe:
    """Return a recipe."""
    return _check.instance("recipe", given, Recipe, "a train.Recipe")


def optimiser(given: Any) -> optax.GradientTransformation | None:
    """Return an optimiser, or None."""
    # optax.MultiSteps is one by its methods alone.
    methods = (getattr(given, name, None) for name in ("init", "update"))
    if given is not None and (isinstance(given, type) or not all(map(callable, methods))):
        _check.wrong_type("optimiser", given, "an optax transformation, or None")
    return given


def check_plan(net: Any, how: Any, rule: Any = None) -> None:
    """Refuse what is no network, no recipe, or neither an optimiser nor None."""
    network(net)
    recipe(how)
    optimiser(rule)


def call(given: Any) -> Callable[..., Any] | None:
    """Return how a network is called, or None."""
    return given if given is None else _check.function("call", given, "a function of net and x")


def optimiser_name(name: Any, optimiser: Any) -> str | None:
    """Return what an optimiser is called, or None."""
    _check.instance("optimiser_name", name, (str, type(None)), "a string, or None")
    if name is not None and optimiser is None:
        raise ValueError(
            f"optimiser_name={name!r} is given without an optimiser; that of the recipe has a name"
        )
    return name


def source(given: Any) -> Source:
    """Return a source of batches."""
    # Not by its methods alone: a class has them too.
    if isinstance(given, type) or not isinstance(given, Source):
        _check.wrong_type("source", given, "a source of batches, such as data.resident(…)")
    _check.integer("source.count", given.count, 1)
    _check.integer("source.batch_size", given.batch_size, 1)
    return given


def rows(given: Any) -> list[Mapping[str, Any]]:
    """Return rows of a run as a list, each with its kind and step."""
    if isinstance(given, str | bytes | Mapping | np.ndarray) or not isinstance(given, Iterable):
        _check.wrong_type("rows", given, "rows, as train.read_rows returns them")
    found = list(given)
    check_rows(found)
    return found


def observers(given: Any) -> list[Observer]:
    """Return observers as a list."""
    right = "a sequence of observers, such as [train.ProgressBar()]"
    if isinstance(given, str | bytes | Mapping | np.ndarray | Observer) or not isinstance(
        given, Iterable
    ):
        _check.wrong_type("observers", given, right)
    found = list(given)
    for i, one in enumerate(found):
        # Not by its methods alone: a class has them too.
        if isinstance(one, type) or not isinstance(one, Observer):
            _check.wrong_type(f"observers[{i}]", one, "an observer, with begin, record and end")
    return found
