"""grid: every combination of several values of some fields of a configuration."""

import dataclasses
import difflib
import itertools
from typing import Any, TypeVar

Config = TypeVar("Config")


def grid(config: Config, **axes: Any) -> list[Config]:
    """Return copies of a configuration with every combination of some values, the last fastest.

    Args:
      config: an instance of a frozen dataclass; its values are those of the fields not varied.
      axes: for each field that varies, its values, at least one and none twice.

    Returns:
      The product, in order; ``[config]`` where nothing varies.

    Raises:
      TypeError: ``config`` is no instance of a dataclass.
      ValueError: an axis that is no field or no list, that is empty, or that names one value twice.

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
        raise TypeError(f"config must be an instance of a dataclass, not {config!r}")
    names = [field.name for field in dataclasses.fields(config) if field.init]
    for name, values in axes.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}? There are" if near else "there are"
            kind = type(config).__name__
            raise ValueError(f"{name!r} is not a field of {kind}; {hint} {', '.join(names)}")
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise ValueError(f"{name}={values!r} must be a list of values; write [{values!r}]")
        if not len(values):
            raise ValueError(f"{name} is empty; give it at least one value")
        if any(one in list(values)[:i] for i, one in enumerate(values)):
            raise ValueError(f"{name}={list(values)} names one value twice")
    products = itertools.product(*axes.values())
    return [dataclasses.replace(config, **dict(zip(axes, one, strict=True))) for one in products]
