"""Function: a module around a pure function and its parameters, of whatever framework."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import _check


class Function(nnx.Module):
    """A network of any framework: a pure function of parameters and input.

    Formula: ``function(x) = apply(params, x)``.

    Linen: ``nn.Function(lambda v, x: module.apply(v, x), variables)``. Haiku:
    ``nn.Function(lambda p, x: f.apply(p, None, x), params)``. Equinox: ``arrays, rest =
    eqx.partition(net, eqx.is_array)`` and ``nn.Function(lambda a, x: jax.vmap(eqx.combine(a,
    rest))(x), arrays)``.

    Args:
      apply: called as ``apply(params, x)``, returns one array.
      params: any pytree of arrays. Where it is a mapping with the entry "params", as Linen's, the
        other entries are statistics; else every floating array is a parameter.

    Raises:
      ValueError: what is no function; a pytree that holds no array.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from convjax import nn
      >>> net = nn.Function(lambda p, x: jax.nn.relu(x @ p["w"]), {"w": jnp.array([[2.0, -1.0]])})
      >>> net(jnp.array([[3.0]])).tolist()
      [[6.0, 0.0]]
    """

    def __init__(self, apply: Callable[[Any, Any], Any], params: Any):
        self.apply = _check.function("apply", apply, "a function of parameters and input")
        leaves, self.structure = jax.tree_util.tree_flatten_with_path(params)
        if not leaves:
            raise ValueError("params holds no array; give the pytree that apply takes")
        split = isinstance(params, Mapping) and "params" in params
        plain = [_name(path[split:]) for path, _ in leaves]
        # A statistic stands beside the parameters of its module, unless one has its name.
        alone = len(set(plain)) == len(plain)
        self.names = tuple(plain if alone else [_name(path) for path, _ in leaves])
        for name, (path, leaf) in zip(self.names, leaves, strict=True):
            _check.instance(
                f"params[{name}]", leaf, (np.ndarray, np.generic, jax.Array), "an array"
            )
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            learned = floating and (not split or path[0].key == "params")
            setattr(self, name, (nnx.Param if learned else nnx.Variable)(leaf))

    def __call__(self, x):
        """Apply the function to ``x``."""
        leaves = [getattr(self, name)[...] for name in self.names]
        return self.apply(jax.tree.unflatten(self.structure, leaves), x)


def _name(path: tuple[Any, ...]) -> str:
    """Return the name of a leaf; an array alone is called as the argument is."""
    parts = (str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)
    return "/".join(parts) or "params"
