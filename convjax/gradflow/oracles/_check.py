"""What arguments of oracles may be: refused here, once, for all of them."""

import math

import numpy as np
from numpy.typing import ArrayLike

Number = float | int | np.floating | np.integer
Count = int | np.integer


def number(name: str, value: Number, *, least: float = 0.0, above: bool = False) -> float:
    """Return a finite number of at least (or above) a bound."""
    found = float(value)
    if not math.isfinite(found) or found < least or (above and found == least):
        bound = f"greater than {least:g}" if above else f"at least {least:g}"
        raise ValueError(f"{name}={value} must be finite and {bound}")
    return found


def count(name: str, value: Count, least: int) -> int:
    """Return an integer of at least a bound."""
    if value < least:
        raise ValueError(f"{name}={value} must be at least {least}")
    return int(value)


def correlation(name: str, value: Number) -> float:
    """Return a number in [-1, 1]."""
    if not -1 <= value <= 1:
        raise ValueError(f"{name}={value} must be a correlation, from -1 to 1")
    return float(value)


def gains(name: str, values: ArrayLike) -> np.ndarray:
    """Return one axis of finite numbers that are not negative."""
    found = np.asarray(values, np.float64)
    if found.ndim != 1:
        raise ValueError(f"{name} has shape {found.shape}; give one axis, one gain for each branch")
    wrong = ~(np.isfinite(found) & (found >= 0))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(f"{name}[{i}]={found[i]} must be finite and at least 0")
    return found
