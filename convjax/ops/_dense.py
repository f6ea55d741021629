"""The matrix product over the last axis."""

from functools import partial

from jax import lax
from jaxtyping import Array, Float

from convjax.ops import _precision, _shapes
from convjax.ops._shapes import Given
from convjax.ops._shield import shielded


def dense(
    x: Float[Given, "*batch in_features"],
    kernel: Float[Given, "..."],
    bias: Float[Given, "..."] | None = None,
    *,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "*batch out_features"]:
    r"""Multiply the last axis by a matrix, and add a bias.

    $$y[i, o] = \sum_c x[i, c] \, w[c, o] + b_o$$

    Args:
        x: shape (..., C).
        kernel: shape (C, D), of x's dtype.
        bias: shape (D,), of x's dtype; None is zero.
        precision: of the products, as `jax.lax.Precision`.

    Returns:
        Shape (..., D), of x's dtype.

    Raises:
        ValueError: if a shape does not fit, or dtypes disagree.

    Example:
        >>> import jax.numpy as jnp
        >>> from convjax import ops
        >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> ops.dense(x, jnp.array([[1.0], [10.0]]), jnp.array([0.5])).tolist()
        [[21.5], [43.5]]

    Reference:
        Rosenblatt 1958, "The perceptron".
    """
    op = "dense"
    beside = {} if bias is None else {"bias": bias}
    x, kernel, *biases = _shapes.check_arrays(op, x=x, kernel=kernel, **beside)
    if kernel.ndim != 2 or x.ndim < 1 or x.shape[-1] != kernel.shape[0]:
        raise ValueError(
            f"{op}: x has shape {x.shape} and kernel {kernel.shape}; expected (..., C) and (C, D)"
        )
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))
    product = partial(
        lax.dot_general, dimension_numbers=dimensions, precision=_precision.fix(op, precision)
    )
    y = shielded(product, x, kernel)
    for given in biases:
        if given.shape != kernel.shape[1:]:
            raise ValueError(f"{op}: bias has shape {given.shape}; expected ({kernel.shape[1]},)")
        y = y + given.reshape((1,) * (y.ndim - 1) + given.shape)
    return y
