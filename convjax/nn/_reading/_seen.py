"""seen: a written expression, in which every unit that no rule knows is read from its program."""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from convjax import _trace
from convjax._rules import follows, is_known
from convjax.nn._activations import ACTIVATIONS
from convjax.nn._applied import applied
from convjax.nn._chain import Chain, Parallel
from convjax.nn._node import Node, children_of, join
from convjax.nn._reading._called import called_in, kinds_of, variables_of
from convjax.nn._reading._read import Template, expression_of, kept
from convjax.nn._reading._segment import Segment
from convjax.nn._repeat import Repeat
from convjax.nn._residual import Residual
from convjax.nn._simple import Activation, Identity

COMBINATORS = (Chain, Parallel, Residual, Repeat)


def seen(
    net: nnx.Module,
    x: jax.ShapeDtypeStruct,
    *,
    train: bool,
    rngs: nnx.Rngs | None = None,
    whole: Collection[str] = (),
) -> nnx.Module:
    """Return an expression in which instruments see into every unit.

    Modules and functions that no rule is registered for are read by their programs, at the shape
    that arrives there, and stand in their place. Values are shared, or copied with the same result.

    Args:
      net: an expression of ``convjax.nn``.
      x: shape and dtype of the batch.
      train: the mode, which is the one that units are read in.
      rngs: source of random numbers; it is not advanced.
      whole: paths of units that stay as they are.

    Returns:
      The expression; ``net`` itself where there is nothing to read.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import nn
      >>> net = nn.Chain(conv=nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)), relu=jax.nn.relu)
      >>> shape = jax.ShapeDtypeStruct((2, 5, 4, 3), "float32")
      >>> nn.kind_of(nn.seen(net, shape, train=False)["conv"])
      'Conv'
    """
    paths = tuple(path for path in _unknown(net, "", {}) if path not in whole)
    if not paths:
        return net
    wrapped: dict[int, nnx.Variable] = {}
    variables = variables_of(net, wrapped)
    streams = None if rngs is None or not train else nnx.clone(rngs)
    structure = None if streams is None else nnx.split(streams)[0]
    where = (x.shape, x.dtype, train, structure, paths)
    key = (nnx.split(net)[0], kinds_of(variables), *where)

    def make() -> Template:
        reader = _Seeing(train, streams, frozenset(paths), wrapped)
        return Template(reader.node(net, x, "", ())[0], variables, wrapped=wrapped)

    return kept(key, make).filled(variables)


def _unknown(node: nnx.Module, path: str, kinds: dict[type, str]) -> Iterator[str]:
    """Yield the paths of units that no rule knows; each type is looked up once."""
    if type(node) not in kinds:
        kinds[type(node)] = _kind(node)
    kind = kinds[type(node)]
    if kind == "combinator":
        for name, child in children_of(node):
            yield from _unknown(child, join(path, name), kinds)
    elif kind == "activation":
        if node.name not in ACTIVATIONS:  # pyright: ignore[reportAttributeAccessIssue]
            yield path
    elif kind == "unknown":
        yield path


def _kind(node: nnx.Module) -> str:
    if any(follows(node, kind) for kind in COMBINATORS):
        return "combinator"
    if follows(node, Activation):
        return "activation"
    return "leaf" if is_known(type(node)) or _is_ours(node) else "unknown"


def _is_ours(node: nnx.Module) -> bool:
    return isinstance(node, Node) and type(node).__module__.startswith("convjax.")


class Opaque(nnx.Module):
    """A function that cannot be read: a leaf of which nothing is known."""

    def __init__(self, function: Callable[[Any], Any]):
        self.function = function

    def __call__(self, x):
        """Apply the function."""
        return self.function(x)


@dataclasses.dataclass(frozen=True)
class _Seeing:
    """One walk over an expression, with the shapes that arrive at its units."""

    train: bool
    streams: nnx.Rngs | None
    paths: frozenset[str]
    wrapped: dict[int, nnx.Variable]
    shapes: dict[Any, Any] = dataclasses.field(default_factory=dict)

    def node(self, node: Any, x: Any, path: str, around: tuple[int, ...]) -> tuple[Any, Any]:
        """Return what stands for a node, and the shape of its output."""
        inside = f"{path}/" if path else ""
        if path in self.paths:
            y = self._shape(node, x, path, around)
            return self._read(node, x, path, around), y
        if not any(found.startswith(inside) for found in self.paths):
            return node, self._shape(node, x, path, around)
        if isinstance(node, Repeat):
            unit, y = self.node(node.unit, x, join(path, "*"), (*around, node.n))
            return _with(node, {"unit": unit}), y
        changed: dict[str, nnx.Module] = {}
        y = x
        for name, child in children_of(node):
            if isinstance(node, Residual) and name == "activation":
                y = self._shape(_with(node, {"activation": None}), x, path, around)
            inner = join(path, name)
            follows_on = isinstance(node, Chain) or name == "activation"
            changed[name], after = self.node(child, y if follows_on else x, inner, around)
            y = after if follows_on else y
        last = y if isinstance(node, Chain) else self._shape(node, x, path, around)
        return _with(node, changed), last

    def _shape(self, node: Any, x: Any, path: str, around: tuple[int, ...]) -> Any:
        """Return the shape of a node's output."""
        graphdef, state = nnx.split(node)
        one = _unstacked(state, around)
        leaves = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(one))
        key = (graphdef, leaves, x.shape, x.dtype)
        if key not in self.shapes:
            self.shapes[key] = self._traced(graphdef, one, x, path, type(node).__name__)
        return self.shapes[key]

    def _traced(self, graphdef: Any, state: Any, x: Any, path: str, kind: str) -> Any:
        def run(state: Any, x: Any) -> Any:
            streams = None if self.streams is None else nnx.clone(self.streams)
            return applied(nnx.merge(graphdef, state, copy=True), x, self.train, streams)

        name = f"unit {path!r} ({kind})" if path else f"net={kind}"
        try:
            y = jax.eval_shape(run, state, x)
        except Exception as error:
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(f"{name} cannot take an input of shape {x.shape}: {said}") from error
        if not isinstance(y, jax.ShapeDtypeStruct):
            raise ValueError(f"{name} returns {type(y).__name__}, and must return one array")
        return jax.ShapeDtypeStruct(y.shape, y.dtype)

    def _read(self, node: Any, x: Any, path: str, around: tuple[int, ...]) -> nnx.Module:
        """Return what a unit computes, as an expression; itself where it cannot be read."""
        streams = None if self.streams is None else _blank(self.streams, around)
        how = called_in(path, node, self.train, streams, self.wrapped)
        try:
            read, _ = expression_of(how, x, path=path, around=around, folds=False)
        except ValueError:  # what hands no gradient back, say
            return Opaque(node.function) if follows(node, Activation) else node
        found: Any = read
        only = found[0] if len(found) == 1 else None
        if follows(node, Activation) and _is_activation(only):
            return node
        if isinstance(only, Identity):  # dropout that does not drop, say
            vars(only).update(_label=path, _kind=type(node).__name__)
            return only
        labels = {getattr(unit, "_label", None) for unit in found}
        if streams is not None and _holds(found, streams):
            found.take(streams, self._drawn(node, x, around))
        elif isinstance(only, Segment) and path in labels:
            return only
        found._label = None if path in labels else path
        return found

    def _drawn(self, node: Any, x: Any, around: tuple[int, ...]) -> tuple[tuple[str, int], ...]:
        """Return how many random numbers a unit takes from each stream."""
        graphdef, state = nnx.split(node)
        assert self.streams is not None
        structure, start = nnx.split(self.streams)

        def counts(start: Any, state: Any, x: Any) -> list[Any]:
            streams = nnx.merge(structure, start, copy=True)
            applied(nnx.merge(graphdef, state, copy=True), x, self.train, streams)
            return [stream.count[...] for _, stream in streams.items()]

        blank = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), start)
        program = _trace.trace(counts, blank, _unstacked(state, around), x)
        found = [_trace.from_zeros(program, v) for v in program.outputs]
        return tuple((name, n) for name, n in zip(self.streams, found, strict=True) if n)


def _with(node: nnx.Module, changed: dict[str, Any]) -> Any:
    """Return a node with other children, all else shared."""
    copy = object.__new__(type(node))
    vars(copy).update(vars(node))
    vars(copy).update(changed)
    return copy


def _unstacked(state: Any, around: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[len(around) :], a.dtype), state)


def _is_activation(node: Any) -> bool:
    return isinstance(node, Segment) and node.like is not None and node.like.kind == "Activation"


def _blank(streams: nnx.Rngs, around: tuple[int, ...]) -> nnx.Rngs:
    """Return streams of the same kind, in whose place those of a call are put."""
    blank = nnx.clone(streams)
    for _, stream in blank.items():
        key = jax.random.key(0, impl=jax.random.key_impl(stream.key[...]))
        stream.key.set_value(jnp.broadcast_to(key, around))
        stream.count.set_value(jnp.zeros(around, stream.count[...].dtype))
    return blank


def _holds(node: nnx.Module, streams: nnx.Rngs) -> bool:
    """Whether leaves use random numbers of some streams."""
    theirs = {id(v) for _, v in nnx.iter_graph(streams) if isinstance(v, nnx.Variable)}
    return any(id(v) in theirs for _, v in nnx.iter_graph(node))
