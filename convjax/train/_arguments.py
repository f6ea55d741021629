"""What the functions of this room are given: networks, recipes, optimisers, sources, rows, …."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optax
from flax import nnx

from convjax import _check
from convjax.train._observe import Observer
from convjax.train._recipe import Recipe
from convjax.train._source import Source


def network(net: Any) -> nnx.Module:
    """Return a network."""
    return _check.instance("net", net, nnx.Module, "a network, such as models.resnet_cifar(…)")


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


def observers(given: Any) -> Sequence[Observer]:
    """Return observers."""
    _check.instance("observers", given, Sequence, "a sequence of observers")
    for i, one in enumerate(given):
        if isinstance(one, type) or not isinstance(one, Observer):
            _check.wrong_type(f"observers[{i}]", one, "an observer: begin, record and end")
    return given


def rows(given: Any) -> list[Mapping[str, Any]]:
    """Return rows of a run, each with its kind and step."""
    right = "rows, as train.read_rows returns them"
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        _check.wrong_type("rows", given, right)
    found = list(given)
    for i, row in enumerate(found):
        if not isinstance(row, Mapping):
            _check.wrong_type(f"rows[{i}]", row, right)
        if missing := {"kind", "step"} - set(row):
            raise ValueError(f"rows[{i}] lacks {min(missing)!r}: it must be one of {right}")
    return found
