"""Squeeze and excitation: channels weighed by what is seen everywhere."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from convjax import _check, ops
from convjax.nn._activations import ACTIVATIONS
from convjax.nn._conv import PointwiseConv
from convjax.nn._node import Node
from convjax.nn._simple import Activation


class SqueezeExcite(Node):
    """Weigh every channel: ``x * gate(expand(activation(reduce(global_avg_pool(x)))))``.

    Args:
      features: channels of input and output.
      reduced_features: channels in between.
      activation: name of the inner activation.
      gate: name of the outer one.
      rank: spatial axes of the input.
      dtype: dtype of the computation; None takes the promotion of input and parameters.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values.

    Raises:
      ValueError: a size below one, an unknown activation.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> nn.SqueezeExcite(8, 2, rngs=nnx.Rngs(0))(jnp.ones((1, 5, 3, 8))).shape
      (1, 5, 3, 8)

    Reference: Hu, Shen and Sun, Squeeze-and-Excitation Networks, 2017.
    """

    def __init__(
        self,
        features: int,
        reduced_features: int,
        *,
        activation: str = "relu",
        gate: str = "sigmoid",
        rank: int = 2,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        features = _check.integer("features", features, 1)
        reduced_features = _check.integer("reduced_features", reduced_features, 1)
        _check.choice("activation", activation, ACTIVATIONS)
        _check.choice("gate", gate, ACTIVATIONS)
        shared = {"rank": rank, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.reduce = PointwiseConv(features, reduced_features, **shared)
        self.expand = PointwiseConv(reduced_features, features, **shared)
        self.activation = Activation(activation)
        self.gate = Activation(gate)

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Weigh the channels."""
        x = _check.array("x", x)
        squeezed = ops.global_avg_pool(x, keepdims=True)
        weight = self.gate(self.expand(self.activation(self.reduce(squeezed))))
        return x * weight.astype(x.dtype)
