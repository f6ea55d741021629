"""Normalisation: moments, and the shift and scale to zero mean and unit variance."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from convjax import _check
from convjax._trace import WRITTEN_OUT
from convjax.ops import _shapes
from convjax.ops._rows import row_sum
from convjax.ops._shapes import Given
from convjax.ops._shield import shield

Features = Float[Given, "*batch_and_spatial features"]
Normalized = Float[Array, "*batch_and_spatial features"]
PerChannel = Float[Given, "..."] | None


def batch_moments(x: Features) -> tuple[Float[Array, " features"], Float[Array, " features"]]:
    r"""Mean and variance of every channel over batch and space.

    $$\mu_c = \frac{1}{m} \sum_i x[i, c], \qquad
      \sigma_c^2 = \frac{1}{m} \sum_i (x[i, c] - \mu_c)^2$$

    The variance is biased (divided by m, not m - 1) and formed in two passes, from deviations, so a
    mean that is large beside the spread costs no digits.

    Args:
        x: shape (..., C).

    Returns:
        (mean, variance), each of shape (C,), in float32, or float64 where x is.

    Raises:
        ValueError: if x has fewer than two axes, or no elements to average.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> mean, variance = ops.batch_moments(jnp.array([[1.0, 10.0], [3.0, 16.0]]))
        >>> mean.tolist(), variance.tolist()
        ([2.0, 13.0], [1.0, 9.0])

    Reference:
        Ioffe and Szegedy 2015, "Batch normalization"; the two-pass form: Chan, Golub and LeVeque
        1983, "Algorithms for computing the sample variance".
    """
    op = "batch_moments"
    (x,) = _shapes.check_arrays(op, x=x)
    _check_averaged(op, x)
    return _row_moments(_rows(x), x.shape[-2])


def batch_norm(
    x: Features, scale: PerChannel = None, bias: PerChannel = None, *, epsilon: float = 1e-5
) -> tuple[Normalized, Float[Array, " features"], Float[Array, " features"]]:
    r"""Normalise every channel by its mean and variance over batch and space.

    It is `normalize` by `batch_moments`, with a derivative that reads the image less often. The
    gradients for a cotangent g,

    $$\bar x = \frac{\gamma}{\sigma} \left(g - \overline{g} - \hat x \, \overline{g \hat x}\right),
      \qquad \bar \gamma = \sum g \hat x, \qquad \bar \beta = \sum g,$$

    take two sums over the image, where what autodiff makes of the two functions takes four. Forward
    mode, and derivatives of every order, are exact as well.

    Args:
        x: shape (..., C).
        scale: gamma, shape (C,); None is one.
        bias: beta, shape (C,); None is zero.
        epsilon: added to the variance, in units of x squared.

    Returns:
        (y, mean, variance): x's shape and dtype, and two of shape (C,) as by `batch_moments`.

    Raises:
        ValueError: if x has fewer than two axes or no elements, a shape does not fit x, or epsilon
            is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> y, mean, variance = ops.batch_norm(jnp.array([[1.0, 10.0], [3.0, 16.0]]), epsilon=0.0)
        >>> y.tolist(), mean.tolist(), variance.tolist()
        ([[-1.0, -1.0], [1.0, 1.0]], [2.0, 13.0], [1.0, 9.0])

    Reference:
        Ioffe and Szegedy 2015, "Batch normalization", section 3.
    """
    op = "batch_norm"
    x, scale, bias, epsilon = _check_affine(op, x, scale, bias, epsilon)
    _check_averaged(op, x)
    wide = _shapes.at_least_float32(x.dtype)
    scale = jnp.ones(x.shape[-1:], wide) if scale is None else scale.astype(wide)
    bias = jnp.zeros(x.shape[-1:], wide) if bias is None else bias.astype(wide)
    y, mean, variance = _batch_norm(x.shape[-2], epsilon, _rows(x), scale, bias)
    return y.reshape(x.shape), mean, variance


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _batch_norm(
    stage: int, epsilon: float, rows: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    mean, variance = _row_moments(rows, stage)
    return _shift_and_scale(rows, mean, variance, scale, bias, epsilon), mean, variance


@_batch_norm.defjvp
def _batch_norm_jvp(stage: int, epsilon: float, primals: tuple, tangents: tuple) -> tuple:
    rows, scale, bias = primals
    d_rows, d_scale, d_bias = tangents
    y, mean, variance = _batch_norm(stage, epsilon, rows, scale, bias)
    inverse = lax.rsqrt(variance + epsilon)
    factor = scale * inverse
    centred, d_rows = rows.astype(mean.dtype) - mean[None], d_rows.astype(mean.dtype)
    d_mean = _row_mean(d_rows, stage)
    half_d_variance = _row_mean(d_rows * centred, stage)
    # Each sum of the cotangent stands for two terms: what channels share is added up before.
    shift = d_bias - factor * d_mean
    slope = inverse * (d_scale - factor * inverse * half_d_variance)
    d_y = factor[None] * d_rows + (centred * slope[None] + shift[None])
    return (y, mean, variance), (d_y.astype(y.dtype), d_mean, 2 * half_d_variance)


WRITTEN_OUT.add(_batch_norm.__name__)


def normalize(
    x: Features,
    mean: Float[Given, "..."],
    variance: Float[Given, "..."],
    scale: PerChannel = None,
    bias: PerChannel = None,
    *,
    epsilon: float = 1e-5,
) -> Normalized:
    r"""Subtract a mean, divide by a standard deviation, then scale and shift.

    $$y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta$$

    computed in at least float32.

    Args:
        x: shape (..., C).
        mean: shape (C,), or of x's rank with every axis either x's or 1.
        variance: of mean's shape.
        scale: gamma, shape (C,); None is one.
        bias: beta, shape (C,); None is zero.
        epsilon: added to the variance, in units of x squared.

    Returns:
        x's shape and dtype.

    Raises:
        ValueError: if a shape does not fit x, or epsilon is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> x = jnp.array([[1.0, 10.0], [3.0, 16.0]])
        >>> mean, variance = ops.batch_moments(x)
        >>> ops.normalize(x, mean, variance, jnp.array([1.0, 2.0]), epsilon=0.0).round(4).tolist()
        [[-1.0, -2.0], [1.0, 2.0]]

    Reference:
        Ioffe and Szegedy 2015, "Batch normalization".
    """
    op = "normalize"
    x, scale, bias, epsilon = _check_affine(op, x, scale, bias, epsilon)
    channels = x.shape[-1]
    (mean,) = _shapes.check_arrays(op, mean=mean)
    (variance,) = _shapes.check_arrays(op, variance=variance)
    for name, moment in (("mean", mean), ("variance", variance)):
        fits = moment.ndim == x.ndim and all(
            m in (1, n) for m, n in zip(moment.shape, x.shape, strict=True)
        )
        if not fits and moment.shape != (channels,):
            raise ValueError(
                f"{op}: {name} has shape {moment.shape}; expected ({channels},), or {x.ndim} axes "
                f"that are 1 or those of x, {x.shape}"
            )
    if mean.ndim == variance.ndim == 1:
        y = _shift_and_scale(_rows(x), mean, variance, scale, bias, epsilon)
        return y.reshape(x.shape)
    return _shift_and_scale(x, mean, variance, scale, bias, epsilon)


def group_norm(
    x: Float[Given, "batch *spatial features"],
    scale: PerChannel = None,
    bias: PerChannel = None,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
) -> Float[Array, "batch *spatial features"]:
    r"""Normalise every example over space and the channels of a group.

    $$y[n, i, c] = \gamma_c \, \frac{x[n, i, c] - \mu[n, g(c)]}{\sqrt{\sigma^2[n, g(c)] + \epsilon}}
      + \beta_c$$

    One group is layer norm over space and channels; as many groups as channels is instance norm.

    Args:
        x: shape (batch, *spatial, C).
        scale: gamma, shape (C,); None is one.
        bias: beta, shape (C,); None is zero.
        num_groups: number of groups of C // num_groups neighbouring channels.
        epsilon: added to the variance, in units of x squared.

    Returns:
        x's shape and dtype.

    Raises:
        ValueError: if num_groups does not divide C, a shape does not fit x, or epsilon is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> x = jnp.array([[1.0, 3.0, 20.0, 40.0]])
        >>> ops.group_norm(x, num_groups=2, epsilon=0.0).round(4).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]

    Reference:
        Wu and He 2018, "Group normalization".
    """
    op = "group_norm"
    x, scale, bias, epsilon = _check_affine(op, x, scale, bias, epsilon)
    channels = x.shape[-1]
    num_groups = _check.integer(f"{op}: num_groups", num_groups, 1)
    if channels % num_groups:
        raise ValueError(
            f"{op}: num_groups={num_groups} does not divide the {channels} channels of x {x.shape}"
        )
    summed = shield(x)
    grouped = summed.reshape(*x.shape[:-1], num_groups, channels // num_groups)
    mean, variance = _moments(grouped, (*range(1, x.ndim - 1), grouped.ndim - 1))
    whole = (*mean.shape[:-2], channels)
    spread = (*mean.shape[:-1], channels // num_groups)
    mean, variance = (jnp.broadcast_to(m, spread).reshape(whole) for m in (mean, variance))
    return _shift_and_scale(summed, mean, variance, scale, bias, epsilon)


def layer_norm(
    x: Features, scale: PerChannel = None, bias: PerChannel = None, *, epsilon: float = 1e-5
) -> Normalized:
    r"""Normalise over the channels at every position.

    $$y[i, c] = \gamma_c \, \frac{x[i, c] - \mu_i}{\sqrt{\sigma_i^2 + \epsilon}} + \beta_c$$

    Space is not averaged over: this is ConvNeXt's layer norm, and Flax's default. Layer norm over
    space as well is `group_norm` with one group.

    Args:
        x: shape (..., C).
        scale: gamma, shape (C,); None is one.
        bias: beta, shape (C,); None is zero.
        epsilon: added to the variance, in units of x squared.

    Returns:
        x's shape and dtype.

    Raises:
        ValueError: if a shape does not fit x, or epsilon is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> x = jnp.array([[1.0, 3.0], [20.0, 40.0]])
        >>> ops.layer_norm(x, bias=jnp.array([0.0, 5.0]), epsilon=0.0).round(4).tolist()
        [[-1.0, 6.0], [-1.0, 6.0]]

    Reference:
        Ba, Kiros and Hinton 2016, "Layer normalization"; Liu et al. 2022, "A ConvNet for the
        2020s".
    """
    x, scale, bias, epsilon = _check_affine("layer_norm", x, scale, bias, epsilon)
    summed = shield(x)
    mean, variance = _moments(summed, (x.ndim - 1,))
    return _shift_and_scale(summed, mean, variance, scale, bias, epsilon)


def _check_affine(
    op: str, x: Given, scale: Given | None, bias: Given | None, epsilon: float
) -> tuple[jax.Array, jax.Array | None, jax.Array | None, float]:
    """Return image, scale, bias and epsilon, each by itself as it may be, and fitting the image."""
    (x,) = _shapes.check_arrays(op, x=x)
    channels = x.shape[-1] if x.ndim else 0
    if channels < 1:
        raise ValueError(
            f"{op}: x has shape {x.shape}; expected (..., C) with at least one channel"
        )
    scale, bias = (
        _per_channel(op, name, value, channels)
        for name, value in (("scale", scale), ("bias", bias))
    )
    return x, scale, bias, _check.number(f"{op}: epsilon", epsilon, least=0)


def _per_channel(op: str, name: str, value: Given | None, channels: int) -> jax.Array | None:
    if value is None:
        return None
    (array,) = _shapes.check_arrays(op, **{name: value})
    if array.shape != (channels,):
        raise ValueError(f"{op}: {name} has shape {array.shape}; expected ({channels},)")
    return array


def _check_averaged(op: str, x: jax.Array) -> None:
    if x.ndim < 2 or 0 in x.shape[:-1]:
        raise ValueError(f"{op}: x has shape {x.shape}; expected (..., C) with elements to average")


def _rows(x: jax.Array) -> jax.Array:
    """Return x as (positions, features): sums over one axis, in derivatives too.

    XLA on CPU (JAX 0.10) takes two to four times as long for sums over several axes.
    """
    return x.reshape(-1, x.shape[-1])


def _row_mean(rows: jax.Array, stage: int) -> jax.Array:
    return row_sum(rows, stage) / rows.shape[0]


def _row_moments(rows: jax.Array, stage: int) -> tuple[jax.Array, jax.Array]:
    wide = rows.astype(_shapes.at_least_float32(rows.dtype))
    mean = _row_mean(wide, stage)
    return mean, _row_mean(jnp.square(wide - mean[None]), stage)


def _moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    x = x.astype(_shapes.at_least_float32(x.dtype))
    mean = _mean(x, axes)
    return mean, _mean(jnp.square(x - mean), axes)


def _mean(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    # One axis after the other, for the accuracy of short sums.
    total = x
    for axis in reversed(axes):
        total = jnp.sum(total, axis, keepdims=True)
    # Not x.size // total.size: an empty batch has no elements of either.
    return total / max(math.prod(x.shape[axis] for axis in axes), 1)


def _shift_and_scale(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
) -> jax.Array:
    dtype = _shapes.at_least_float32(x.dtype)

    def align(per_channel: jax.Array) -> jax.Array:
        wide = per_channel.astype(dtype)
        return wide if wide.ndim == x.ndim else wide.reshape((1,) * (x.ndim - 1) + wide.shape)

    factor = lax.rsqrt(align(variance) + epsilon)
    if scale is not None:
        factor = factor * align(scale)
    y = (x.astype(dtype) - align(mean)) * factor
    if bias is not None:
        y = y + align(bias)
    return y.astype(x.dtype)
