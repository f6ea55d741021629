"""What the leaves with a kernel share: making it, casting it, adding a bias."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from convjax.nn import initializers
from convjax.nn._node import Node

Sizes = int | Sequence[int]


def window(kernel_size: Sizes) -> tuple[int, ...]:
    """Read a kernel size: an int means a square window of two axes, a sequence one per axis."""
    size = (kernel_size,) * 2 if isinstance(kernel_size, int) else tuple(kernel_size)
    if not size or any(side < 1 for side in size):
        raise ValueError(f"kernel_size={kernel_size} must hold positive integers, one per axis")
    return size


def check_features(**features: int) -> None:
    """Refuse a channel count below one, by its name."""
    for name, value in features.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")


def frozen(sizes: Any) -> Any:
    """Make strides or padding hashable, so that a network's structure can key a compilation."""
    if isinstance(sizes, str | int):
        return sizes
    return tuple(tuple(p) if isinstance(p, Sequence) else p for p in sizes)


class Origin:
    """Where a leaf's values came from; theory asks for it.

    All origins are equal and hash alike: a network's structure keys compilations, and what its
    initial values were drawn by does not change what it computes.
    """

    def __init__(
        self,
        kernel_init: initializers.Initializer,
        bias_init: initializers.Initializer,
        groups: int,
    ):
        self.kernel_init = kernel_init
        self.bias_init = bias_init
        self.groups = groups

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    def __hash__(self) -> int:
        return hash(Origin)


class Kernel(Node):
    """What every leaf with a kernel shares: making it, casting it, adding a bias."""

    def _make(
        self,
        shape: tuple[int, ...],
        *,
        use_bias: bool,
        kernel_init: str | initializers.Initializer,
        bias_init: str | initializers.Initializer,
        groups: int,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        kernel_init = initializers.for_groups(initializers.get(kernel_init), groups)
        bias_init = initializers.get(bias_init)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        key = rngs.params()
        self.bias = nnx.Param(bias_init(key, shape[-1:], param_dtype)) if use_bias else None
        self.dtype = dtype
        self.origin = Origin(kernel_init, bias_init, groups)

    def _cast(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return input and kernel in the dtype of the computation."""
        dtype = self.dtype or jnp.promote_types(x.dtype, self.kernel[...].dtype)
        return x.astype(dtype), self.kernel[...].astype(dtype)

    def _finish(self, y: jax.Array) -> jax.Array:
        """Add the bias."""
        if self.bias is None:
            return y
        bias = self.bias[...].astype(y.dtype)
        return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
