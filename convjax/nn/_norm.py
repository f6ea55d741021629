"""Norms: batch, group and layer normalisation, statistics in float32 or better."""

import inspect

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from convjax import _check, ops
from convjax.nn import initializers
from convjax.nn._draw import full
from convjax.nn._held import check_held
from convjax.nn._kernel import drawn
from convjax.nn._node import Node, check_streams
from convjax.nn._simple import Identity

NORMS = ("none", "batch", "group", "layer")


class _Affine(Node):
    """A norm's learned scale and bias."""

    def _make(
        self,
        features: int,
        *,
        use_scale: bool,
        use_bias: bool,
        scale_init: str | initializers.Initializer | None,
        epsilon: float,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.epsilon = _check.number("epsilon", epsilon, least=0)
        self.dtype = None if dtype is None else _check.dtype("dtype", dtype)
        init = initializers.ones() if scale_init is None else scale_init
        init = initializers.get(init, argument="scale_init")
        use_scale, use_bias = _check.flag("use_scale", use_scale), _check.flag("use_bias", use_bias)
        param_dtype = _check.dtype("param_dtype", param_dtype)
        shape, key = (features,), check_streams(rngs).params()
        check_held(f"num_features={features}", shape, param_dtype, key)
        scale = None
        if use_scale:
            scale = nnx.Param(drawn("scale_init", init, key, shape, param_dtype))
        self.scale = scale
        self.bias = nnx.Param(full(shape, 0.0, param_dtype)) if use_bias else None

    def _affine(self) -> tuple[jax.Array | None, jax.Array | None]:
        return (
            None if self.scale is None else self.scale[...],
            None if self.bias is None else self.bias[...],
        )


class BatchNorm(_Affine):
    """Batch normalisation: ``scale * (x - mean) / sqrt(variance + epsilon) + bias`` per channel.

    With ``train=True`` mean and (biased) variance are the batch's own, over all axes but the last,
    and the running statistics move: ``r = momentum * r + (1 - momentum) * batch``. With
    ``train=False`` the running statistics are used: at initialization (0 and 1) that is another
    network, not a normalised one.

    Args:
      num_features: channels of the input.
      momentum: weight of the old running statistics (PyTorch counts the other way: its 0.1 is 0.9).
      epsilon: added to the variance.
      use_scale: whether a scale is learned.
      use_bias: whether a bias is learned.
      scale_init: initialiser of the scale, or its name; None means ones. ``"zero"`` silences a
        branch at initialization.
      axis_name: mapped axis, or a tuple of them, over which the statistics are averaged as well;
        None for none.
      dtype: dtype of the output; None takes the input's. Statistics never drop below float32.
      param_dtype: dtype of parameters and statistics.
      rngs: source of the initial values.

    Attributes:
      frozen: whether the running statistics are used, and stay, with ``train=True`` as well; False
        at first. ``models.freeze`` has it set.

    Raises:
      ValueError: no feature, a negative epsilon, a momentum outside [0, 1]; in the call, an input
        with another number of channels.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> norm = nn.BatchNorm(3, rngs=nnx.Rngs(0))
      >>> y = norm(5 + jax.random.normal(jax.random.key(0), (8, 4, 4, 3)), train=True)
      >>> bool(jnp.abs(y.mean()) < 1e-5), round(float(y.std()), 3)
      (True, 1.0)

    Reference: Ioffe and Szegedy, Batch Normalization, 2015.
    """

    frozen = False

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        use_scale: bool = True,
        use_bias: bool = True,
        scale_init: str | initializers.Initializer | None = None,
        axis_name: str | tuple[str, ...] | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        num_features = _check.integer("num_features", num_features, 1)
        self.momentum = _check.number("momentum", momentum, least=0, most=1)
        self.axis_name = _axis_name(axis_name)
        self._make(
            num_features,
            use_scale=use_scale,
            use_bias=use_bias,
            scale_init=scale_init,
            epsilon=epsilon,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.mean = nnx.BatchStat(full((num_features,), 0.0, param_dtype))
        self.var = nnx.BatchStat(full((num_features,), 1.0, param_dtype))

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Normalise."""
        x = _check.array("x", x)
        features = self.mean[...].shape
        if x.shape[-1:] != features:
            raise ValueError(f"BatchNorm: x has {x.shape[-1]} channels, the norm {features[0]}")
        if _check.flag("train", train) and not self.frozen:
            y, mean, var = self._by_batch(x)
            self.mean[...] = self._moved(self.mean[...], mean)
            self.var[...] = self._moved(self.var[...], var)
        else:
            y = self._normalized(x, self.mean[...], self.var[...])
        return y if self.dtype is None else y.astype(self.dtype)

    def _by_batch(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the image normalised by the batch's own mean and variance, and these."""
        if self.axis_name is None:
            return ops.batch_norm(x, *self._affine(), epsilon=self.epsilon)
        mean, var = ops.batch_moments(x)
        everywhere = jax.lax.pmean(mean, self.axis_name)
        var = jax.lax.pmean(var + (mean - everywhere) ** 2, self.axis_name)
        return self._normalized(x, everywhere, var), everywhere, var

    def _normalized(self, x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
        return ops.normalize(x, mean, var, *self._affine(), epsilon=self.epsilon)

    def _moved(self, running: jax.Array, batch: jax.Array) -> jax.Array:
        moved = self.momentum * running + (1 - self.momentum) * batch.astype(running.dtype)
        return jax.lax.stop_gradient(moved)


def _axis_name(axis_name: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    if axis_name is None or isinstance(axis_name, str):
        return axis_name
    right = "the name of a mapped axis, a tuple of them, or None"
    _check.instance("axis_name", axis_name, (tuple, list), right)
    return tuple(_check.instance("axis_name", name, str, right) for name in axis_name)


class GroupNorm(_Affine):
    """Group normalisation: statistics per example, over places and the channels of a group.

    Args:
      num_features: channels of the input.
      num_groups: groups of channels; must divide ``num_features``.
      epsilon: added to the variance.
      use_scale: whether a scale is learned.
      use_bias: whether a bias is learned.
      scale_init: initialiser of the scale, or its name; None means ones.
      dtype: dtype of the output; None takes the input's.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values.

    Raises:
      ValueError: groups that do not divide, a negative epsilon.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> norm = nn.GroupNorm(6, num_groups=2, rngs=nnx.Rngs(0))
      >>> y = norm(jax.random.normal(jax.random.key(0), (2, 5, 4, 6)))
      >>> bool(jnp.abs(y[0, ..., :3].mean()) < 1e-5)
      True

    Reference: Wu and He, Group Normalization, 2018.
    """

    def __init__(
        self,
        num_features: int,
        *,
        num_groups: int = 32,
        epsilon: float = 1e-5,
        use_scale: bool = True,
        use_bias: bool = True,
        scale_init: str | initializers.Initializer | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        num_features = _check.integer("num_features", num_features, 1)
        num_groups = _check.integer("num_groups", num_groups, 1)
        if num_features % num_groups:
            raise ValueError(f"num_groups={num_groups} must divide num_features={num_features}")
        self.num_groups = num_groups
        self._make(
            num_features,
            use_scale=use_scale,
            use_bias=use_bias,
            scale_init=scale_init,
            epsilon=epsilon,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Normalise."""
        y = ops.group_norm(x, *self._affine(), num_groups=self.num_groups, epsilon=self.epsilon)
        return y if self.dtype is None else y.astype(self.dtype)


class LayerNorm(_Affine):
    """Layer normalisation: statistics over the channels of every place.

    Args:
      num_features: channels of the input.
      epsilon: added to the variance.
      use_scale: whether a scale is learned.
      use_bias: whether a bias is learned.
      scale_init: initialiser of the scale, or its name; None means ones.
      dtype: dtype of the output; None takes the input's.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values.

    Raises:
      ValueError: no feature, a negative epsilon.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> norm = nn.LayerNorm(6, rngs=nnx.Rngs(0))
      >>> y = norm(jax.random.normal(jax.random.key(0), (2, 5, 4, 6)))
      >>> bool(jnp.abs(y.mean(-1)).max() < 1e-5)
      True

    Reference: Ba, Kiros and Hinton, Layer Normalization, 2016.
    """

    def __init__(
        self,
        num_features: int,
        *,
        epsilon: float = 1e-6,
        use_scale: bool = True,
        use_bias: bool = True,
        scale_init: str | initializers.Initializer | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self._make(
            _check.integer("num_features", num_features, 1),
            use_scale=use_scale,
            use_bias=use_bias,
            scale_init=scale_init,
            epsilon=epsilon,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Normalise."""
        y = ops.layer_norm(x, *self._affine(), epsilon=self.epsilon)
        return y if self.dtype is None else y.astype(self.dtype)


class ResponseNorm(_Affine):
    """Global response normalisation: every channel weighed by its size among all channels.

    Formula: ``x + scale * x * r / (mean(r) + epsilon) + bias``, where r is the Euclidean norm of a
    channel over all places of an example, and its mean runs over the channels. Scale and bias are
    initialized to 0, where it is the identity.

    Args:
      num_features: channels of the input.
      epsilon: added to the mean norm.
      dtype: dtype of the output; None takes the input's.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values.

    Raises:
      ValueError: no feature, a negative epsilon; in the call, another number of channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> norm = nn.ResponseNorm(2, rngs=nnx.Rngs(0))
      >>> norm.scale[...] = jnp.ones(2)
      >>> norm(jnp.array([[[[3.0, 1.0]]]])).round(2).ravel().tolist()
      [7.5, 1.5]

    Reference: Woo et al., ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders,
    2023.
    """

    def __init__(
        self,
        num_features: int,
        *,
        epsilon: float = 1e-6,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self._make(
            _check.integer("num_features", num_features, 1),
            use_scale=True,
            use_bias=True,
            scale_init="zero",
            epsilon=epsilon,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Weigh the channels."""
        x = _check.array("x", x)
        scale, bias = self._affine()
        assert scale is not None and bias is not None
        if x.shape[-1:] != scale.shape:
            raise ValueError(f"ResponseNorm: x has {x.shape[-1]} channels, the norm {len(scale)}")
        wide = x.astype(jnp.float32 if x.dtype.itemsize < 4 else x.dtype)
        shape = (1,) * (x.ndim - 1) + (-1,)
        square = jnp.sum(wide**2, axis=tuple(range(1, x.ndim - 1)), keepdims=True)
        # The derivative of a root at zero is none; of a channel that is zero, we take 0.
        size = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        share = size / (size.mean(-1, keepdims=True) + self.epsilon)
        scale, bias = (a.astype(wide.dtype).reshape(shape) for a in (scale, bias))
        y = wide * (1 + scale * share) + bias
        return y.astype(x.dtype if self.dtype is None else self.dtype)


def norm(name: str, num_features: int, *, rngs: nnx.Rngs, **options) -> Node:
    """Return the norm of that name as a leaf.

    Args:
      name: ``"none"``, ``"batch"``, ``"group"`` (groups: the largest divisor of the channels up to
        32, unless ``num_groups`` is given) or ``"layer"``.
      num_features: channels of the input.
      rngs: source of the initial values.
      **options: further arguments of the norm; ``"none"`` ignores them.

    Returns:
      The leaf; an ``Identity`` for ``"none"``.

    Raises:
      ValueError: an unknown name.

    Example:
      >>> from flax import nnx
      >>> from convjax import nn
      >>> type(nn.norm("batch", 8, rngs=nnx.Rngs(0))).__name__
      'BatchNorm'
    """
    _check.choice("norm: name", name, NORMS)
    num_features = _check.integer("num_features", num_features, 1)
    if name == "none":
        check_streams(rngs)
        return Identity()
    if name == "group":
        divisors = (g for g in range(min(32, num_features), 0, -1) if num_features % g == 0)
        options.setdefault("num_groups", next(divisors))
    kind = {"batch": BatchNorm, "group": GroupNorm, "layer": LayerNorm}[name]
    known = {*inspect.signature(kind.__init__).parameters} - {"self", "num_features", "rngs"}
    for option in options:
        if option not in known:
            _check.refuse(f"{name}: option", option, known)
    return kind(num_features, rngs=rngs, **options)
