"""What a watched step logs of every layer: norms of gradients, updates and weights, by path."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import gradflow, nn

Layers = dict[str, dict[str, jax.Array]]


class Names:
    """What the arrays of a state are called: the path of the node that holds each, and its name.

    Attributes:
      params: public path and number of repeats around it, by place in the parameters' dictionary.
      rest: the same for the rest.
      places: where the trunk's gradients are tapped.
    """

    def __init__(self, net: nnx.Module):
        self.params = _named(net, nnx.Param)
        self.rest = _named(net, nnx.BatchStat)
        self.places = gradflow.trunk(net)


def _named(net: nnx.Module, kind: type[nnx.Variable]) -> dict[tuple, tuple[str, int]]:
    graphdef, state, others = nnx.split(net, kind, ...)
    leaves, treedef = jax.tree.flatten(state)
    numbered = jax.tree.unflatten(treedef, [np.int32(i) for i in range(len(leaves))])
    twin = nnx.merge(graphdef, numbered, others, copy=True)
    public: dict[int, tuple[str, int]] = {}
    for path, node, repeats in nn.walk(twin):
        for inner, leaf in nnx.to_flat_state(nnx.state(node, kind)):
            # Children come first: what a node repeats of theirs is theirs already.
            name = nn.join(path, "/".join(map(str, inner)))
            public.setdefault(int(leaf[...]), (name, len(repeats)))
    pure = jax.tree.leaves_with_path(nnx.to_pure_dict(numbered))
    names = {}
    for path, number in pure:
        keys = tuple(part.key for part in path)
        names[keys] = public.get(int(number), ("/".join(map(str, keys)), 0))
    return names


def layers(
    names: Names, *, params: Any, rest: Any, gradients: Any, updates: Any, taps: Mapping[str, Any]
) -> Layers:
    """Return what a watched step logs: by kind, then by path; repeats keep their axes.

    Args:
      names: what the arrays are called.
      params: before the step.
      rest: after it.
      gradients: before any clip, and without loss scale.
      updates: what was added to the parameters.
      taps: sums of squares of the gradients along the trunk.
    """
    found: Layers = {
        kind: {name: _norm(leaf, axes) for name, leaf, axes in _walked(tree, names.params)}
        for kind, tree in (("gradient", gradients), ("update", updates), ("weight", params))
    }
    found["signal"] = {path: jnp.sqrt(value) for path, value in taps.items()}
    for name, leaf, axes in _walked(rest, names.rest):
        node, _, what = name.rpartition("/")
        if what == "mean":
            size = np.prod(leaf.shape[axes:], dtype=np.float32)
            found.setdefault("mean", {})[node] = _norm(leaf, axes) / np.sqrt(size)
        elif what == "var":
            inner = tuple(range(axes, leaf.ndim))
            found.setdefault("variance", {})[node] = jnp.mean(leaf, inner)
    return found


def _walked(tree: Any, names: Mapping[tuple, tuple[str, int]]) -> Iterator[tuple[str, Any, int]]:
    for path, leaf in jax.tree.leaves_with_path(tree):
        known = names.get(tuple(part.key for part in path))
        if known is not None:
            yield known[0], leaf, known[1]


def _norm(leaf: jax.Array, axes: int) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(leaf), tuple(range(axes, leaf.ndim))))


def by_path(
    found: Mapping[str, Mapping[str, np.ndarray | np.generic]],
) -> dict[str, dict[str, float]]:
    """Return one watched step's norms by path, each unit of a repeat by its number.

    Args:
      found: the step's ``metrics["layers"]``: by kind, then by path, with repeats as axes.

    Returns:
      By path, then by kind.

    Example:
      >>> import numpy as np
      >>> from convjax import train
      >>> train.by_path({"signal": {"body/*": np.array([0.5, 0.25])}})
      {'body/0': {'signal': 0.5}, 'body/1': {'signal': 0.25}}
    """
    rows: dict[str, dict[str, float]] = {}
    for kind, values in found.items():
        for path, value in values.items():
            for index in np.ndindex(np.shape(value)):
                numbers = iter(index)
                parts = [str(next(numbers)) if part == "*" else part for part in path.split("/")]
                rows.setdefault("/".join(parts), {})[kind] = float(np.asarray(value)[index])
    return rows
