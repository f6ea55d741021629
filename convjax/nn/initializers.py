"""Initialisers: frozen, hashable, and right for grouped kernels.

An initialiser is called ``init(key, shape, dtype)`` like any of JAX's, and any of JAX's may be
used in its place. Those here know two things more. A kernel ``(*window, in/groups, out)`` has
``fan_in = prod(window) * in/groups``, and ``fan_out = prod(window) * out/groups``: a layer tells
the initialiser its groups by ``for_groups``. And ``variance(shape)`` is the variance of one entry,
which theory asks for.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from convjax import _check, _room
from convjax.nn._asked import WithGain, asked, groups_of, store
from convjax.nn._draw import draw, full

__all__ = [
    "NAMES",
    "Constant",
    "DeltaOrthogonal",
    "Dirac",
    "Initializer",
    "Orthogonal",
    "VarianceScaling",
    "fans",
    "for_groups",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "ones",
    "torch_uniform",
    "zeros",
]

Initializer = Callable[..., jax.Array]


def fans(shape: tuple[int, ...], feature_group_count: int = 1) -> tuple[float, float]:
    """Return fan-in and fan-out of a kernel.

    Args:
      shape: ``(*window, in_features / groups, out_features)``.
      feature_group_count: groups of the convolution.

    Returns:
      ``(fan_in, fan_out)``: how many inputs one output sums over, and how many outputs (of a
      stride-1 convolution) one input reaches.

    Raises:
      ValueError: fewer than two axes, sizes or groups that are no positive integers.

    Example:
      >>> from convjax.nn import initializers
      >>> initializers.fans((3, 3, 1, 64), feature_group_count=64)  # depthwise
      (9.0, 9.0)
      >>> initializers.fans((3, 3, 16, 64))
      (144.0, 576.0)
    """
    shape = _check.integers("shape", shape, least=1)
    feature_group_count = _check.integer("feature_group_count", feature_group_count, 1)
    if len(shape) < 2:
        raise ValueError(f"shape={shape} has no fans; a kernel has at least two axes (in, out)")
    window = math.prod(shape[:-2])
    return float(window * shape[-2]), window * shape[-1] / feature_group_count


@dataclasses.dataclass(frozen=True)
class VarianceScaling:
    """Independent entries of mean 0 and variance ``scale / fan``.

    Args:
      scale: variance times fan.
      mode: ``"fan_in"``, ``"fan_out"`` or ``"fan_avg"``.
      distribution: ``"normal"`` (an untruncated Gaussian, as the papers have it; JAX's
        ``he_normal`` truncates) or ``"uniform"``.
      feature_group_count: groups of the convolution, as ``for_groups`` sets them.

    Raises:
      ValueError: an unknown mode or distribution, a negative scale.

    Example:
      >>> from convjax.nn import initializers
      >>> initializers.VarianceScaling(2.0).variance((3, 3, 8, 16)) == 2 / 72
      True
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "normal"
    feature_group_count: int = 1

    def __post_init__(self):
        _check.choice("mode", self.mode, ("fan_in", "fan_out", "fan_avg"))
        _check.choice("distribution", self.distribution, ("normal", "uniform"))
        store(self, scale=_check.number("scale", self.scale, least=0), **groups_of(self))

    def variance(self, shape: tuple[int, ...]) -> float:
        """Variance of one entry of a kernel of this shape."""
        fan_in, fan_out = fans(shape, self.feature_group_count)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        return self.scale / fan

    def __call__(self, key, shape, dtype: DTypeLike = jnp.float32, out_sharding=None) -> jax.Array:
        """Return a random kernel."""
        shape, dtype = asked(shape, dtype)
        deviation = math.sqrt(self.variance(shape))
        return draw(self.distribution, _check.key("key", key), shape, dtype, deviation)


def he_normal() -> VarianceScaling:
    """Variance 2/fan_in: keeps the second moment through ReLU. He et al. 2015."""
    return VarianceScaling(2.0)


def he_uniform() -> VarianceScaling:
    """Like ``he_normal``, from a uniform distribution. He et al. 2015."""
    return VarianceScaling(2.0, distribution="uniform")


def lecun_normal() -> VarianceScaling:
    """Variance 1/fan_in: keeps the second moment through a linear layer. LeCun et al. 1998."""
    return VarianceScaling(1.0)


def lecun_uniform() -> VarianceScaling:
    """Like ``lecun_normal``, from a uniform distribution. LeCun et al. 1998."""
    return VarianceScaling(1.0, distribution="uniform")


def glorot_normal() -> VarianceScaling:
    """Variance 2/(fan_in + fan_out): between forward and backward. Glorot and Bengio 2010."""
    return VarianceScaling(1.0, "fan_avg")


def glorot_uniform() -> VarianceScaling:
    """Like ``glorot_normal``, from a uniform distribution. Glorot and Bengio 2010."""
    return VarianceScaling(1.0, "fan_avg", "uniform")


def torch_uniform() -> VarianceScaling:
    """PyTorch's default for convolutions and linear layers: uniform, variance 1/(3 fan_in)."""
    return VarianceScaling(1.0 / 3.0, distribution="uniform")


@dataclasses.dataclass(frozen=True)
class Orthogonal(WithGain):
    """The kernel as a matrix ``(fan_in, out)`` of each group has orthonormal columns, or rows.

    Args:
      gain: factor on the matrix; ``sqrt(2)`` suits ReLU.
      feature_group_count: groups of the convolution, as ``for_groups`` sets them.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from convjax.nn import initializers
      >>> w = initializers.Orthogonal()(jax.random.key(0), (3, 3, 4, 5)).reshape(36, 5)
      >>> bool(jnp.allclose(w.T @ w, jnp.eye(5), atol=1e-5))
      True

    Reference: Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning
    in deep linear neural networks, 2013.
    """

    def variance(self, shape: tuple[int, ...]) -> float:
        """Variance of one entry of a kernel of this shape."""
        fan_in, _ = fans(shape)
        return self.gain**2 / max(fan_in, shape[-1] // self.feature_group_count)

    def __call__(self, key, shape, dtype: DTypeLike = jnp.float32, out_sharding=None) -> jax.Array:
        """Return a random kernel."""
        shape, dtype = asked(shape, dtype)
        fans(shape)
        groups, fan_in = self.feature_group_count, math.prod(shape[:-1])
        draw = jax.nn.initializers.orthogonal(self.gain)
        # QR exists in float32 and float64 only.
        exact = jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32
        per_group = jax.vmap(lambda k: draw(k, (fan_in, shape[-1] // groups), exact))(
            jax.random.split(_check.key("key", key), groups)
        )
        return jnp.moveaxis(per_group, 0, 1).reshape(shape).astype(dtype)


@dataclasses.dataclass(frozen=True)
class DeltaOrthogonal(WithGain):
    """An orthogonal matrix on the window's centre, zero elsewhere: an isometry in space.

    Args:
      gain: factor on the matrix.
      feature_group_count: groups of the convolution, as ``for_groups`` sets them.

    Raises:
      ValueError: in the call, a window with an even side (it has no centre).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from convjax.nn import initializers
      >>> w = initializers.DeltaOrthogonal()(jax.random.key(0), (3, 3, 4, 4))
      >>> bool(jnp.allclose(w[1, 1] @ w[1, 1].T, jnp.eye(4), atol=1e-5)), float(w[0].max())
      (True, 0.0)

    Reference: Xiao et al., Dynamical Isometry and a Mean Field Theory of CNNs, 2018.
    """

    def variance(self, shape: tuple[int, ...]) -> float:
        """Variance of an entry averaged over the window: theory that needs more asks the type."""
        return Orthogonal(self.gain, self.feature_group_count).variance(shape[-2:]) / math.prod(
            shape[:-2]
        )

    def __call__(self, key, shape, dtype: DTypeLike = jnp.float32, out_sharding=None) -> jax.Array:
        """Return a random kernel."""
        shape, dtype = asked(shape, dtype)
        centre = _centre(shape)
        matrix = Orthogonal(self.gain, self.feature_group_count)(key, shape[-2:], dtype)
        return jnp.zeros(shape, dtype).at[centre].set(matrix)


@dataclasses.dataclass(frozen=True)
class Dirac(WithGain):
    """The identity as a kernel: output channel i copies input channel i (of its group).

    Channels beyond the smaller of the two counts are zero.

    Args:
      gain: factor on the identity.
      feature_group_count: groups of the convolution, as ``for_groups`` sets them.

    Raises:
      ValueError: in the call, a window with an even side (it has no centre).

    Example:
      >>> import jax
      >>> from convjax.nn import initializers
      >>> initializers.Dirac()(jax.random.key(0), (3, 2, 2))[1].tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """

    def variance(self, shape: tuple[int, ...]) -> float:
        """Mean square of an entry (nothing here is random)."""
        out = shape[-1] // self.feature_group_count
        return self.gain**2 * min(shape[-2], out) / (math.prod(shape[:-1]) * out)

    def __call__(self, key, shape, dtype: DTypeLike = jnp.float32, out_sharding=None) -> jax.Array:
        """Make the kernel; the key is not used."""
        shape, dtype = asked(shape, dtype)
        groups = self.feature_group_count
        eye = jnp.eye(shape[-2], shape[-1] // groups, dtype=dtype) * jnp.asarray(self.gain, dtype)
        return jnp.zeros(shape, dtype).at[_centre(shape)].set(jnp.tile(eye, (1, groups)))


@dataclasses.dataclass(frozen=True)
class Constant:
    """Every entry the same.

    Args:
      value: the entry.

    Example:
      >>> from convjax.nn import initializers
      >>> initializers.Constant(-2.0)(None, (2,)).tolist()
      [-2.0, -2.0]
    """

    value: float = 0.0

    def __post_init__(self):
        store(self, value=_check.number("value", self.value))

    def variance(self, shape: tuple[int, ...]) -> float:
        """Mean square of an entry (nothing here is random)."""
        return self.value**2

    def __call__(self, key, shape, dtype: DTypeLike = jnp.float32, out_sharding=None) -> jax.Array:
        """Make the array; the key is not used."""
        shape, dtype = asked(shape, dtype)
        return full(shape, self.value, dtype)


def zeros() -> Constant:
    """Every entry zero: a branch that ends in it is silent at initialization."""
    return Constant(0.0)


def ones() -> Constant:
    """Every entry one."""
    return Constant(1.0)


_BY_NAME: dict[str, Callable[[], Initializer]] = {
    "he": he_normal,
    "he_uniform": he_uniform,
    "lecun": lecun_normal,
    "lecun_uniform": lecun_uniform,
    "glorot": glorot_normal,
    "glorot_uniform": glorot_uniform,
    "torch": torch_uniform,
    "orthogonal": Orthogonal,
    "delta_orthogonal": DeltaOrthogonal,
    "dirac": Dirac,
    "zero": zeros,
}

NAMES = tuple(_BY_NAME)


def get(init: str | Initializer, *, argument: str = "init") -> Initializer:
    """Return the initialiser of that name; one that is none already is returned as it is.

    Args:
      init: one of ``initializers.NAMES`` or a callable ``init(key, shape, dtype)``.
      argument: what the caller calls it, for the message that refuses it.

    Returns:
      The initialiser.

    Raises:
      ValueError: an unknown name, or what cannot be called.

    Example:
      >>> from convjax.nn import initializers
      >>> initializers.get("he")
      VarianceScaling(scale=2.0, mode='fan_in', distribution='normal', feature_group_count=1)
    """
    if isinstance(init, str):
        return _BY_NAME[_check.choice(argument, init, _BY_NAME)]()
    right = f"a function init(key, shape, dtype), or one of {', '.join(_BY_NAME)}"
    return _check.function(argument, init, right)


def for_groups(init: Any, feature_group_count: int) -> Initializer:
    """Tell an initialiser the groups of the convolution that its kernel is for.

    Args:
      init: any initialiser.
      feature_group_count: groups of the convolution.

    Returns:
      The initialiser for those groups; one that does not ask for groups, as JAX's own do not, is
      returned as it is.

    Example:
      >>> from convjax.nn import initializers
      >>> initializers.for_groups(initializers.VarianceScaling(1.0, "fan_out"), 2)
      VarianceScaling(scale=1.0, mode='fan_out', distribution='normal', feature_group_count=2)
    """
    _check.function("init", init, "a function init(key, shape, dtype)")
    feature_group_count = _check.integer("feature_group_count", feature_group_count, 1)
    if (
        dataclasses.is_dataclass(init)
        and not isinstance(init, type)
        and hasattr(init, "feature_group_count")
    ):
        return dataclasses.replace(init, feature_group_count=feature_group_count)  # pyright: ignore
    return init  # pyright: ignore


def _centre(shape: tuple[int, ...]) -> tuple[int, ...]:
    fans(shape)
    window = shape[:-2]
    if any(side % 2 == 0 for side in window):
        raise ValueError(f"kernel window {window} has an even side and so no centre")
    return tuple(side // 2 for side in window)


_room.show(globals())
