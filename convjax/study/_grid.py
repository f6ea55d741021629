"""grid: every combination of several values of some fields of a configuration."""

import dataclasses
import difflib
import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from convjax import _check

Config = TypeVar("Config")


def grid(config: Config, **axes: Any) -> list[Config]:
    """Return copies of a configuration with every combination of some values, the last fastest.

    Args:
      config: an instance of a frozen dataclass; its values are those of the fields not varied.
      axes: for each field that varies, its values, at least one and none twice: a list, or an array
        of one axis. Numbers of NumPy and JAX become Python's.

    Returns:
      The product, in order; ``[config]`` where nothing varies.

    Raises:
      WrongTypeError: ``config`` is no instance of a dataclass, or an axis is no list.
      ValueError: an axis that is no field, that is empty, or that names one value twice.

    Example:
      >>> import dataclasses
      >>> from convjax import study
      >>> @dataclasses.dataclass(frozen=True)
      ... class Config:
      ...     depth: int = 8
      ...     norm: str = "none"
      >>> [(c.depth, c.norm) for c in study.grid(Config(), depth=[8, 20], norm=["none", "batch"])]
      [(8, 'none'), (8, 'batch'), (20, 'none'), (20, 'batch')]
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        _check.wrong_type("config", config, "an instance of a dataclass")
    names = [field.name for field in dataclasses.fields(config) if field.init]
    for name in axes:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}? There are" if near else "there are"
            kind = type(config).__name__
            raise ValueError(f"{name!r} is not a field of {kind}; {hint} {', '.join(names)}")
    products = itertools.product(*(_values(name, values) for name, values in axes.items()))
    return [dataclasses.replace(config, **dict(zip(axes, one, strict=True))) for one in products]


def _values(name: str, values: Any) -> list[Any]:
    """Return the values of an axis, Python's own."""
    array = isinstance(values, np.ndarray | jax.Array)
    if (array and values.ndim != 1) or (
        not array and (isinstance(values, str | bytes) or not isinstance(values, Sequence))
    ):
        _check.wrong_type(name, values, f"a list of values; write {name}=[...]")
    found = [_own(value) for value in values]
    if not found:
        raise ValueError(f"{name} is empty; give it at least one value")
    if any(one in found[:i] for i, one in enumerate(found)):
        raise ValueError(f"{name}={_check.shown(found)} names one value twice")
    return found


def _own(value: Any) -> Any:
    """Return a number of NumPy's or JAX's as Python's, and an array of them as a tuple."""
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        plain = value.tolist()
        return tuple(map(tuple, plain)) if value.ndim > 1 else tuple(plain) if value.ndim else plain
    return value
