"""What the functions of this room are given: networks, recipes, optimisers, sources, rows."""

from collections.abc import Iterable, Mapping
from typing import Any

import optax
from flax import nnx

from convjax import _check
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
    kinds = (optax.GradientTransformation, type(None))
    return _check.instance("optimiser", given, kinds, "an optax transformation, or None")


def source(given: Any) -> Source:
    """Return a source of batches."""
    # Not by its methods alone: a class has them too.
    if isinstance(given, type) or not isinstance(given, Source):
        _check.wrong_type("source", given, "a source of batches, such as data.resident(…)")
    _check.integer("source.count", given.count, 1)
    _check.integer("source.batch_size", given.batch_size, 1)
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
