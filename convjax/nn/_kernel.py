"""What the leaves with a kernel share: making it, casting it, adding a bias."""

import pickle
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from convjax import _check
from convjax.nn import initializers
from convjax.nn._held import check_held
from convjax.nn._node import Node, check_streams

Sizes = int | Sequence[int]


def window(kernel_size: Sizes) -> tuple[int, ...]:
    """Read a kernel size: an int means a square window of two axes, a sequence one per axis."""
    found = _check.sizes("kernel_size", kernel_size)
    size = (found,) * 2 if isinstance(found, int) else found
    if len(size) > 3:
        raise ValueError(f"kernel_size={size} has {len(size)} entries; a window has 1 to 3 axes")
    return size


def check_groups(feature_group_count: int, in_features: int, out_features: int) -> int:
    """Return the groups of a convolution; they must divide its channels."""
    groups = _check.integer("feature_group_count", feature_group_count, 1)
    if in_features % groups or out_features % groups:
        raise ValueError(
            f"feature_group_count={groups} must divide in_features={in_features} and "
            f"out_features={out_features}"
        )
    return groups


class Origin:
    """Where a leaf's values came from; theory asks for it.

    All origins are equal and hash alike: a network's structure keys compilations, and where its
    initial values came from does not change what it computes. An initialiser that cannot be
    pickled, such as a closure, is None in a network that was.
    """

    def __init__(
        self,
        kernel_init: initializers.Initializer | None,
        bias_init: initializers.Initializer | None,
        groups: int,
    ):
        self.kernel_init = kernel_init
        self.bias_init = bias_init
        self.groups = groups

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    def __hash__(self) -> int:
        return hash(Origin)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Origin":
        return self

    def __reduce__(self):
        return Origin, (_picklable(self.kernel_init), _picklable(self.bias_init), self.groups)


def _picklable(init: initializers.Initializer | None) -> initializers.Initializer | None:
    try:
        pickle.dumps(init)
    except Exception:
        return None
    return init


def drawn(
    argument: str,
    init: initializers.Initializer,
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike,
) -> jax.Array:
    """Return an initialiser's array; refuse what is none, such as one that was not called yet."""
    right = "an initialiser, which init(key, shape, dtype) makes an array of, or its name"
    try:
        values = init(key, shape, dtype)
    except TypeError as error:
        if isinstance(error, _check.WrongTypeError):
            raise
        raise _check.WrongTypeError(f"{argument}={_check.shown(init)} must be {right}") from error
    if isinstance(values, np.ndarray):
        values = jnp.asarray(values)
    if not isinstance(values, jax.Array) or values.shape != shape:
        made = _check.shown(values)
        raise ValueError(f"{argument}={_check.shown(init)} must be {right}; it made {made}")
    return values


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
        kernel_init = initializers.get(kernel_init, argument="kernel_init")
        kernel_init = initializers.for_groups(kernel_init, groups)
        bias_init = initializers.get(bias_init, argument="bias_init")
        use_bias = _check.flag("use_bias", use_bias)
        self.dtype = None if dtype is None else _check.dtype("dtype", dtype)
        param_dtype = _check.dtype("param_dtype", param_dtype)
        rngs = check_streams(rngs)
        *sides, in_features, out_features = shape
        what = f"in_features={in_features * groups}, out_features={out_features}"
        what = f"kernel_size={tuple(sides)}, {what}" if sides else what
        key = rngs.params()
        check_held(what, shape, param_dtype, key)
        self.kernel = nnx.Param(drawn("kernel_init", kernel_init, key, shape, param_dtype))
        key, bias = rngs.params(), None
        if use_bias:
            bias = nnx.Param(drawn("bias_init", bias_init, key, shape[-1:], param_dtype))
        self.bias = bias
        self.origin = Origin(kernel_init, bias_init, groups)

    def _slide(
        self,
        rank: int,
        strides: Sizes,
        padding: Any,
        kernel_dilation: Sizes,
        paddings: Sequence[str] = _check.PADDINGS,
    ) -> None:
        self.strides = _check.sizes("strides", strides, rank=rank)
        self.padding = _check.padding("padding", padding, rank=rank, known=paddings)
        self.kernel_dilation = _check.sizes("kernel_dilation", kernel_dilation, rank=rank)

    def _cast(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return input and kernel in the dtype of the computation."""
        x = _check.array("x", x)
        dtype = self.dtype
        if dtype is None:
            dtype = jnp.promote_types(x.dtype, self.kernel[...].dtype)
        return x.astype(dtype), self.kernel[...].astype(dtype)

    def _finish(self, y: jax.Array) -> jax.Array:
        """Add the bias."""
        if self.bias is None:
            return y
        bias = self.bias[...].astype(y.dtype)
        return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
