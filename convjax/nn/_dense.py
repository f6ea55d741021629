"""The leaves with a kernel that is no forward convolution: transposed, and dense."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from convjax import ops
from convjax.nn import initializers
from convjax.nn._kernel import Kernel, Sizes, check_features, frozen, window


class ConvTranspose(Kernel):
    """Transposed convolution with a kernel of shape ``(*kernel_size, in_features, out_features)``.

    Args:
      in_features: channels of the input.
      out_features: channels of the output.
      kernel_size: window; an int means a square in two dimensions.
      strides: steps between the inputs in the output.
      padding: as in ``ops.conv_transpose``.
      use_bias: whether a bias is added.
      kernel_init: initialiser of the kernel, or its name.
      bias_init: initialiser of the bias, or its name.
      dtype: dtype of the computation; None takes the promotion of input and parameters.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values (stream ``params``).

    Raises:
      ValueError: a size below one; in the call, what ``ops.conv_transpose`` raises.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> nn.ConvTranspose(4, 2, (3, 3), strides=2, rngs=nnx.Rngs(0))(jnp.ones((1, 5, 3, 4))).shape
      (1, 10, 6, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Sizes,
        *,
        strides: Sizes = 1,
        padding: Any = "SAME",
        use_bias: bool = True,
        kernel_init: str | initializers.Initializer = "lecun",
        bias_init: str | initializers.Initializer = "zero",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_features(in_features=in_features, out_features=out_features)
        self.strides = frozen(strides)
        self.padding = frozen(padding)
        self._make(
            (*window(kernel_size), in_features, out_features),
            use_bias=use_bias,
            kernel_init=kernel_init,
            bias_init=bias_init,
            groups=1,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Convolve, transposed."""
        x, kernel = self._cast(x)
        y = ops.conv_transpose(x, kernel, strides=self.strides, padding=self.padding)
        return self._finish(y)


class Dense(Kernel):
    """A matrix on the last axis.

    Args:
      in_features: channels of the input.
      out_features: channels of the output.
      use_bias: whether a bias is added.
      kernel_init: initialiser of the kernel, or its name.
      bias_init: initialiser of the bias, or its name.
      dtype: dtype of the computation; None takes the promotion of input and parameters.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values (stream ``params``).

    Raises:
      ValueError: a size below one; in the call, an input with another number of channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> nn.Dense(3, 10, rngs=nnx.Rngs(0))(jnp.ones((2, 3))).shape
      (2, 10)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        kernel_init: str | initializers.Initializer = "lecun",
        bias_init: str | initializers.Initializer = "zero",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_features(in_features=in_features, out_features=out_features)
        self._make(
            (in_features, out_features),
            use_bias=use_bias,
            kernel_init=kernel_init,
            bias_init=bias_init,
            groups=1,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Multiply."""
        x, kernel = self._cast(x)
        return self._finish(ops.dense(x, kernel))
