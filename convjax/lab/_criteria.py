"""Criterion: one thing that an experiment must show, and whether it did."""

import dataclasses
import math

import numpy as np

from convjax import _check

Number = int | float | np.number


@dataclasses.dataclass(frozen=True)
class Criterion:
    """One thing that an experiment must show.

    Attributes:
      claim: what must hold, in words that a reader understands without the code.
      measured: what was found, as text.
      expected: what it had to be, as text.
      holds: whether it was.
    """

    claim: str
    measured: str
    expected: str
    holds: bool


def within(
    claim: str,
    measured: Number,
    expected: Number,
    *,
    relative: Number | None = None,
    absolute: Number | None = None,
    why: str = "",
) -> Criterion:
    """Ask that a number lie near another.

    Args:
      claim: what must hold.
      measured: the number found.
      expected: the number it must be near.
      relative: how far it may be away, as a share of the expected.
      absolute: how far it may be away, in its own units; one of the two must be given.
      why: where the tolerance comes from, such as "3 s.e.".

    Raises:
      ValueError: not one of relative and absolute, but both or none; one that is negative or not
        finite.

    Example:
      >>> from convjax import lab
      >>> lab.within("gain of a layer", 1.02, 1.0, relative=0.03)
      Criterion(claim='gain of a layer', measured='1.02', expected='1 ± 3%', holds=True)
    """
    if (relative is None) == (absolute is None):
        raise ValueError("give relative or absolute, one of the two")
    if relative is not None:
        away = abs(expected) * _check.number("relative", relative, least=0)
    else:
        away = _check.number("absolute", absolute, least=0)
    tolerance = f"{relative:.0%}" if relative is not None else digits(away)
    return Criterion(
        claim,
        digits(measured),
        f"{digits(expected)} ± {tolerance}{f' ({why})' if why else ''}",
        # An infinity is near nothing.
        bool(math.isfinite(expected) and abs(measured - expected) <= away),
    )


def within_errors(
    claim: str, measured: Number, expected: Number, error: Number, *, errors: Number = 3.0
) -> Criterion:
    """Ask that a mean lie within so many standard errors of what theory says.

    Args:
      claim: what must hold.
      measured: the mean.
      expected: what it must be near.
      error: the mean's standard error; where it is not finite, the criterion fails.
      errors: how many of them it may be away.

    Raises:
      ValueError: a negative error; errors that are negative or not finite.

    Example:
      >>> from convjax import lab
      >>> lab.within_errors("ratio", 1.25, 1.0, error=0.1).expected
      '1 ± 0.3 (3 s.e.)'
    """
    errors = _check.number("errors", errors, least=0)
    if not math.isfinite(error):
        unknown = f"{digits(expected)}, but its standard error is {error}: too few seeds?"
        return Criterion(claim, digits(measured), unknown, False)
    away = errors * _check.number("error", error, least=0)
    return within(claim, measured, expected, absolute=away, why=f"{errors:g} s.e.")


def that(claim: str, holds: bool | np.bool_, measured: str, expected: str) -> Criterion:
    """Ask for anything else, in words.

    Args:
      claim: what must hold.
      holds: whether it does.
      measured: what was found.
      expected: what it had to be.

    Raises:
      WrongTypeError: holds is neither True nor False.

    Example:
      >>> from convjax import lab
      >>> lab.that("the gain falls", 1.2 < 1.5, "1.5, 1.2", "falling").holds
      True
    """
    return Criterion(claim, measured, expected, _check.flag("holds", holds))


def digits(value: Number, count: int = 4) -> str:
    """Write a number with so many significant digits.

    Args:
      value: the number.
      count: how many digits.

    Example:
      >>> from convjax import lab
      >>> lab.digits(0.123456), lab.digits(1e9, 2)
      ('0.1235', '1e+09')
    """
    return f"{value:.{count}g}"
