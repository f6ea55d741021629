"""Ticks of logarithmic axes, named by numbers that a person reads: 0.3, 1, 3; far away 10^-6."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import Formatter, Locator, MaxNLocator, NullLocator

STEPS = (1, 2, 2.5, 5, 10)
FAR = 3.5
"""Where powers of ten are easier to read than their zeros."""


def ticks(low: float, high: float, most: int) -> tuple[list[float], list[str]]:
    """Return places between two exponents of ten, as exponents, and what they are called."""
    if high - low >= 2.5:
        places = np.asarray(MaxNLocator(most, integer=True).tick_values(low, high))
    elif high - low >= 0.9:
        digits = np.log10([1.0, 2.0, 5.0] if (high - low) * 3 < most else [1.0, 3.0])
        decades = np.arange(np.floor(low), np.ceil(high))
        places = (decades[:, None] + digits).ravel()
    else:
        # Powers of ten may lie beyond all floats; the numbers between them do not.
        whole = np.floor(low)
        values = np.asarray(
            MaxNLocator(most, steps=STEPS).tick_values(
                10.0 ** (low - whole), 10.0 ** (high - whole)
            )
        )
        places = whole + np.log10(values[values > 0])
    inside = places[(low - 1e-9 <= places) & (places <= high + 1e-9)].tolist()
    return inside, names(inside)


def names(exponents: Sequence[float]) -> list[str]:
    """Return what the powers of ten of an axis are called, all in one way."""
    if all(-FAR < exponent < FAR for exponent in exponents):
        return [f"{10**exponent:.4g}" for exponent in exponents]
    return [_power(exponent) for exponent in exponents]


def _power(exponent: float) -> str:
    whole = round(exponent)
    if abs(exponent - whole) < 1e-6:
        return f"$10^{{{whole}}}$" if whole else "1"
    whole = int(np.floor(exponent))
    return f"${10 ** (exponent - whole):.4g}\\times10^{{{whole}}}$"


class Ticks(Locator):
    """About ``most`` ticks of an axis whose values are numbers, or their exponents of ten."""

    def __init__(self, most: int, powers: bool):
        self.most = most
        self.powers = powers

    def __call__(self) -> Any:
        """Return the places within the axis."""
        assert self.axis is not None
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Return the places between two ends."""
        low, high = sorted((vmin, vmax))
        if self.powers:
            return np.array(ticks(low, high, self.most)[0])
        if not 0 < low < high < np.inf:
            return np.array([])
        places, _ = ticks(float(np.log10(low)), float(np.log10(high)), self.most)
        return 10.0 ** np.array(places)


class Names(Formatter):
    """What the ticks of an axis are called."""

    def __init__(self, powers: bool):
        self.powers = powers

    def format_ticks(self, values: Any) -> list[str]:
        """Return the names of all ticks of the axis, all in one way."""
        return names(list(values) if self.powers else np.log10(values).tolist())

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the name of one."""
        (name,) = self.format_ticks([x])
        return name


def put(axis: Axis, *, powers: bool, most: int = 6) -> None:
    """Put such ticks on an axis, which is logarithmic or, of powers, linear."""
    axis.set_major_locator(Ticks(most, powers))
    axis.set_major_formatter(Names(powers))
    axis.set_minor_locator(NullLocator())
