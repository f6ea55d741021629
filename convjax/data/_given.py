"""Images and their moments as callers give them: checked where they enter."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax._check import shown, wrong_type


def checked_images(name: str, images: Any) -> np.ndarray | jax.Array:
    """Return images ``(N, H, W, C)`` as uint8, or as floating point that is finite in float32.

    Args:
      name: of the argument.
      images: an array of NumPy or JAX; NumPy's float64 keeps its digits.

    Raises:
      ValueError: images of another kind, shape or dtype, or none, or not all finite.
    """
    if not isinstance(images, np.ndarray | jax.Array):
        wrong_type(name, images, "an array of NumPy or JAX")
    floating = jnp.issubdtype(images.dtype, jnp.floating)
    if images.ndim != 4 or not images.size or not (floating or images.dtype == np.uint8):
        raise ValueError(
            f"{name} are {images.dtype} of the shape {images.shape}; they must be uint8 or "
            "floating point, of the shape (N, H, W, C), and at least one"
        )
    if floating:
        xp = jnp if isinstance(images, jax.Array) else np
        with np.errstate(over="ignore"):
            finite = xp.isfinite(images.astype(np.float32)).all()
        try:
            finite = bool(finite)
        except jax.errors.ConcretizationTypeError:
            wrong_type(name, images, "an array that is known, outside of jit")
        if not finite:
            raise ValueError(f"{name} hold NaN or infinity; they must be finite in float32")
    return images


def reals(name: str, values: Any) -> np.ndarray:
    """Return finite real numbers as float64, of whatever shape."""
    try:
        found = np.asarray(values)
        real = found.dtype.kind in "iu" or jnp.issubdtype(found.dtype, jnp.floating)
    except Exception:  # of no one shape, known only to a trace, or what its own code raises
        real = False
    if not real:
        wrong_type(name, values, "numbers")
    found = found.astype(np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"{name}={shown(values)} must be finite")
    return found


def check_divisor(name: str, values: Any) -> None:
    """Refuse what float32 cannot divide by: zero, negative numbers, and those out of its range."""
    with np.errstate(all="ignore"):
        divisor = np.asarray(values, np.float32)
        inverse = np.float32(1) / divisor
    if not ((divisor > 0) & np.isfinite(inverse) & (inverse > 0)).all():
        raise ValueError(f"{name}={shown(values)} must be positive, within the range of float32")
