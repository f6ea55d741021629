"""described: what an object computes with, as JSON, so that another run can be told from this one.

Functions are told by where they are defined, by the values that they close over, and by their code;
those that a library names in public by that name alone.
"""

import contextlib
import dataclasses
import enum
import functools
import hashlib
import json
import types
from collections.abc import Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np
from flax import linen, nnx

from convjax._check import shown

# Their functions are told by name, their inner ones by code and by what they close over as well.
LIBRARIES = (
    "builtins",
    "chex",
    "convjax",
    "equinox",
    "flax",
    "functools",
    "haiku",
    "jax",
    "jaxlib",
)
LIBRARIES += ("numpy", "optax")
# Machinery of modules and wrappers, which says nothing of what they compute.
HIDDEN = ("_pytree__", "_object__", "__")


# Deeper parts are told by a digest: optax wraps one transformation in another, and each level holds
# the one below twice.
DEEPEST = 16


def described(value: Any) -> Any:
    """Return what JSON can hold of a value: equal for equal ones, in any process.

    An integer and a float are equal where their values are.

    Numbers, text, arrays (by a digest), containers, functions with defaults and closures, partial
    functions, methods and objects by their attributes are told apart. A class is told by its name,
    and so is what an object keeps outside of Python, as one of a C extension does.

    Args:
      value: anything.

    Raises:
      ValueError: objects inside each other without end.
    """
    try:
        return _Walk().of(value, ())
    except RecursionError as error:
        raise ValueError(f"{shown(value)} is too deep to be described") from error


def digest_of(array: Any) -> str:
    """Return dtype, shape and the beginning of the SHA-256 of an array's bytes, as text."""
    if isinstance(array, jax.Array) and jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    host = np.ascontiguousarray(array)
    # A view of the bytes, as dtypes such as bfloat16 have no buffer of their own.
    found = hashlib.sha256(host.reshape(-1).view(np.uint8).data)
    return f"{host.dtype}{list(np.shape(array))} {found.hexdigest()[:16]}"


class _Walk:
    """Goes through one object, from each part to those inside it."""

    def __init__(self):
        # With the objects themselves, or an id could be that of another by now.
        self.deep: dict[int, tuple[Any, str]] = {}

    def of(self, value: Any, above: tuple[int, ...]) -> Any:
        """Describe a value that lies in those of these ids."""
        if isinstance(value, enum.Enum):
            return f"{_name(type(value))}.{value.name}"
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int | float | np.bool_ | np.integer | np.floating):
            return value.item() if isinstance(value, np.generic) else value
        if isinstance(value, bytes | complex | np.dtype | np.generic | slice | range):
            return repr(value)
        if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType | np.ufunc):
            return _name(value)
        if isinstance(value, np.ndarray | jax.Array) and value.dtype != object:
            return digest_of(value)
        if id(value) in above:
            return f"{above[::-1].index(id(value)) + 1} above"
        if len(above) < DEEPEST:
            return self.inside(value, (*above, id(value)))
        if id(value) not in self.deep:
            parts = json.dumps(_plain(self.inside(value, (*above, id(value)))), sort_keys=True)
            self.deep[id(value)] = value, hashlib.sha256(parts.encode()).hexdigest()[:16]
        return self.deep[id(value)][1]

    def inside(self, value: Any, above: tuple[int, ...]) -> Any:
        """Describe what has parts."""
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, Mapping):
            named = {k if isinstance(k, str) else repr(self.of(k, above)): k for k in value}
            return {name: self.of(value[named[name]], above) for name in sorted(named)}
        if isinstance(value, Set):
            return sorted((self.of(entry, above) for entry in value), key=repr)
        if isinstance(value, Sequence) and not hasattr(value, "_fields"):
            return [self.of(entry, above) for entry in value]
        if isinstance(value, nnx.Variable):
            return self.of(value.get_value(), above)
        if isinstance(value, types.FunctionType):
            return self.function(value, above)
        if isinstance(value, functools.partial):
            parts = {"function": value.func, "given": value.args, **value.keywords}
        elif isinstance(value, types.MethodType):
            parts = {"function": value.__func__, "of": value.__self__}
        elif callable(inner := getattr(value, "__wrapped__", None)):
            return self.of(inner, above)  # jit, rules of differentiation, caches
        else:
            parts = {"class": type(value), **attributes(value)}
        return {name: self.of(parts[name], above) for name in sorted(parts)}

    def function(self, function: types.FunctionType, above: tuple[int, ...]) -> Any:
        """Describe a function that is written in Python."""
        parts: dict[str, Any] = {}
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            with contextlib.suppress(ValueError):  # it is not filled yet
                parts[name] = cell.cell_contents
        if function.__defaults__:
            parts["its defaults"] = function.__defaults__
        if function.__kwdefaults__:
            parts["its keywords"] = function.__kwdefaults__
        own = (function.__module__ or "").split(".")[0] not in LIBRARIES
        code, names = _code(function.__code__)
        if own or "<" in function.__qualname__:  # of inner functions several may bear one name
            parts["its code"] = code
        if own:
            known = function.__globals__
            parts |= {f"global {name}": known[name] for name in names if name in known}
        found = {name: self.of(parts[name], above) for name in sorted(parts)}
        return {"function": _name(function), **found} if found else _name(function)


def attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object that say what it is."""
    if hasattr(value, "_fields"):  # a named tuple
        return {name: getattr(value, name) for name in value._fields}
    if isinstance(value, linen.Module):  # which has a number of its own in each process
        fields = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name, None) for name in fields if name != "parent"}
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = getattr(kind, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                found[name] = getattr(value, name)
    return {name: part for name, part in found.items() if not name.startswith(HIDDEN)}


def _plain(value: Any) -> Any:
    """Return JSON with 4.0 as 4: optax's schedules turn what they close over into floats."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _code(code: types.CodeType) -> tuple[str, set[str]]:
    """Return a digest of what a function's code does, and the names that it looks up."""
    found, names = hashlib.sha256(code.co_code), set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner, used = _code(constant)
            found.update(inner.encode())
            names |= used
        else:
            text = sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
            found.update(repr(text).encode())
    found.update(repr((code.co_names, code.co_varnames)).encode())
    return found.hexdigest()[:16], names


def _name(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    module = getattr(value, "__module__", None)
    return f"{module}.{name}" if isinstance(module, str) else name
