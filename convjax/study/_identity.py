"""key: what tells one cell of a study from another."""

import dataclasses
import enum
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from convjax import _check


def canonical(value: Any) -> str:
    """Return a configuration as text that is the same for equal ones, and differs for others.

    Args:
      value: a dataclass of numbers, text, truth values, None, paths, enumerations, dtypes, and
        tuples, lists, mappings and dataclasses of such. Tuple and list are one; so are numpy's
        numbers and Python's, a path and its text, an enumeration's member and its name, a dtype and
        its name. An array without an axis is a number. 1 and 1.0 are not one, nor 0.0 and -0.0, nor
        dataclasses of different names.

    Returns:
      JSON without blanks, its keys sorted, a dataclass's name under ``"class"``; numbers written so
      that they are read back exactly.

    Raises:
      WrongTypeError: a value of another kind; the message says where it stands.
      ValueError: a value that holds itself.

    Example:
      >>> import dataclasses
      >>> from convjax import study
      >>> @dataclasses.dataclass(frozen=True)
      ... class Config:
      ...     width: int = 8
      ...     rates: tuple[float, ...] = (0.1, 1e-4)
      >>> study.canonical(Config())
      '{"class":"Config","rates":[0.1,0.0001],"width":8}'
    """
    return json.dumps(_data(value, True), sort_keys=True, separators=(",", ":"))


def key(config: Any, version: str) -> str:
    """Return the identity of a cell: a hash of its configuration and of the code's version.

    Args:
      config: as for ``canonical``.
      version: of the code that measures, as ``study.version`` returns it.

    Returns:
      Forty hexadecimal digits.

    Raises:
      WrongTypeError: as ``canonical``; a version that is no text.

    Example:
      >>> from convjax import study
      >>> study.key({"depth": 8}, "1") == study.key({"depth": 8}, "2")
      False
    """
    _check.instance("version", version, str, "a string")
    text = f"{version}\n{canonical(config)}"
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def plain(value: Any) -> Any:
    """Return a configuration as JSON holds it, dataclasses as mappings of their fields.

    Raises:
      WrongTypeError: as ``canonical``.
    """
    return _data(value, False)


def _data(value: Any, classes: bool) -> Any:
    try:
        return _plain(value, "config", classes)
    except RecursionError:
        raise ValueError("config holds itself, and has no identity") from None


def _plain(value: Any, where: str, classes: bool) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0:
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, tuple | list):
        return [_plain(one, f"{where}[{i}]", classes) for i, one in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value)]
        named = {name: _plain(getattr(value, name), f"{where}.{name}", classes) for name in fields}
        # Two kinds of network may have the same fields; "class" is the name of none.
        return {"class": type(value).__name__} | named if classes else named
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(one, f"{where}[{name!r}]", classes) for name, one in value.items()}
    kind = type(value).__name__
    raise _check.WrongTypeError(
        f"{where} = {_check.shown(value)} has no identity: a {kind} is not data"
    )
