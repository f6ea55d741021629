"""The scan behind Repeat: what of it the backward pass finds in memory, and what it runs again."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

REMAT = ("none", "unit", "sqrt")

# Blocks without a remainder are taken where they need at most so much more memory than square
# ones: a remainder is a second loop, and a second loop is compiled as long as the first.
UNEVEN = 1.25
# Fewer units have so few inputs that keeping a third less is not worth a third run.
FEWEST = 9


def scan(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, n: int, remat: str
) -> tuple[Any, Any]:
    """Run ``jax.lax.scan(body, carry, xs, n)`` with less in memory for the backward pass."""
    if remat == "none":
        return jax.lax.scan(body, carry, xs, n)
    # Inside a loop XLA cannot merge the second run with the first, and needs no barrier for it.
    checkpoint = partial(jax.checkpoint, prevent_cse=False)
    unit = checkpoint(body)
    if remat == "unit" or n < FEWEST:
        return jax.lax.scan(unit, carry, xs, n)
    blocks, size = cut(n)

    def block(carry, xs):
        return jax.lax.scan(unit, carry, xs, size)

    whole = blocks * size
    folded = jax.tree.map(lambda a: a[:whole].reshape(blocks, size, *a.shape[1:]), xs)
    carry, ys = jax.lax.scan(checkpoint(block), carry, folded, blocks)
    ys = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), ys)
    if whole == n:
        return carry, ys
    # The backward pass is through with these units before it opens the first block.
    carry, last = jax.lax.scan(unit, carry, jax.tree.map(lambda a: a[whole:], xs), n - whole)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ys, last)


def cut(n: int) -> tuple[int, int]:
    """Return blocks and units in a block, both near the root of n; fewer than a block remain."""
    blocks = math.isqrt(n)
    even = next(b for b in range(blocks, 0, -1) if n % b == 0)
    if even + n // even <= UNEVEN * 2 * math.sqrt(n):
        return even, n // even
    return blocks, n // blocks
