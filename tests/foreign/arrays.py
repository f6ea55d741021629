"""Inputs, cotangents, random parameters and norms, the same for all frameworks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class References(NamedTuple):
    """Norms that were measured by a framework's own means.

    Attributes:
      units: by module path, the norms of the output and of the loss's gradient by it. The second
        call of a module has "#2" after its path.
      parameters: by path, the norm of a parameter's gradient.
      output: what the network returned.
    """

    units: dict[str, tuple[float, float]]
    parameters: dict[str, float]
    output: np.ndarray


def normal(shape, seed=0, dtype=jnp.float32):
    """Return standard Gaussian numbers that depend on shape and seed alone."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def cotangent_of(output, seed=7):
    return normal(output.shape, seed, output.dtype)


def shaken(tree, seed=1, dtype=jnp.float32):
    """Return a pytree with other values: none is zero or one, no two are alike, variances positive.

    Kernels keep their mean; vectors (biases, scales, statistics) get something positive added.
    """
    rng = np.random.default_rng(seed)

    def shake(leaf):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        value = np.asarray(leaf, np.float64) * np.exp(0.2 * rng.standard_normal(leaf.shape))
        if leaf.ndim < 2:
            value = value + 0.1 * np.abs(rng.standard_normal(leaf.shape))
        return jnp.asarray(value.astype(np.float32), dtype)  # the same values in both dtypes

    return jax.tree.map(shake, tree)


def norm(x) -> float:
    return float(np.linalg.norm(np.asarray(x, np.float64)))


def numbered(path: str, taken: Any) -> str:
    """Return a name for one more call of a module."""
    count = 1
    name = path
    while name in taken:
        count += 1
        name = f"{path}#{count}"
    return name


def norms(outputs, by_output, gradients, output) -> References:
    """Return the references from arrays by path."""
    units = {path: (norm(y), norm(by_output[path])) for path, y in outputs.items()}
    return References(units, {p: norm(g) for p, g in gradients.items()}, np.asarray(output))


def measured(run, params, x, cotangent=None):
    """Return output, the modules' outputs by path, and the gradients by parameters and by outputs.

    Args:
      run: of parameters, what is added to the modules' outputs (None: nothing) and the batch;
        returns the output, and the modules' outputs by path.
      params: the parameters.
      x: the batch.
      cotangent: of the output; one that depends on its shape alone if None.
    """
    _, shapes = jax.eval_shape(run, params, None, x)
    zeros = {path: jnp.zeros(s.shape, s.dtype) for path, s in shapes.items()}

    @jax.jit
    def measure(params, zeros, x):
        output, pullback, outputs = jax.vjp(lambda p, e: run(p, e, x), params, zeros, has_aux=True)
        ct = cotangent_of(output) if cotangent is None else cotangent
        return output, outputs, *pullback(ct)

    return measure(params, zeros, x)
