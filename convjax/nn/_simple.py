"""Leaves without a kernel: identity, scale, activations, pools, the parameter-free shortcut."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from convjax import _check, ops
from convjax.nn._activations import ACTIVATIONS, keepable
from convjax.nn._draw import full
from convjax.nn._held import check_held
from convjax.nn._kernel import Sizes
from convjax.nn._node import Node

KINDS = ("max", "avg")


class Identity(Node):
    """Hand on the input: the identity shortcut, and the norm called "none".

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import nn
      >>> nn.Identity()(jnp.array([[1.5]])).tolist()
      [[1.5]]
    """

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Return ``x``."""
        return _check.array("x", x)


class Scale(Node):
    """Multiply by one number, fixed or learned, or by a learned one for each channel.

    Formula: ``value * x``, or ``value[c] * x[..., c]``. SkipInit and ReZero learn one number from
    0, layer scale a number per channel from 1e-6.

    Args:
      value: the number, or its initial value.
      learnable: whether it is a parameter.
      features: channels of the input, to learn one number for each; None for one in all.
      param_dtype: dtype of the parameter.

    Raises:
      ValueError: ``features`` below one, or of a fixed scale; in the call, an input with another
        number of channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import nn
      >>> nn.Scale(0.5)(jnp.array([[3.0]])).tolist()
      [[1.5]]
      >>> nn.Scale(1e-6, learnable=True, features=4).value.shape
      (4,)

    Reference: De and Smith 2020 (SkipInit); Bachlechner et al. 2020 (ReZero); Touvron et al. 2021
    (layer scale).
    """

    def __init__(
        self,
        value: float,
        *,
        learnable: bool = False,
        features: int | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        value = _check.number("value", value)
        param_dtype = _check.dtype("param_dtype", param_dtype)
        shape = ()
        if features is not None:
            features = _check.integer("features", features, 1)
            shape = (features,)
        if not _check.flag("learnable", learnable):
            if features is not None:
                raise ValueError(
                    f"features={features} is for numbers that are learned; give learnable=True, or "
                    "no features"
                )
            self.value = value
        else:
            one = jnp.zeros((), param_dtype)
            check_held(f"features={features}", shape, param_dtype, one)
            self.value = nnx.Param(full(shape, value, param_dtype))
        self.features = features

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Multiply."""
        x = _check.array("x", x)
        value = self.value[...] if isinstance(self.value, nnx.Param) else self.value
        value = jnp.asarray(value, x.dtype)
        if self.features is None:
            return x * value
        if x.shape[-1] != self.features:
            raise ValueError(f"Scale: x has {x.shape[-1]} channels, the scale {self.features}")
        return x * value.reshape((1,) * (x.ndim - 1) + (self.features,))


class Activation(Node):
    """An elementwise function, by name or as a callable.

    Args:
      function: one of ``nn.ACTIVATIONS`` (``"gelu"`` is its usual approximation by tanh,
        ``"exact_gelu"`` the function itself) or a callable from array to array.

    Raises:
      ValueError: an unknown name.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import nn
      >>> nn.Activation("relu")(jnp.array([[-1.0, 2.0]])).tolist()
      [[0.0, 2.0]]
    """

    def __init__(self, function: str | Callable[[jax.Array], jax.Array]):
        if isinstance(function, str):
            self.name = _check.choice("Activation: function", function, ACTIVATIONS)
            self.function = keepable(ACTIVATIONS[function])
        else:
            right = f"a function of an array, or one of {', '.join(ACTIVATIONS)}"
            _check.function("function", function, right)
            named = function.func if isinstance(function, functools.partial) else function
            name = getattr(named, "__name__", "function")
            # A function that bears a known name is not that function.
            own = ACTIVATIONS.get(name, function) is not function
            self.name = f"{name} (own)" if own else name
            self.function = keepable(function)

    @property
    def _kind(self) -> str:
        return self.name

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Apply the function."""
        return self.function(_check.array("x", x))


class Pool(Node):
    """Largest or mean value of every window.

    Args:
      kind: ``"max"`` or ``"avg"``.
      window_shape: window, one integer, or one per spatial axis.
      strides: steps between windows; None means the window, so that windows are disjoint.
      padding: as in ``ops.max_pool``.
      count_include_pad: whether padded zeros count in a mean.
      zero_pad: whether a maximum sees zeros beyond the edge; otherwise it sees minus infinity.

    Raises:
      ValueError: an unknown kind; in the call, what the pool raises.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import nn
      >>> nn.Pool("avg", (2, 2))(jnp.arange(8.0).reshape(1, 2, 4, 1)).ravel().tolist()
      [2.5, 4.5]
    """

    def __init__(
        self,
        kind: str,
        window_shape: Sizes,
        *,
        strides: Sizes | None = None,
        padding: Any = "VALID",
        count_include_pad: bool = True,
        zero_pad: bool = False,
    ):
        self.kind = _check.choice("kind", kind, KINDS)
        self.window_shape = _check.sizes("window_shape", window_shape)
        rank = len(self.window_shape) if isinstance(self.window_shape, tuple) else None
        self.strides = None if strides is None else _check.sizes("strides", strides, rank=rank)
        self.padding = _check.padding("padding", padding, rank=rank)
        self.count_include_pad = _check.flag("count_include_pad", count_include_pad)
        self.zero_pad = _check.flag("zero_pad", zero_pad)

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Pool."""
        how = {"strides": self.strides, "padding": self.padding}
        if self.kind == "max":
            return ops.max_pool(x, self.window_shape, zero_pad=self.zero_pad, **how)
        return ops.avg_pool(x, self.window_shape, count_include_pad=self.count_include_pad, **how)


class GlobalPool(Node):
    """Largest or mean value over all places: ``(N, *spatial, C)`` to ``(N, C)``.

    Args:
      kind: ``"max"`` or ``"avg"``.
      keepdims: whether the spatial axes stay, with length one.

    Raises:
      ValueError: an unknown kind.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import nn
      >>> nn.GlobalPool("avg")(jnp.arange(6.0).reshape(1, 3, 2)).tolist()
      [[2.0, 3.0]]
    """

    def __init__(self, kind: str = "avg", *, keepdims: bool = False):
        self.kind = _check.choice("kind", kind, KINDS)
        self.keepdims = _check.flag("keepdims", keepdims)

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Pool."""
        pool = ops.global_max_pool if self.kind == "max" else ops.global_avg_pool
        return pool(x, keepdims=self.keepdims)


class CellPool(Node):
    """The mean over every cell of a grid laid over the image, whatever the image's size.

    Cells overlap where the image is no multiple of the grid, and an image smaller than the grid is
    enlarged (PyTorch's adaptive pool).

    Args:
      side: cells along each axis.

    Raises:
      ValueError: ``side`` below one.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import nn
      >>> nn.CellPool(2)(jnp.arange(3.0).reshape(1, 3, 1)).ravel().tolist()
      [0.5, 1.5]
    """

    def __init__(self, side: int):
        self.side = _check.integer("side", side, 1)

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Pool."""
        x = _check.array("x", x)
        for axis in range(1, x.ndim - 1):
            if x.shape[axis] != self.side:
                shares = jnp.asarray(self.shares(x.shape[axis]), x.dtype)
                x = jnp.moveaxis(jnp.tensordot(shares, x, (1, axis)), 0, axis)
        return x

    def shares(self, size: int) -> np.ndarray:
        """Return the share of every place in every cell along one axis, ``(side, size)``."""
        cells = np.arange(self.side)[:, None]
        places = np.arange(size)
        first, after = cells * size // self.side, -(-(cells + 1) * size // self.side)
        inside = (places >= first) & (places < after)
        return inside / inside.sum(axis=1, keepdims=True)


class Upsample(Node):
    """Enlarge an image by a whole factor, bilinearly.

    The centres of the first and the last cell are where they were, and beyond them the border's
    value goes on (PyTorch's ``align_corners=False``).

    Args:
      scale: the factor, along each axis.

    Raises:
      ValueError: ``scale`` below one.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import nn
      >>> nn.Upsample(2)(jnp.array([1.0, 3.0]).reshape(1, 2, 1)).ravel().tolist()
      [1.0, 1.5, 2.5, 3.0]
    """

    def __init__(self, scale: int):
        self.scale = _check.integer("scale", scale, 1)

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Enlarge."""
        x = _check.array("x", x)
        for axis in range(1, x.ndim - 1):
            shares = jnp.asarray(self.shares(x.shape[axis]), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(shares, x, (1, axis)), 0, axis)
        return x

    def shares(self, size: int) -> np.ndarray:
        """Return the share of every place in every new one along one axis, ``(out, size)``."""
        centre = (np.arange(size * self.scale) + 0.5) / self.scale - 0.5
        centre = np.clip(centre, 0, size - 1)
        return np.maximum(1 - np.abs(centre[:, None] - np.arange(size)), 0)


class Channels(Node):
    """Hand on some channels, in any order: ``x[..., indices]``.

    A half of them, say, or all in turns (a channel shuffle).

    Args:
      indices: which channel of the input each one of the output is; none stands twice.

    Raises:
      ValueError: no index, a negative one or one that stands twice; in the call, an input with
        fewer channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import nn
      >>> nn.Channels((2, 0))(jnp.array([[1.0, 2.0, 3.0]])).tolist()
      [[3.0, 1.0]]
    """

    def __init__(self, indices: Sequence[int]):
        indices = list(indices) if isinstance(indices, range) else indices
        self.indices = _check.integers("indices", indices, least=0)
        if not self.indices or len({*self.indices}) < len(self.indices):
            raise ValueError(f"indices={self.indices} must be one or more, none of them twice")

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Take the channels."""
        x = _check.array("x", x)
        if x.shape[-1] <= max(self.indices):
            raise ValueError(f"Channels: x has {x.shape[-1]} channels, no {max(self.indices)}")
        first = self.indices[0]
        if self.indices == tuple(range(first, first + len(self.indices))):
            return x[..., first : first + len(self.indices)]
        return jnp.take(x, jnp.asarray(self.indices), axis=-1, unique_indices=True, mode="clip")


class ZeroPadShortcut(Node):
    """The parameter-free shortcut across a change of shape (He's option A).

    Every ``strides``-th place of the input, with zeros for the channels that it lacks.

    Args:
      in_features: channels of the input.
      out_features: channels of the output, at least as many.
      strides: steps between the places that are kept.

    Raises:
      ValueError: fewer channels out than in.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import nn
      >>> nn.ZeroPadShortcut(1, 2, strides=2)(jnp.arange(4.0).reshape(1, 4, 1)).tolist()
      [[[0.0, 0.0], [2.0, 0.0]]]

    Reference: He et al., Deep Residual Learning for Image Recognition, 2015, section 3.3.
    """

    def __init__(self, in_features: int, out_features: int, *, strides: int = 1):
        in_features = _check.integer("in_features", in_features, 1)
        out_features = _check.integer("out_features", out_features, 1)
        strides = _check.integer("strides", strides, 1)
        if out_features < in_features:
            raise ValueError(
                f"out_features={out_features} must be at least in_features={in_features}: "
                "zero padding cannot take channels away; use a projection"
            )
        self.extra = out_features - in_features
        self.strides = strides

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Subsample and pad."""
        x = _check.array("x", x)
        x = x[:, *(slice(None, None, self.strides),) * (x.ndim - 2), :]
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, self.extra)])
