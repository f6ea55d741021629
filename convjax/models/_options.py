"""The options of the zoo, which mean in every family the same: one rule each, by name or type."""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin

from flax import nnx

from convjax import _check, nn

P = ParamSpec("P")
R = TypeVar("R")

SHORTCUTS = ("identity", "none", "scaled", "gated")

_rate = functools.partial(_check.number, least=0, below=1)
_BY_NAME: dict[str, Callable[[str, Any], Any]] = {
    "units": lambda name, value: _several(name, _check.integers(name, value, least=1)),
    "kernel_size": lambda name, value: _window(name, value),
    "padding": _check.padding,
    "branch_scales": functools.partial(_check.numbers, length=3),
    "epsilon": functools.partial(_check.number, least=0),
    "dropout": _rate,
    "unit_dropout": _rate,
    "auxiliary_dropout": _rate,
    "stochastic_depth": _rate,
    "norm": lambda name, value: _check.choice(name, value, nn.NORMS),
    "activation": lambda name, value: _check.choice(name, value, nn.ACTIVATIONS),
    "init": lambda name, value: nn.initializers.get(value, argument=name),
    "shortcut": lambda name, value: _shortcut(name, value),
    "dtype": _check.dtype,
    "param_dtype": _check.dtype,
    "rngs": lambda name, value: streams(name, value),
}


def checked(build: Callable[P, R]) -> Callable[P, R]:
    """Have a family's function take its options in their plain forms, or refuse them by name."""
    signature = inspect.signature(build)

    @functools.wraps(build)
    def checking(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise _check.WrongTypeError(f"models.{build.__name__}: {error}") from None
        for name, value in given.arguments.items():
            given.arguments[name] = _plain(signature.parameters[name], value)
        return build(*given.args, **given.kwargs)

    return checking


def _plain(parameter: inspect.Parameter, value: Any) -> Any:
    """Return an option in its plain form: by the rule of its name, or of its type."""
    name = parameter.name
    kind = parameter.annotation
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value is None and types.NoneType in kinds:
        return None
    if name in _BY_NAME and not (name == "kernel_size" and int in kinds):
        return _BY_NAME[name](name, value)
    if bool in kinds:
        return _check.flag(name, value)
    if int in kinds:
        return _check.integer(name, value, 1)
    if float in kinds:
        factor = name in ("width", "depth")
        return _check.number(name, value, above=0) if factor else _check.number(name, value)
    return value


def streams(name: str, rngs: Any) -> nnx.Rngs:
    """Return a source of initial values."""
    _check.instance(name, rngs, nnx.Rngs, "an nnx.Rngs, such as nnx.Rngs(0)")
    if not hasattr(rngs, "params"):
        raise ValueError(f"{name} has no stream 'params'; give nnx.Rngs(0)")
    return rngs


def _several(name: str, value: tuple[int, ...]) -> tuple[int, ...]:
    if not value:
        raise ValueError(f"{name} is empty; give the units of every stage")
    return value


def _window(name: str, value: Any) -> tuple[int, ...]:
    size = _check.integers(name, value, least=1)
    if not 1 <= len(size) <= 3:
        raise ValueError(f"{name}={size} has {len(size)} entries; a window has 1 to 3 axes")
    return size


def _shortcut(name: str, value: Any) -> str | nnx.Module:
    return value if isinstance(value, nnx.Module) else _check.choice(name, value, SHORTCUTS)
