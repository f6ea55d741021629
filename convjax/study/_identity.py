"""key: what tells one cell of a study from another."""

import dataclasses
import enum
import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np


def canonical(value: Any) -> str:
    """Return a configuration as text that is the same for equal ones, and differs for others.

    Args:
      value: a dataclass of numbers, text, truth values, None, paths, enumerations, dtypes, and
        tuples, lists, mappings and dataclasses of such. Tuple and list are one, and so are
        numpy's numbers and Python's; 1 and 1.0 are not, nor 0.0 and -0.0.

    Returns:
      JSON without blanks, its keys sorted; numbers written so that they are read back exactly.

    Raises:
      TypeError: a value of another kind; the message says where it stands.

    Example:
      >>> import dataclasses
      >>> from convjax import study
      >>> @dataclasses.dataclass(frozen=True)
      ... class Config:
      ...     width: int = 8
      ...     rates: tuple[float, ...] = (0.1, 1e-4)
      >>> study.canonical(Config())
      '{"rates":[0.1,0.0001],"width":8}'
    """
    return json.dumps(plain(value, "config"), sort_keys=True, separators=(",", ":"))


def key(config: Any, version: str) -> str:
    """Return the identity of a cell: a hash of its configuration and of the code's version.

    Args:
      config: as for ``canonical``.
      version: of the code that measures, as ``study.version`` returns it.

    Returns:
      Forty hexadecimal digits.

    Raises:
      TypeError: as ``canonical``.

    Example:
      >>> from convjax import study
      >>> study.key({"depth": 8}, "1") == study.key({"depth": 8}, "2")
      False
    """
    text = f"{version}\n{canonical(config)}"
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def plain(value: Any, where: str) -> Any:
    """Return a value as JSON holds it; ``where`` is for the message of what it cannot hold."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, np.generic):
        return plain(value.item(), where)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        # JSON has no such numbers, and text would be mistaken for text.
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, tuple | list):
        return [plain(one, f"{where}[{i}]") for i, one in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: plain(getattr(value, name), f"{where}.{name}") for name in names}
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: plain(one, f"{where}[{name!r}]") for name, one in value.items()}
    raise TypeError(f"{where} = {value!r} has no identity: a {type(value).__name__} is not data")
