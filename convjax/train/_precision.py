"""Mixed precision: what is computed in fewer bits, what is not, and the scale of the loss."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from convjax import nn

PRECISIONS = ("float32", "bfloat16", "float16")
NORM_LEAVES = (nn.BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.ResponseNorm)

# As in Micikevicius et al. 2018: doubled after so many steps without overflow, halved at one.
LARGEST = 2.0**24
FIRST = 2.0**15
GROWS_AFTER = 2000


def lower(net: nnx.Module, precision: str) -> None:
    """Cast the parameters of a network to a precision in place, those of its norms excepted.

    A leaf computes in the dtype of its input and parameters, and a norm in float32 whatever comes
    in; so this and an input of that precision is all that mixed precision needs. In a network of
    another framework the parameters of norms are cast as well: with others they would hand on
    float32, and what follows would compute in it.
    """
    if precision == "float32":
        return
    if not isinstance(net, nn.Node):
        nnx.update(net, _cast(nnx.state(net, nnx.Param), precision))
        return
    for _, node, _ in nn.walk(net):
        if isinstance(node, NORM_LEAVES) or any(True for _ in nn.children(node)):
            continue
        nnx.update(node, _cast(nnx.state(node, nnx.Param), precision))


def _cast(params: Any, precision: str) -> Any:
    return jax.tree.map(lambda a: a.astype(precision), params)


def first_scale(precision: str) -> dict[str, jax.Array] | None:
    """Return the loss scale to begin with; None where the range needs none."""
    if precision != "float16":
        return None
    return {"value": jnp.float32(FIRST), "good": jnp.int32(0)}


def next_scale(scale: dict[str, jax.Array], finite: jax.Array) -> dict[str, jax.Array]:
    """Return the loss scale after a step whose gradients were finite or not."""
    good = jnp.where(finite, scale["good"] + 1, 0)
    grown = good >= GROWS_AFTER
    value = jnp.where(finite, scale["value"], scale["value"] / 2)
    value = jnp.clip(jnp.where(grown, value * 2, value), 1.0, LARGEST)
    return {"value": value, "good": jnp.where(grown, 0, good)}


def all_finite(tree: Any) -> jax.Array:
    """Whether no leaf holds a NaN or an infinity."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))


def chosen(condition: jax.Array, yes: Any, no: Any) -> Any:
    """Return one of two trees of equal structure."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
