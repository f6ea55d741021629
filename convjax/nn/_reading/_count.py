"""How much one equation of a program computes."""

import math
from typing import Any, NamedTuple

from convjax._trace import subprograms, words


class Count(NamedTuple):
    """What one equation computes.

    Attributes:
      multiply_adds: multiplications that are added up, in convolutions and matrix products.
      elementwise: all other operations, one for each entry that is made or summed.
      opaque: whether it runs a program whose operations are not counted.
    """

    multiply_adds: int
    elementwise: int
    opaque: bool


MOVES = words(
    "reshape broadcast_in_dim transpose squeeze expand_dims convert_element_type copy copy_p "
    "slice dynamic_slice gather pad concatenate rev iota select_n stop_gradient"
)


def count(equation: Any) -> Count:
    """Return what one equation computes, from its shapes alone."""
    name, result = equation.primitive.name, equation.outvars[0].aval
    if name == "conv_general_dilated":
        numbers, kernel = equation.params["dimension_numbers"], equation.invars[1].aval.shape
        each = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
        return Count(math.prod(result.shape) * each, 0, False)
    if name == "dot_general":
        (mine, _), _ = equation.params["dimension_numbers"]
        each = math.prod(equation.invars[0].aval.shape[axis] for axis in mine)
        return Count(math.prod(result.shape) * each, 0, False)
    if subprograms(equation):
        inner = [count(e) for program in subprograms(equation) for e in program.eqns]
        loops = name in ("scan", "while", "cond")
        total = (sum(c.multiply_adds for c in inner), sum(c.elementwise for c in inner))
        return Count(*total, loops or any(c.opaque for c in inner))
    if name in MOVES:
        return Count(0, 0, False)
    return Count(
        0, max(math.prod(v.aval.shape) for v in (*equation.invars, *equation.outvars)), False
    )
