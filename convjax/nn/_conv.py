"""Convolution leaves: each owns a kernel and perhaps a bias, and calls one function of the ops."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from convjax import _check, ops
from convjax.nn import initializers
from convjax.nn._chain import Chain
from convjax.nn._kernel import Kernel, Sizes, check_groups, window


class Conv(Kernel):
    """Convolution with a kernel of shape ``(*kernel_size, in_features / groups, out_features)``.

    Args:
      in_features: channels of the input.
      out_features: channels of the output.
      kernel_size: window; an int means a square in two dimensions.
      strides: steps between outputs.
      padding: as in ``ops.conv``.
      kernel_dilation: steps between kernel entries.
      feature_group_count: groups; must divide both channel counts.
      use_bias: whether a bias is added.
      standardize: weight standardisation, by ``ops.standardize_kernel`` of the parameter.
      gain: gain of the standardised kernel.
      scaled, epsilon: its form, as in ``ops.standardize_kernel``.
      kernel_init: initialiser of the kernel, or its name in ``initializers.NAMES``.
      bias_init: initialiser of the bias, or its name.
      dtype: dtype of the computation; None takes the promotion of input and parameters.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values (stream ``params``).

    Raises:
      ValueError: a size below one, groups that do not divide; in the call, as ``ops.conv``.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> conv = nn.Conv(3, 8, (3, 3), strides=2, rngs=nnx.Rngs(0))
      >>> conv(jnp.ones((2, 9, 7, 3))).shape
      (2, 5, 4, 8)
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
        use_bias: bool = True,
        standardize: bool = False,
        gain: float = 1.0,
        scaled: bool = True,
        epsilon: float = 1e-4,
        kernel_init: str | initializers.Initializer = "lecun",
        bias_init: str | initializers.Initializer = "zero",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        size = window(kernel_size)
        in_features = _check.integer("in_features", in_features, 1)
        out_features = _check.integer("out_features", out_features, 1)
        groups = check_groups(feature_group_count, in_features, out_features)
        self._slide(len(size), strides, padding, kernel_dilation)
        self.feature_group_count = groups
        self.standardize = _check.flag("standardize", standardize)
        self.gain = _check.number("gain", gain)
        self.scaled = _check.flag("scaled", scaled)
        self.epsilon = _check.number("epsilon", epsilon, above=0)
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
        """Convolve."""
        x, kernel = self._cast(x)
        if self.standardize:
            kernel = ops.standardize_kernel(
                kernel, gain=self.gain, scaled=self.scaled, epsilon=self.epsilon
            )
        y = ops.conv(
            x,
            kernel,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=self.feature_group_count,
        )
        return self._finish(y)


class DepthwiseConv(Kernel):
    """Every channel convolved with kernels of its own: ``(*kernel_size, 1, in_features * M)``.

    Args:
      in_features: channels of the input.
      kernel_size: window; an int means a square in two dimensions.
      channel_multiplier: M, output channels per input channel.
      strides: steps between outputs.
      padding: as in ``ops.conv``.
      kernel_dilation: steps between kernel entries.
      use_bias: whether a bias is added.
      kernel_init: initialiser of the kernel, or its name; told its groups, so fan-out is right.
      bias_init: initialiser of the bias, or its name.
      dtype: dtype of the computation; None takes the promotion of input and parameters.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values (stream ``params``).

    Raises:
      ValueError: a size below one; in the call, what ``ops.depthwise_conv`` raises.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> conv = nn.DepthwiseConv(4, (3, 3), channel_multiplier=2, rngs=nnx.Rngs(0))
      >>> conv.kernel.shape, conv(jnp.ones((1, 5, 6, 4))).shape
      ((3, 3, 1, 8), (1, 5, 6, 8))

    Reference: Howard et al., MobileNets, 2017.
    """

    def __init__(
        self,
        in_features: int,
        kernel_size: Sizes,
        *,
        channel_multiplier: int = 1,
        strides: Sizes = 1,
        padding: Any = "SAME",
        kernel_dilation: Sizes = 1,
        use_bias: bool = True,
        kernel_init: str | initializers.Initializer = "lecun",
        bias_init: str | initializers.Initializer = "zero",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        size = window(kernel_size)
        in_features = _check.integer("in_features", in_features, 1)
        channel_multiplier = _check.integer("channel_multiplier", channel_multiplier, 1)
        self._slide(len(size), strides, padding, kernel_dilation)
        self._make(
            (*size, 1, in_features * channel_multiplier),
            use_bias=use_bias,
            kernel_init=kernel_init,
            bias_init=bias_init,
            groups=in_features,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Convolve every channel."""
        x, kernel = self._cast(x)
        y = ops.depthwise_conv(
            x,
            kernel,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
        )
        return self._finish(y)


class PointwiseConv(Kernel):
    """The 1x1 convolution: a matrix on the channels of every place.

    Args:
      in_features: channels of the input.
      out_features: channels of the output.
      strides: steps between outputs.
      use_bias: whether a bias is added.
      kernel_init: initialiser of the kernel, or its name.
      bias_init: initialiser of the bias, or its name.
      rank: spatial axes of the input.
      dtype: dtype of the computation; None takes the promotion of input and parameters.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values (stream ``params``).

    Raises:
      ValueError: a size below one; in the call, what ``ops.pointwise_conv`` raises.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> nn.PointwiseConv(64, 128, rngs=nnx.Rngs(0))(jnp.ones((1, 8, 6, 64))).shape
      (1, 8, 6, 128)

    Reference: Lin, Chen and Yan, Network In Network, 2013.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        strides: Sizes = 1,
        use_bias: bool = True,
        kernel_init: str | initializers.Initializer = "lecun",
        bias_init: str | initializers.Initializer = "zero",
        rank: int = 2,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        in_features = _check.integer("in_features", in_features, 1)
        out_features = _check.integer("out_features", out_features, 1)
        rank = _check.integer("rank", rank, 1, 3)
        self.strides = _check.sizes("strides", strides, rank=rank)
        self._make(
            (*(1,) * rank, in_features, out_features),
            use_bias=use_bias,
            kernel_init=kernel_init,
            bias_init=bias_init,
            groups=1,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Mix the channels of every place."""
        x, kernel = self._cast(x)
        return self._finish(ops.pointwise_conv(x, kernel, strides=self.strides))


def separable_conv(
    in_features: int,
    out_features: int,
    kernel_size: Sizes,
    *,
    strides: Sizes = 1,
    padding: Any = "SAME",
    use_bias: bool = True,
    kernel_init: str | initializers.Initializer = "lecun",
    pointwise_init: str | initializers.Initializer | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> Chain:
    """Return the expression depthwise then pointwise, with nothing between the two.

    Args:
      in_features: channels of the input.
      out_features: channels of the output.
      kernel_size: window of the depthwise part.
      strides: steps of the depthwise part.
      padding: padding of the depthwise part.
      use_bias: whether the pointwise part adds a bias (the depthwise part never does: the
        pointwise part would absorb it).
      kernel_init: initialiser of the depthwise kernel, or its name.
      pointwise_init: initialiser of the pointwise kernel; None takes ``kernel_init``.
      dtype: dtype of the computation; None takes the promotion of input and parameters.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values.

    Returns:
      ``Chain(depthwise=…, pointwise=…)``.

    Raises:
      ValueError: as the two leaves do.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> unit = nn.separable_conv(4, 6, (3, 3), rngs=nnx.Rngs(0))
      >>> unit(jnp.ones((1, 5, 7, 4))).shape
      (1, 5, 7, 6)
    """
    if pointwise_init is not None:
        pointwise_init = initializers.get(pointwise_init, argument="pointwise_init")
    shared = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
    size = window(kernel_size)
    return Chain(
        depthwise=DepthwiseConv(
            in_features,
            size,
            strides=strides,
            padding=padding,
            use_bias=False,
            kernel_init=kernel_init,
            **shared,
        ),
        pointwise=PointwiseConv(
            in_features,
            out_features,
            rank=len(size),
            use_bias=use_bias,
            kernel_init=kernel_init if pointwise_init is None else pointwise_init,
            **shared,
        ),
    )
