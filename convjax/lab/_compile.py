"""Compiling what runs once: LLVM's highest effort costs more than it saves there."""

from collections.abc import Callable
from typing import Any

import jax


def compiled(function: Callable[..., Any], *arguments: Any, level: int | None = 0) -> Any:
    """Compile a function with less effort, for what runs once or draws random numbers.

    At its highest level LLVM spends most of a minute on random numbers, for nothing.

    Args:
      function: it can be traced.
      *arguments: arrays of the shapes that it will be called with, or their shapes.
      level: of LLVM's effort on CPU; 0 for what runs once, 2 for loops over networks, None for
        the highest.

    Returns:
      The compiled function.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import lab
      >>> float(lab.compiled(jnp.sum, jnp.ones(3))(jnp.ones(3)))
      3.0
    """
    return jax.jit(function).lower(*arguments).compile(compiler_options(level))


def compiler_options(level: int | None = 0) -> Any:
    """Return the options of ``compiled``, for programs that are compiled elsewhere.

    Args:
      level: of LLVM's effort on CPU; None leaves it at its highest.

    Example:
      >>> from convjax import lab
      >>> isinstance(lab.compiler_options(), dict)
      True
    """
    if level is None or jax.default_backend() != "cpu":
        return {}
    if jax.config.read("jax_disable_most_optimizations"):
        return {}
    return {"xla_backend_optimization_level": level}
