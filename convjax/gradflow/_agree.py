"""Whether a rule that was registered from elsewhere computes what its module computes."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from convjax.gradflow._norm import at_least_float32


def called_as_a_whole(node: Any, x: jax.Array, scope: Any) -> jax.Array | None:
    """Return what a node gives by itself, without moving it; None where it is random.

    A rule may use random numbers in another order than the module, which says nothing of either.
    """
    if scope.train and scope.rngs is not None:
        return None
    copy: Any = nnx.clone(node)
    rngs = None if scope.rngs is None else nnx.clone(scope.rngs)
    return copy(jax.lax.stop_gradient(x), train=scope.train, rngs=rngs)


def agreeing(name: str, x: jax.Array, reference: jax.Array | None) -> jax.Array:
    """Return what a rule gives; NaN where the module gives something else.

    Shapes and dtypes are known, and refused, while JAX traces. Values are not.
    """
    if reference is None:
        return x
    if (x.shape, x.dtype) != (reference.shape, reference.dtype):
        raise ValueError(
            f"{name} gives {x.dtype} of the shape {x.shape}, the module itself "
            f"{reference.dtype} of the shape {reference.shape}; a rule must compute what its "
            "module computes"
        )
    wide = at_least_float32(x.dtype)
    own, other = (jax.lax.stop_gradient(a).astype(wide) for a in (x, reference))
    off = jnp.max(jnp.abs(own - other), initial=0.0)
    size = jnp.max(jnp.abs(other), initial=0.0)
    close = off <= size * float(jnp.finfo(x.dtype).eps) ** 0.5
    # JAX 0.12 on CPU may make minus infinity of the maximum of NaN.
    close &= (jnp.isnan(own) == jnp.isnan(other)).all()
    return jnp.where(close, x, jnp.full_like(x, jnp.nan))
