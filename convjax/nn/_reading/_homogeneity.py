"""Of which degree a program is homogeneous: ``f(c x) = c^k f(x)`` for every c > 0."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from convjax._trace import is_variable, subprograms, words

KEEPS = words(
    "neg reshape broadcast_in_dim transpose squeeze expand_dims rev slice dynamic_slice gather "
    "reduce_sum reduce_max reduce_min reduce_window_max reduce_window_min reduce_window_sum cumsum "
    "cummax convert_element_type copy copy_p abs real reduce_precision optimization_barrier "
    "stop_gradient"
)
JOINS = words("add add_any sub max min concatenate pad")
COMPARES = words("gt lt ge le eq ne")
CALLS = frozenset(("custom_jvp_call", "custom_vjp_call", "jit", "pjit"))

ZERO = object()
"""The degree of zero, which is homogeneous of every degree."""


def degree(equations: Sequence[Any], entries: Sequence[Any], exit: Any) -> Any:
    """Return the degree of a program in its entries together; None where it has none."""
    return _run(equations, dict.fromkeys(entries, Fraction(1)), [exit])[0]


def _run(equations: Sequence[Any], degrees: dict[Any, Any], outputs: Sequence[Any]) -> list[Any]:
    """Return the degrees of some outputs; what is not among the inputs is constant."""

    def of(v: Any) -> Any:
        if not is_variable(v):
            return ZERO if np.ndim(v.val) == 0 and v.val == 0 else Fraction(0)
        return degrees.get(v, Fraction(0))

    for equation in equations:
        found = _step(equation, [of(v) for v in equation.invars])
        degrees.update(zip(equation.outvars, found, strict=True))
    return [of(v) for v in outputs]


def _step(equation: Any, given: list[Any]) -> list[Any]:
    name = equation.primitive.name
    if name in CALLS:
        (inner, *_) = subprograms(equation)
        if len(inner.invars) == len(given):
            return _run(inner.eqns, dict(zip(inner.invars, given, strict=True)), inner.outvars)
    return [_rule(name, equation.params, given)] * len(equation.outvars)


def _rule(name: str, parameters: Any, given: list[Any]) -> Any:
    constant = all(k is ZERO or k == 0 for k in given)
    if name in KEEPS:
        return given[0] if all(k is ZERO or k == 0 for k in given[1:]) else None
    if None in given:
        return None
    if name in JOINS:
        return _alike(given)
    if name in COMPARES:
        return None if _alike(given) is None else Fraction(0)
    if name == "select_n":
        choice, *cases = given
        return _alike(cases) if choice is ZERO or choice == 0 else None
    if name in ("mul", "dot_general", "conv_general_dilated"):
        return ZERO if ZERO in given else sum(given)
    if name == "div":
        return ZERO if given[0] is ZERO else None if given[1] is ZERO else given[0] - given[1]
    powers = {"square": 2, "sqrt": Fraction(1, 2), "rsqrt": Fraction(-1, 2)}
    powers["integer_pow"] = parameters.get("y", 0)
    if name in powers and given[0] is not ZERO:
        return given[0] * powers[name]
    return Fraction(0) if constant else None


def _alike(degrees: Sequence[Any]) -> Any:
    """Return the one degree of several terms, zeros aside; None if they have no common one."""
    found = [k for k in degrees if k is not ZERO]
    if None in found or len(set(found)) > 1:
        return None
    return found[0] if found else ZERO
