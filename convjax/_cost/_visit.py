"""The pricing interpreter: shapes in, shapes and counts out, dispatching on the node's type."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from convjax import _check, nn
from convjax._cost import _window
from convjax._cost._price import Price, price
from convjax._cost._window import Reach
from convjax._rules import by_type

Reaches = tuple[Reach, ...]


@dataclasses.dataclass(frozen=True)
class Work:
    """What is added up. ``parameters`` maps each variable's identity to its size."""

    multiply_adds: int = 0
    flops: int = 0
    activation_bytes: int = 0
    traffic_bytes: int = 0
    parameters: Mapping[int, int] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.multiply_adds + other.multiply_adds,
            self.flops + other.flops,
            self.activation_bytes + other.activation_bytes,
            self.traffic_bytes + other.traffic_bytes,
            {**self.parameters, **other.parameters},
        )

    def times(self, n: int) -> "Work":
        """Return the work of n such units, each with parameters of its own."""
        return Work(
            n * self.multiply_adds,
            n * self.flops,
            n * self.activation_bytes,
            n * self.traffic_bytes,
            {key: n * size for key, size in self.parameters.items()},
        )


class Signal(NamedTuple):
    """What passes along a network: its shape, and what it sees of each axis of the input."""

    x: jax.ShapeDtypeStruct
    reaches: Reaches


class Row(NamedTuple):
    """One node as it was visited; ``repeats`` are the lengths of the repeats around it."""

    node: Any
    signal: Signal
    work: Work
    repeats: tuple[int, ...]
    leaf: bool


@dataclasses.dataclass(frozen=True)
class Scope:
    """Where the interpreter stands, and where it writes.

    ``others`` are what a leaf of a graph takes besides its first input. ``shapes`` remembers output
    shapes: networks consist of equal units, and tracing one leaf takes a millisecond.
    """

    rows: dict[str, Row]
    unknown: list[str]
    shapes: dict[Any, Any]
    path: str = ""
    others: tuple[jax.ShapeDtypeStruct, ...] = ()

    def inside(self, name: str) -> "Scope":
        """Return the scope of a child."""
        return dataclasses.replace(self, path=nn.join(self.path, name), others=())


def abstract(node: nnx.Module, *, unstacked: bool = False) -> nnx.Module:
    """Return the same node with shapes for values; of a stacked one, its first unit."""

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape[1:] if unstacked else leaf.shape, leaf.dtype)

    graphdef, state = nnx.split(node)
    return nnx.merge(graphdef, jax.tree.map(shape, state))


def visit(node: nnx.Module, signal: Signal, scope: Scope) -> tuple[Signal, Work]:
    """Price one node and note it down; return what goes out and what it took."""
    count = len(scope.rows)
    signal, work = run(node, signal, scope)
    scope.rows[scope.path] = Row(node, signal, work, (), len(scope.rows) == count)
    return signal, work


@by_type
def run(node: Any, signal: Signal, scope: Scope) -> tuple[Signal, Work]:
    """Price one node, its children by ``visit``; a node whose type registers nothing is a leaf."""
    graphdef, state = nnx.split(node)
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state))
    key = graphdef, shapes, signal.x, scope.others
    if key not in scope.shapes:
        scope.shapes[key] = _shape(
            node,
            scope,
            lambda state, x, others: _called(nnx.merge(graphdef, state), x, others),
            state,
            signal.x,
            scope.others,
        )
    x, y = signal.x, scope.shapes[key]
    priced = price(node, x, y)
    if priced is None:
        scope.unknown.append(scope.path)
        seen = tuple(_window.unknown() for _ in signal.reaches)
        return Signal(y, seen), _leaf_work(node, x, y)
    kind = type(node).__name__
    _check.instance(f"the rule of {kind} in cost", priced, Price, "a convjax.Price, or None")
    work = Work() if priced.passes_on else _leaf_work(node, x, y)
    flops = 2 * priced.multiply_adds + priced.elementwise
    work = dataclasses.replace(work, multiply_adds=priced.multiply_adds, flops=flops)
    return Signal(y, _seen(priced.sees, signal, y)), work


def _called(node: Any, x: jax.Array, others: tuple[jax.Array, ...]) -> Any:
    return node(x, others=others) if others else nn.applied(node, x)


@run.register
def _(node: nn.Chain, signal: Signal, scope: Scope) -> tuple[Signal, Work]:
    total = Work()
    for name, unit in node.items():
        signal, work = visit(unit, signal, scope.inside(name))
        total += work
    return signal, total


@run.register
def _(node: nn.Graph, signal: Signal, scope: Scope) -> tuple[Signal, Work]:
    values, total = [signal], Work()
    for (name, leaf), (first, *others) in zip(node.items(), node.sources, strict=True):
        taken = [values[i] for i in others]
        inner = dataclasses.replace(scope.inside(name), others=tuple(v.x for v in taken))
        after, work = visit(leaf, values[first], inner)
        reaches = _side_by_side(after.reaches, *(v.reaches for v in taken))
        values.append(Signal(after.x, reaches))
        total += work
    return values[-1], total


@run.register
def _(node: nn.Parallel, signal: Signal, scope: Scope) -> tuple[Signal, Work]:
    outputs, works = zip(
        *(visit(unit, signal, scope.inside(name)) for name, unit in node.items()), strict=True
    )
    y = _shape(node, scope, lambda *xs: node.merge(xs), *(output.x for output in outputs))
    copied = Work(activation_bytes=_bytes(y), traffic_bytes=2 * _bytes(y))
    return Signal(y, _side_by_side(*(output.reaches for output in outputs))), sum(works, copied)


@run.register
def _(node: nn.Residual, signal: Signal, scope: Scope) -> tuple[Signal, Work]:
    branch, total = visit(node.branch, signal, scope.inside("branch"))
    shortcut, reaches = None, branch.reaches
    if node.shortcut is not None:
        shortcut, work = visit(node.shortcut, signal, scope.inside("shortcut"))
        total, reaches = total + work, _side_by_side(reaches, shortcut.reaches)
        shortcut = shortcut.x

    def merged(x, branch, shortcut):
        return node.merge(*node.summands(x, branch, shortcut))

    y = _shape(node, scope, merged, signal.x, branch.x, shortcut)
    total += _addition(node, y)
    signal = Signal(y, reaches)
    if node.activation is not None:
        signal, work = visit(node.activation, signal, scope.inside("activation"))
        total += work
    return signal, total


@run.register
def _(node: nn.Repeat, signal: Signal, scope: Scope) -> tuple[Signal, Work]:
    # What a unit sees of its own input is found once, and put after each of those before it.
    start = Signal(signal.x, tuple(_window.identity() for _ in signal.reaches))
    inner = dataclasses.replace(scope, rows={})
    after, work = visit(abstract(node.unit, unstacked=True), start, inner.inside("*"))
    if after.x != signal.x:
        raise ValueError(
            f"unit {nn.join(scope.path, '*')!r}: a repeated unit must keep shape and dtype; it "
            f"makes {after.x.shape}, {after.x.dtype} of {signal.x.shape}, {signal.x.dtype}"
        )
    powers = [reach.powers(node.n) for reach in after.reaches]
    before = [seen.then(power) for seen, (power, _) in zip(signal.reaches, powers, strict=True)]
    for path, row in inner.rows.items():
        reaches = [b.then(r) for b, r in zip(before, row.signal.reaches, strict=True)]
        scope.rows[path] = row._replace(
            signal=Signal(row.signal.x, tuple(reaches)), repeats=(node.n, *row.repeats)
        )
    seen = [seen.then(whole) for seen, (_, whole) in zip(signal.reaches, powers, strict=True)]
    return Signal(after.x, tuple(seen)), work.times(node.n)


def _addition(node: nn.Residual, y: jax.ShapeDtypeStruct) -> Work:
    """Return what a residual computes by itself: its scale, its gating, its sum."""
    scaled = int(node.scale != 1.0)
    if node.shortcut is None:
        operations, arrays = scaled, 2 * scaled
    elif isinstance(node.shortcut, nn.Gate):
        operations, arrays = 4 + scaled, 4
    else:
        operations, arrays = 1 + scaled, 3
    made = _bytes(y) if arrays else 0
    return Work(flops=operations * y.size, activation_bytes=made, traffic_bytes=arrays * _bytes(y))


def _leaf_work(node: Any, x: jax.ShapeDtypeStruct, y: jax.ShapeDtypeStruct) -> Work:
    held = [v for _, v in nnx.iter_graph(node) if isinstance(v, nnx.Variable)]
    arrays = [v.get_value() for v in held if not isinstance(v, nnx.RngState)]
    sizes = {id(v): v.get_value().size for v in held if isinstance(v, nnx.Param)}
    read = sum(map(_bytes, (x, *arrays)))
    return Work(activation_bytes=_bytes(y), traffic_bytes=read + _bytes(y), parameters=sizes)


def _bytes(x: Any) -> int:
    return x.size * x.dtype.itemsize


def _shape(node: Any, scope: Scope, f: Callable[..., Any], *args: Any) -> jax.ShapeDtypeStruct:
    """Return the shape that a function gives; where it refuses, name the unit."""
    try:
        y = jax.eval_shape(f, *args)
    except (ValueError, TypeError) as error:
        name = f"unit {scope.path!r} ({type(node).__name__})" if scope.path else "the network"
        shapes = " and ".join(str(x.shape) for x in args if isinstance(x, jax.ShapeDtypeStruct))
        raise ValueError(f"{name} cannot take an input of shape {shapes}: {error}") from error
    return jax.ShapeDtypeStruct(y.shape, y.dtype)


def _side_by_side(*reaches: Reaches) -> Reaches:
    return tuple(reduce(Reach.union, axis) for axis in zip(*reaches, strict=True))


def _seen(sees: Any, signal: Signal, y: jax.ShapeDtypeStruct) -> Reaches:
    """Return what the output sees of the network's input."""
    if sees == "place":
        return signal.reaches
    if sees == "all":
        kept = signal.x.shape[1:-1] == y.shape[1:-1]
        return tuple(r.then(_window.everything(stride_kept=kept)) for r in signal.reaches)
    windows = [_window.through(window) for window in sees]
    if len(windows) != len(signal.reaches):
        return tuple(_window.unknown() for _ in signal.reaches)
    return tuple(r.then(w) for r, w in zip(signal.reaches, windows, strict=True))


def sizes(row: Row) -> np.ndarray:
    """Return the receptive fields: an axis for each repeat, then one for the input's axes."""
    shape = (*row.repeats, len(row.signal.reaches))
    units = math.prod(row.repeats)
    fields = [np.broadcast_to(r.size, units) for r in row.signal.reaches]
    return np.stack(fields, axis=-1).reshape(shape) if fields else np.zeros(shape)
