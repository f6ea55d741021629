"""The precision of products, read where a call is made.

JAX's own operators read ``jax.default_matmul_precision`` when they are called. What is looked up
later, while a program is compiled, would not know what the call was surrounded by.
"""

from typing import Any

import jax
from jax import lax

from convjax import _check

Fixed = tuple[lax.Precision, lax.Precision] | lax.DotAlgorithm | lax.DotAlgorithmPreset

DEFAULT = (lax.Precision.DEFAULT, lax.Precision.DEFAULT)
_NAMES = (
    "default",
    "fastest",
    "bfloat16",
    "high",
    "bfloat16_3x",
    "tensorfloat32",
    "highest",
    "float32",
)


def fix(op: str, precision: Any) -> Fixed:
    """Return the precision of both operands, as `jax.lax` understands an argument of that name.

    None is what `jax.default_matmul_precision` says now.

    Raises:
        ValueError: if it is a name that lax does not know.
        WrongTypeError: if it is nothing that lax takes.
    """
    if precision is None:
        precision = jax.config.jax_default_matmul_precision  # pyright: ignore
        return DEFAULT if precision is None else fix("jax.default_matmul_precision", precision)
    if isinstance(precision, lax.DotAlgorithm | lax.DotAlgorithmPreset):
        return precision
    if isinstance(precision, str) and precision in lax.DotAlgorithmPreset.__members__:
        return lax.DotAlgorithmPreset[precision]
    given = precision if isinstance(precision, list | tuple) else (precision, precision)
    kinds = {type(entry) for entry in given}
    if len(given) != 2 or kinds not in ({str}, {lax.Precision}):
        _check.wrong_type(
            f"{op}: precision",
            precision,
            "None, a name such as 'highest', a jax.lax.Precision, or a pair of names or of those",
        )
    for entry in given:
        if isinstance(entry, str) and entry not in _NAMES:
            _check.refuse(f"{op}: precision", entry, _NAMES)
    first, second = (lax.Precision(entry) for entry in given)
    return first, second
