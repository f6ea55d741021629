"""What arguments of oracles may be: refused here, once, for all of them."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from convjax import _check

Number = float | int | np.floating | np.integer
Count = int | np.integer


def number(name: str, value: Number, *, least: float = 0.0, above: bool = False) -> float:
    """Return a finite number of at least (or above) a bound."""
    if least == -math.inf:
        return _check.number(name, value)
    return (
        _check.number(name, value, above=least)
        if above
        else _check.number(name, value, least=least)
    )


def count(name: str, value: Count, least: int) -> int:
    """Return an integer of at least a bound."""
    return _check.integer(name, value, least)


def counts(
    name: str, value: Count | Sequence[int] | np.ndarray, times: int, length: int | None = None
) -> tuple[int, ...]:
    """Return positive integers: one of them ``times``, or a sequence of one for each."""
    if not hasattr(value, "__iter__") or getattr(value, "shape", None) == ():
        return (_check.integer(name, value, 1),) * times
    return _check.integers(name, value, least=1, length=length)


def correlation(name: str, value: Number) -> float:
    """Return a number in [-1, 1]."""
    return _check.number(name, value, least=-1, most=1)


def numbers(name: str, values: ArrayLike, shape: str) -> np.ndarray:
    """Return an array of finite real numbers; ``shape`` says what it should be."""
    try:
        found = np.asarray(values)
    except ValueError:
        found = np.asarray(None)
    if found.dtype.kind not in "iuf":
        _check.wrong_type(name, values, shape)
    found = found.astype(np.float64)
    if not np.isfinite(found).all():
        wrong = found[~np.isfinite(found)][0]
        raise ValueError(f"{name} holds {wrong} in {_check.shown(values)}; it must be finite")
    return found


def gains(name: str, values: ArrayLike) -> np.ndarray:
    """Return one axis of finite numbers that are not negative."""
    found = numbers(name, values, "one axis of numbers, one gain for each branch")
    if found.ndim != 1:
        raise ValueError(
            f"{name}={_check.shown(values)} has shape {found.shape}; give one axis, one gain for "
            "each branch"
        )
    if (found < 0).any():
        i = int(np.argmax(found < 0))
        raise ValueError(f"{name}[{i}]={found[i]} must be finite and at least 0")
    return found
