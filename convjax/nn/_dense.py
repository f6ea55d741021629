"""The leaves with a kernel that is no forward convolution: transposed, and dense."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.lax import PrecisionLike
from jax.typing import DTypeLike

from convjax import _check, ops
from convjax.nn import initializers
from convjax.nn._kernel import Kernel, Sizes, check_groups, window

# Of the paddings of a convolution, all but the mirror have a transpose.
_PADDINGS = tuple(name for name in _check.PADDINGS if name != "REFLECT")


class ConvTranspose(Kernel):
    """Transposed convolution, its kernel ``(*kernel_size, in_features / groups, out_features)``.

    Args:
      in_features: channels of the input.
      out_features: channels of the output.
      kernel_size: window; an int means a square in two dimensions.
      strides: steps between the inputs in the output.
      padding: as in ``ops.conv_transpose``.
      kernel_dilation: steps between kernel entries.
      feature_group_count: groups; must divide both channel counts.
      output_padding: places added on the far sides of the output, with explicit padding.
      use_bias: whether a bias is added.
      kernel_init: initialiser of the kernel, or its name.
      bias_init: initialiser of the bias, or its name.
      dtype: dtype of the computation; None takes the promotion of input and parameters.
      param_dtype: dtype of the parameters.
      precision: of the products, as in ``ops.conv_transpose``.
      rngs: source of the initial values (stream ``params``).

    Raises:
      ValueError: a size below one, groups that do not divide; in the call, what
        ``ops.conv_transpose`` raises.

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
        kernel_dilation: Sizes = 1,
        feature_group_count: int = 1,
        output_padding: Sizes = 0,
        use_bias: bool = True,
        kernel_init: str | initializers.Initializer = "lecun",
        bias_init: str | initializers.Initializer = "zero",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        size = window(kernel_size)
        in_features = _check.integer("in_features", in_features, 1)
        out_features = _check.integer("out_features", out_features, 1)
        groups = check_groups(feature_group_count, in_features, out_features)
        self._slide(len(size), strides, padding, kernel_dilation, _PADDINGS)
        self.feature_group_count = groups
        self.output_padding = _check.sizes(
            "output_padding", output_padding, rank=len(size), least=0
        )
        if isinstance(self.padding, str) and np.any(self.output_padding):
            raise ValueError(
                f"output_padding={output_padding} goes with explicit padding only; padding="
                f"{padding!r} already fixes the output size"
            )
        self.precision = _precision(precision)
        self._make(
            (*size, in_features // groups, out_features),
            use_bias=use_bias,
            kernel_init=kernel_init,
            bias_init=bias_init,
            groups=groups,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Convolve, transposed."""
        x, kernel = self._cast(x)
        y = ops.conv_transpose(
            x,
            kernel,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=self.feature_group_count,
            output_padding=self.output_padding,
            precision=self.precision,
        )
        return self._finish(y)


def _precision(precision: PrecisionLike) -> PrecisionLike:
    """Return what a matrix product takes for its precision."""
    if precision is not None:
        one = jax.ShapeDtypeStruct((1, 1), jnp.float32)
        try:
            jax.eval_shape(lambda a: ops.dense(a, a, precision=precision), one)
        except (TypeError, ValueError):
            right = "a precision as jax.lax takes it: 'highest', say, or jax.lax.Precision.HIGH"
            _check.wrong_type("precision", precision, right)
    pair = isinstance(precision, list)
    return tuple(precision) if pair else precision  # pyright: ignore[reportReturnType]


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
        in_features = _check.integer("in_features", in_features, 1)
        out_features = _check.integer("out_features", out_features, 1)
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
