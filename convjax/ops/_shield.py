"""The identity, through which XLA's CPU compiler does not see.

JAX 0.12 computes a product or convolution wrongly on CPU whose right operand is one repeated number
and whose result is summed in the same program (YNNPACK's reduction fusion). What has passed through
here is no repeated number to the compiler, and its cotangent is none either.

The same fusion loses NaN: ``relu(x).sum()`` of NaN is 0 under jit. What is summed over whole images
or channels passes through here first, so that no activation is fused with the sum.

On other platforms nothing is left of it in the program.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import jet
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from convjax._trace import PLAIN

_shield = Primitive("shield")
_shield.def_impl(lambda a: a)
_shield.def_abstract_eval(lambda a: a)


def shield(a: Any) -> Any:
    """Return an array, of which the CPU's compiler then knows its shape alone."""
    return _shield.bind(a)


def shielded(product: Callable[..., jax.Array], a: Any, b: Any) -> jax.Array:
    """Return the product of two arrays, which is right with all its derivatives."""
    if not jnp.issubdtype(a.dtype, jnp.floating):
        return product(a, b)
    return shield(product(shield(a), shield(b)))


ad.deflinear2(_shield, lambda cotangent, _: [shield(cotangent)])
jet.deflinear(_shield)
PLAIN[_shield.name] = lambda a: a
batching.primitive_batchers[_shield] = lambda operands, axes: (shield(*operands), *axes)
for platform, lowered in ((None, lambda a: a), ("cpu", lax.optimization_barrier)):
    rule = mlir.lower_fun(lowered, multiple_results=False)
    mlir.register_lowering(_shield, rule, platform=platform)
