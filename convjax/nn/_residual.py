"""Residual: a branch, a shortcut, and their sum."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from convjax import _check
from convjax.nn import initializers
from convjax.nn._applied import applied
from convjax.nn._conv import Conv
from convjax.nn._kernel import Sizes
from convjax.nn._node import Node, children_of
from convjax.nn._simple import Identity
from convjax.nn._unit import unit


class Gate(Node):
    """The gate of a highway or exclusive-gating shortcut: ``t = sigmoid(conv(x) + b)``.

    As a ``Residual``'s shortcut it makes the sum ``t * branch(x) + (1 - t) * x``. A negative bias
    opens the carry: at initialization ``1 - t`` is about ``1 - sigmoid(bias)``.

    Args:
      features: channels of the input, of the branch's output, and of the gate.
      kernel_size: window of the gate's convolution.
      bias: initial bias, usually negative.
      kernel_init: initialiser of the gate's kernel, or its name.
      dtype: dtype of the computation; None takes the input's.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> gate = nn.Gate(4, bias=-2.0, kernel_init=nn.initializers.zeros(), rngs=nnx.Rngs(0))
      >>> round(float(gate(jnp.ones((1, 5, 3, 4))).mean()), 4)
      0.1192

    Reference: Srivastava et al., Highway Networks, 2015; He et al., Identity Mappings in Deep
    Residual Networks, 2016.
    """

    def __init__(
        self,
        features: int,
        *,
        kernel_size: Sizes = (1, 1),
        bias: float = -2.0,
        kernel_init: str | initializers.Initializer = "lecun",
        dtype: jax.typing.DTypeLike | None = None,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        features = _check.integer("features", features, 1)
        self.conv = Conv(
            features,
            features,
            kernel_size,
            kernel_init=kernel_init,
            bias_init=initializers.Constant(_check.number("bias", bias)),
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Return the gate's values, in (0, 1)."""
        return jax.nn.sigmoid(self.conv(x))


class Residual(Node):
    """A branch and a shortcut, added: He's residual unit in all its variants.

    Formula: ``activation(shortcut(x) + scale * branch(x))``; with a ``Gate`` for shortcut,
    ``activation((1 - t) * x + t * scale * branch(x))``.

    A pre-activation unit keeps its activations in the branch and gives no ``activation``; a
    post-activation unit gives one, applied after the sum.

    Args:
      branch: the unit whose output is added: a node, any other module of Flax NNX, or a function.
      shortcut: ``"identity"``; ``"none"`` (the plain twin: the same parameters, one term less); or
        a unit: a projection, ``Scale(0.5)``, ``Gate(…)``, ``ZeroPadShortcut(…)``.
      scale: factor on the branch (a fixed number; for a learned one end the branch with
        ``Scale(0.0, learnable=True)``).
      activation: unit applied after the sum, or None.

    Raises:
      ValueError: an unknown shortcut; in the call, branch and shortcut of different shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import nn
      >>> x = jnp.array([[1.0, -2.0]])
      >>> nn.Residual(nn.Activation("relu"), scale=0.5)(x).tolist()
      [[1.5, -2.0]]
      >>> nn.Residual(nn.Activation("relu"), "none", scale=0.5)(x).tolist()
      [[0.5, 0.0]]

    Reference: He et al., Deep Residual Learning for Image Recognition, 2015, and Identity Mappings
    in Deep Residual Networks, 2016.
    """

    def __init__(
        self,
        branch: nnx.Module | Callable[[Any], Any],
        shortcut: str | nnx.Module | Callable[[Any], Any] = "identity",
        *,
        scale: float = 1.0,
        activation: nnx.Module | Callable[[Any], Any] | None = None,
    ):
        beside: nnx.Module | None = None
        if callable(shortcut):
            beside = unit("shortcut", shortcut)
        elif _check.choice("shortcut", shortcut, ("identity", "none")) == "identity":
            beside = Identity()
        self.branch: nnx.Module = unit("branch", branch)
        self.shortcut = beside
        self.scale = _check.number("scale", scale)
        self.activation = None if activation is None else unit("activation", activation)

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Add branch and shortcut."""
        x = _check.array("x", x)
        branch = applied(self.branch, x, train, rngs)
        shortcut = None if self.shortcut is None else applied(self.shortcut, x, train, rngs)
        y = self.merge(*self.summands(x, branch, shortcut))
        return y if self.activation is None else applied(self.activation, y, train, rngs)

    def summands(
        self, x: Float[Array, "..."], branch: Array, shortcut: Array | None
    ) -> tuple[Array, Array | None]:
        """Return the two terms of the sum, from the outputs of branch and shortcut."""
        if self.scale != 1.0:
            branch = branch * jnp.asarray(self.scale, branch.dtype)
        if isinstance(self.shortcut, Gate) and shortcut is not None:
            return shortcut * branch, (1 - shortcut) * x
        return branch, shortcut

    def merge(self, branch: Array, shortcut: Array | None) -> Array:
        """Add the two terms; without a shortcut the branch alone is the sum."""
        if shortcut is None:
            return branch
        if branch.shape != shortcut.shape:
            raise ValueError(
                f"Residual: the branch gives shape {branch.shape}, the shortcut {shortcut.shape}; "
                "where they differ the shortcut must be a projection or a ZeroPadShortcut"
            )
        return branch + shortcut


@children_of.register
def _(node: Residual):
    yield "branch", node.branch
    if node.shortcut is not None:
        yield "shortcut", node.shortcut
    if node.activation is not None:
        yield "activation", node.activation
