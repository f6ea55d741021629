"""What a function holds beside its source: the object of a method, and the values of a closure."""

import dataclasses
import inspect
import types
from collections.abc import Callable
from typing import Any

from convjax import _check
from convjax.study._identity import canonical

_NAMED = (type, types.ModuleType, types.BuiltinFunctionType)


def held(function: Callable[..., Any]) -> str:
    """Return the data that a function holds beside its source, as text; "" where it holds none.

    A function of a module holds none: its source says what its names and defaults are. One that
    another function made differs from its twins by the values that its names had there.

    Raises:
      WrongTypeError: it holds something that is not data; the message says what to do.
    """
    return "".join(_texts(function, set()))


def _texts(function: Any, seen: set[int]) -> list[str]:
    if id(function) in seen:  # it calls itself
        return []
    seen.add(id(function))
    texts = []
    for name, value in _values(function).items():
        if isinstance(value, types.FunctionType | types.MethodType):
            inside = "".join(_texts(value, seen))
            texts.append(f"{name}:{value.__module__}.{value.__qualname__}({inside})")
        elif isinstance(value, _NAMED) or hasattr(value, "__wrapped__"):
            texts.append(f"{name}:{getattr(value, '__qualname__', value.__name__)}")
        else:
            texts.append(f"{name}:{_data(function, name, value)}")
    return texts


def _values(function: Any) -> dict[str, Any]:
    """Return what a function holds, by name."""
    values = {}
    owner = getattr(function, "__self__", None)
    if owner is not None and not isinstance(owner, _NAMED):
        whole = dataclasses.is_dataclass(owner) or not hasattr(owner, "__dict__")
        parts = {"self": owner} if whole else {f"self.{n}": v for n, v in vars(owner).items()}
        values |= parts
    function = getattr(function, "__func__", function)
    if "<locals>" not in function.__qualname__ or not inspect.isfunction(function):
        return values
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            values[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    defaults = inspect.signature(function).parameters.values()
    return values | {p.name: p.default for p in defaults if p.default is not p.empty}


def _data(function: Any, name: str, value: Any) -> str:
    try:
        return canonical(value)
    except ValueError as error:
        raise _check.WrongTypeError(
            f"function={function.__qualname__} holds {name}={_check.shown(value)}, by which it "
            "cannot be told from its like; give it in the configuration, or give version='1', and "
            "another each time that you change it"
        ) from error
