"""Values in another dtype, where it can hold them."""

import jax.numpy as jnp
import numpy as np


def cast(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return real numbers in a floating dtype, rounded; NaN and infinity stay what they are.

    Args:
      value: floating point or integers.
      dtype: a floating dtype.

    Returns:
      An array of that dtype.

    Raises:
      ValueError: numbers that are not real, finite ones that the dtype has no room for, or integers
        above those that it counts one by one. The message says what the array holds.
    """
    if jnp.issubdtype(value.dtype, jnp.integer):
        most = 2 ** (jnp.finfo(dtype).nmant + 1)
        wrong = (value > most) | (value < -most)
        reason = f"{dtype} holds all integers up to {most} only"
    elif jnp.issubdtype(value.dtype, jnp.floating):
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            found = value.astype(dtype)
        wrong = np.isfinite(value) & ~np.isfinite(found)
        reason = f"the largest {dtype} is {float(jnp.finfo(dtype).max):.3g}"
    else:
        raise ValueError(f"is {value.dtype}, and weights are real numbers")
    if wrong.any():
        raise ValueError(f"holds {value[wrong].ravel()[0]}, and {reason}")
    return value.astype(dtype)
