"""Kernels made from kernels: standardised, and separated into columns and rows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from convjax import _check
from convjax.ops import _shapes
from convjax.ops._shapes import Given


def standardize_kernel(
    kernel: Float[Given, "*window_and_in out_features"],
    *,
    gain: float | Float[Given, "..."] = 1.0,
    epsilon: float = 1e-4,
    scaled: bool = True,
) -> Float[Array, "*window_and_in out_features"]:
    r"""Give every output channel's weights zero mean and variance gain^2 / fan_in.

    $$\hat{w}[\cdot, o] = \gamma_o \, \frac{w[\cdot, o] - \mu_o}
      {\sqrt{\max(f \sigma_o^2, \epsilon)}}$$

    with mean and (biased) variance over window and input channels, and f = fan_in their number. At
    gain 1 the convolution then keeps the variance of independent inputs of zero mean. Without
    ``scaled``, the weights have variance gain^2:

    $$\hat{w}[\cdot, o] = \gamma_o \, \frac{w[\cdot, o] - \mu_o}{\sqrt{\sigma_o^2 + \epsilon}}$$

    Computed in at least float32.

    Args:
        kernel: shape (*window, C, D), or (C, D).
        gain: gamma, a number or shape (D,).
        epsilon: smallest value of fan_in times variance that is divided by; without ``scaled``,
            what is added to the variance.
        scaled: whether the weights are divided by the root of fan_in too (Brock et al.); False is
            the first form (Qiao et al.), which BiT has.

    Returns:
        kernel's shape and dtype.

    Raises:
        ValueError: if the kernel has fewer than two axes or no weights, gain's shape is neither ()
            nor (D,), or epsilon is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> kernel = jnp.array([[1.0, 10.0], [3.0, 10.0], [1.0, 10.0], [3.0, 10.0]])
        >>> ops.standardize_kernel(kernel).round(4).T.tolist()
        [[-0.5, 0.5, -0.5, 0.5], [0.0, 0.0, 0.0, 0.0]]

    Reference:
        Qiao et al. 2019, "Weight standardization"; the scaled form: Brock et al. 2021,
        "Characterizing signal propagation to close the performance gap in unnormalized ResNets".
    """
    op = "standardize_kernel"
    (kernel,) = _shapes.check_arrays(op, kernel=kernel)
    if kernel.ndim < 2 or kernel.size == 0:
        raise ValueError(f"{op}: kernel has shape {kernel.shape}; expected (*window, C, D)")
    out_features = kernel.shape[-1]
    if getattr(gain, "shape", ()) == () and not isinstance(gain, jax.Array):
        gain = _check.number(f"{op}: gain", gain)
    else:
        (gain,) = _shapes.check_arrays(op, gain=gain)
    if jnp.shape(gain) not in ((), (out_features,)):
        raise ValueError(
            f"{op}: gain has shape {jnp.shape(gain)}; expected a number or ({out_features},)"
        )
    epsilon = _check.number(f"{op}: epsilon", epsilon, above=0)
    wide = kernel.astype(_shapes.at_least_float32(kernel.dtype)).reshape(-1, out_features)
    deviation = wide - jnp.mean(wide, 0, keepdims=True)
    if _check.flag(f"{op}: scaled", scaled):
        squares = jnp.maximum(jnp.sum(jnp.square(deviation), 0), epsilon)  # fan_in * variance
    else:
        squares = jnp.mean(jnp.square(deviation), 0) + epsilon
    factor = lax.rsqrt(squares) * jnp.asarray(gain, wide.dtype)
    return (deviation * factor[None]).reshape(kernel.shape).astype(kernel.dtype)


class SeparatedKernel(NamedTuple):
    """A sum of outer products of columns and rows, and how much of the kernel it misses.

    Attributes:
        columns: shape (rank, kh, 1) or (rank, kh, 1, C, D).
        rows: shape (rank, 1, kw) or (rank, 1, kw, C, D).
        error: relative Frobenius error, shape () or (C, D).
    """

    columns: Float[Array, "..."]
    rows: Float[Array, "..."]
    error: Float[Array, "..."]


def separate_kernel(kernel: Float[Given, "..."], rank: int) -> SeparatedKernel:
    r"""Approximate a kernel by a sum of outer products of columns and rows.

    $$w \approx \sum_{r=1}^{R} u_r v_r^\top, \qquad
      \text{error} = \frac{\| w - \sum_r u_r v_r^\top \|_F}{\| w \|_F}
      = \sqrt{\sum_{r > R} \sigma_r^2 \Big/ \sum_r \sigma_r^2}$$

    which is the best such sum in the Frobenius norm (for every pair of channels), found by singular
    value decomposition. Column and row share the singular value evenly, and the first of a row's
    entries of about the largest magnitude is positive. Computed in at least float32; derivatives
    exist where the singular values are distinct and the first `rank` of them positive.

    Args:
        kernel: shape (kh, kw) or (kh, kw, C, D).
        rank: number R of outer products, from 1 to min(kh, kw).

    Returns:
        A `SeparatedKernel`, of the kernel's dtype: columns (R, kh, 1, ...), rows (R, 1, kw, ...),
        with sum(columns * rows, axis 0) the approximation, and error () or (C, D), no unit.
        The error of a kernel of zeros is 0.

    Raises:
        ValueError: if the kernel has not two or four axes or no weights, or rank is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> sobel = jnp.array([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]])
        >>> columns, rows, error = ops.separate_kernel(sobel, 1)
        >>> bool(jnp.allclose((columns * rows).sum(0), sobel, atol=1e-5)), bool(error < 1e-5)
        (True, True)
        >>> bool(jnp.allclose(rows / rows[0, 0, 0], jnp.array([1.0, 2.0, 1.0]).reshape(1, 1, 3)))
        True

    Reference:
        Eckart and Young 1936, "The approximation of one matrix by another of lower rank";
        Jaderberg, Vedaldi and Zisserman 2014, "Speeding up convolutional neural networks with low
        rank expansions".
    """
    op = "separate_kernel"
    (kernel,) = _shapes.check_arrays(op, kernel=kernel)
    if kernel.ndim not in (2, 4) or kernel.size == 0:
        raise ValueError(
            f"{op}: kernel has shape {kernel.shape}; expected (kh, kw) or (kh, kw, C, D)"
        )
    rank = _check.integer(f"{op}: rank", rank)
    most = min(kernel.shape[:2])
    if not 1 <= rank <= most:
        raise ValueError(
            f"{op}: rank={rank} is out of range; a kernel of shape {kernel.shape} has 1 to {most}"
        )
    wide = kernel.astype(_shapes.at_least_float32(kernel.dtype))
    last_two = jnp.moveaxis(wide, (0, 1), (-2, -1))
    left, singular, right = jnp.linalg.svd(last_two, full_matrices=False)
    root = jnp.sqrt(singular[..., :rank])
    columns = left[..., :rank] * root[..., None, :]
    rows = right[..., :rank, :] * root[..., :, None]
    sign = _sign_of_peak(lax.stop_gradient(rows))
    columns, rows = columns * jnp.swapaxes(sign, -1, -2), rows * sign
    power = jnp.square(singular)
    missed, whole = jnp.sum(power[..., rank:], -1), jnp.sum(power, -1)
    found = missed > 0  # where it is not, the square root has no derivative, and the error is 0
    error = jnp.where(found, jnp.sqrt(jnp.where(found, missed / jnp.where(found, whole, 1), 1)), 0)
    return SeparatedKernel(
        jnp.moveaxis(columns, (-1, -2), (0, 1))[:, :, None].astype(kernel.dtype),
        jnp.moveaxis(rows, (-2, -1), (0, 1))[:, None].astype(kernel.dtype),
        error.astype(kernel.dtype),
    )


def _sign_of_peak(rows: jax.Array) -> jax.Array:
    """Sign of the first entry within a tenth of the largest, so rounding cannot decide a tie."""
    size = jnp.abs(rows)
    first = jnp.argmax(size >= 0.9 * jnp.max(size, -1, keepdims=True), -1, keepdims=True)
    return jnp.where(jnp.take_along_axis(rows, first, -1) < 0, -1, 1).astype(rows.dtype)
