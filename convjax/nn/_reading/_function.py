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

    Where the network has a mode, ``apply`` names it, as ``train`` say, and where it needs random
    numbers, ``rngs``. Where training moves statistics, ``apply`` returns them beside the output.
    Linen: ``nn.Function(lambda v, x, train: module.apply(v, x, train, mutable=["batch_stats"] if
    train else False), variables)``.

    Args:
      apply: called as ``apply(params, x)``, and by name with what else it takes of ``train`` (or
        ``training``, ``is_training``, ``deterministic``, …) and ``rngs``, an ``nnx.Rngs``. It
        returns one array; or a pair of it and a mapping, whose entries are the new values of those
        entries of ``params`` that are statistics.
      params: any pytree of arrays. Where it is a mapping with the entry "params", as Linen's, the
        other entries are statistics; else every floating array is a parameter.

    Raises:
      ValueError: what is no function; a pytree that holds no array; in the call, new values of what
        is no statistic.

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
            # Of NumPy's dtypes JAX has not all.
            leaf = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            learned = not split or path[0].key == "params"
            kind = nnx.Param if learned else nnx.BatchStat
            setattr(self, name, (kind if floating else nnx.Variable)(leaf))
        # Entry of the statistics, place in it, and name.
        self.statistics = tuple(
            (_name(path[:1]), _name(path[1:]), name)
            for name, (path, _) in zip(self.names, leaves, strict=True)
            if split and path[0].key != "params"
        )

    def values(self) -> Any:
        """Return ``params`` with the values that they have now."""
        leaves = [getattr(self, name)[...] for name in self.names]
        return jax.tree.unflatten(self.structure, leaves)

    def __call__(self, x, **how: Any):
        """Apply the function to ``x``; statistics that it returns are the new ones."""
        result = self.apply(self.values(), x, **how)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
            return result
        output, updates = result
        for entry, tree in updates.items():
            self._update(str(entry), tree)
        return output

    def _update(self, entry: str, tree: Any) -> None:
        """Take the new values of one entry of the statistics."""
        names = {inner: name for e, inner, name in self.statistics if e == entry}
        found = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        if not names or found.keys() != names.keys():
            odd = sorted(found.keys() ^ names.keys())[:1] if names else []
            differs = f", which differs in {odd[0]!r} from params[{entry!r}]" if odd else ""
            known = ", ".join(dict.fromkeys(repr(e) for e, _, _ in self.statistics)) or "none"
            raise ValueError(
                f"apply returned new values of {entry!r}{differs}; it may return whole entries of "
                f'params beside "params" ({known})'
            )
        for inner, name in names.items():
            getattr(self, name)[...] = found[inner]


def _name(path: tuple[Any, ...]) -> str:
    """Return the name of a leaf; an array alone is called as the argument is."""
    parts = (str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)
    return "/".join(parts) or "params"
