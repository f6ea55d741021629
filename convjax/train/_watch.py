"""What a watched step logs of every layer: norms of gradients, updates and weights, by path."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import _check, nn

Layers = dict[str, dict[str, jax.Array]]
# By kind, the paths and the shapes of their numbers.
Layout = Iterable[tuple[str, Iterable[tuple[str, tuple[int, ...]]]]]


class Names:
    """What the arrays of a state are called: the path of the node that holds each, and its name.

    Attributes:
      params: public path and number of repeats around it, by place in the parameters' dictionary.
      rest: the same for the rest.
    """

    def __init__(self, net: nnx.Module):
        self.params = _named(net, nnx.Param)
        self.rest = _named(net, nnx.BatchStat)


def _named(net: nnx.Module, kind: type[nnx.Variable]) -> dict[tuple, tuple[str, int]]:
    graphdef, state, others = nnx.split(net, kind, ...)
    leaves, treedef = jax.tree.flatten(state)
    numbered = jax.tree.unflatten(treedef, [np.int32(i) for i in range(len(leaves))])
    twin = nnx.merge(graphdef, numbered, others, copy=True)
    public: dict[int, tuple[str, int]] = {}
    for path, node, repeats in nn.walk(twin) if isinstance(net, nn.Node) else ():
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


class Watched(Mapping[str, Mapping[str, float]]):
    """One watched step's norms as ``by_path`` returns them, in a twentieth of its memory.

    Args:
      places: by path and kind, where a number stands; one dictionary for all steps of a run.
      numbers: all of the step's.
    """

    def __init__(self, places: Mapping[str, Mapping[str, int]], numbers: np.ndarray):
        self._places = places
        self._numbers = numbers

    @classmethod
    def of_steps(
        cls, found: Mapping[str, Mapping[str, np.ndarray]], order: Callable[[str], Any]
    ) -> "list[Watched]":
        """Return the norms of every step, by what a dispatch returns: the steps' axis first.

        Args:
          found: by kind, then by path.
          order: by which paths are sorted.
        """
        layout = tuple(
            (kind, tuple((path, array.shape[1:]) for path, array in values.items()))
            for kind, values in found.items()
        )
        places = _ordered_places(layout, order)
        arrays = [array for values in found.values() for array in values.values()]
        numbers = np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)
        return [cls(places, row.copy()) for row in numbers]

    def __getitem__(self, path: str) -> dict[str, float]:
        return {kind: float(self._numbers[i]) for kind, i in self._places[path].items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return repr(dict(self))


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a row in which all is what JSON can hold."""
    layers = {"layers": dict(row["layers"])} if "layers" in row else {}
    return {**row, **layers}


def by_path(
    found: Mapping[str, Mapping[str, np.ndarray | np.generic]],
) -> dict[str, dict[str, float]]:
    """Return one watched step's norms by path, each unit of a repeat by its number.

    Args:
      found: the step's ``metrics["layers"]``: by kind, then by path, with repeats as axes.

    Returns:
      By path, then by kind.

    Raises:
      ValueError: an array that has not one axis for every ``*`` of its path.

    Example:
      >>> import numpy as np
      >>> from convjax import train
      >>> train.by_path({"signal": {"body/*": np.array([0.5, 0.25])}})
      {'body/0': {'signal': 0.5}, 'body/1': {'signal': 0.25}}
    """
    expected = 'metrics["layers"] of one step: arrays by kind, then by path'
    for kind, values in _check.instance("found", found, Mapping, expected).items():
        for path, value in _check.instance(f"found[{kind!r}]", values, Mapping, expected).items():
            axes = path.split("/").count("*")
            _check.array(f"found[{kind!r}][{path!r}]", value, ndim=axes)
    numbers = [np.ravel(value) for values in found.values() for value in values.values()]
    shapes = ((k, [(p, np.shape(a)) for p, a in values.items()]) for k, values in found.items())
    places = _places(shapes)
    return dict(Watched(places, np.concatenate(numbers))) if places else {}


@functools.lru_cache(maxsize=4)
def _ordered_places(layout: Layout, order: Callable[[str], Any]) -> dict[str, dict[str, int]]:
    """Return the places of a run, once for all of its steps, by paths in an order."""
    places = _places(layout)
    return {path: places[path] for path in sorted(places, key=order)}


def _places(layout: Layout) -> dict[str, dict[str, int]]:
    """Return where each number stands when all are laid in a row, by path and kind."""
    places: dict[str, dict[str, int]] = {}
    count = itertools.count()
    for kind, values in layout:
        for path, shape in values:
            for index in np.ndindex(*shape):
                numbers = iter(index)
                parts = [str(next(numbers)) if part == "*" else part for part in path.split("/")]
                places.setdefault("/".join(parts), {})[kind] = next(count)
    return places
