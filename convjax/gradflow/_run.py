"""The measuring interpreter: the forward pass with taps, dispatching on the node's type.

The trunk is every place through which the whole signal passes. There the value is renormalised
between homogeneous units, and the cotangent at every boundary. Inside a residual's or a parallel's
branches nothing is rescaled, since the parts must keep their proportion; what is measured there
counts from the trunk's nearest boundary downstream, its *anchor*.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import nn
from convjax._rules import by_type, follows
from convjax.gradflow._homogeneous import homogeneous
from convjax.gradflow._norm import Norm, lanes, measure
from convjax.gradflow._own import shifted
from convjax.gradflow._tap import Signal, cut, plain_tap, renormalise, restore, tap


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Forward:
    """What the forward pass sees of one node: its output, and the power of two at its input."""

    activation: Norm
    exponent: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Summands:
    """The two terms of a residual's sum."""

    branch: Norm
    shortcut: Norm
    input_size: int = dataclasses.field(metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class Scope:
    """Where the interpreter stands, and where it writes.

    ``tokens`` and ``records`` are keyed by path and belong to one trace: a scan's body has its own.
    ``careful`` norms under- or overflow nowhere, and cost one more pass.
    ``anchors`` and ``aliases`` hold nothing but names: path to anchor, and path to the path of the
    node whose output is the same array. ``bare`` leaves all out but the taps that ``tokens`` names.
    ``seen`` are the paths that this trace has come by, ``shared`` those of nodes with parameters
    that stand elsewhere too. ``plain`` takes no power of two out of anything, and leaves
    the last sums of squares to do; where it has no tokens it says what they would be. ``others``
    are what a leaf of a graph takes besides its first input.
    """

    train: bool
    careful: bool
    rngs: nnx.Rngs | None
    tokens: Mapping[str, jax.Array]
    records: dict[str, Any]
    anchors: dict[str, str]
    aliases: dict[str, str]
    path: str = ""
    anchor: str | None = None
    renormalise: bool = False
    bare: bool = False
    seen: set[str] = dataclasses.field(default_factory=set)
    shared: frozenset[str] = frozenset()
    plain: bool = False
    others: tuple[jax.Array, ...] = ()

    @property
    def on_trunk(self) -> bool:
        """Whether the whole signal passes here."""
        return self.anchor is None

    def measure(self, x: jax.Array, exponent: jax.Array) -> Norm:
        """Return the norm of ``x * 2 ** exponent``; nothing flows back through it."""
        if self.plain:
            return Norm(lanes(jax.lax.stop_gradient(x)), ONE, ZERO, x.size)
        x, exponent = jax.lax.stop_gradient((x, exponent))
        return measure(x, exponent, careful=self.careful)

    def inside(self, name: str, **changes) -> "Scope":
        """Return the scope of a child."""
        return dataclasses.replace(self, path=nn.join(self.path, name), **changes)


ONE, ZERO = np.float32(1), np.float32(0)


def token_paths(net: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Return every path at which a tap may stand, with the lengths of the repeats around it."""
    paths: dict[str, tuple[int, ...]] = {"input": ()}
    for path, node, repeats in nn.walk(net):
        if path == "input":
            raise ValueError("a unit named 'input' stands at the root, where it names the batch")
        paths[path] = repeats
        if isinstance(node, nn.Residual):
            paths |= {returned(path, part): repeats for part in ("branch", "shortcut")}
    return paths


def returned(path: str, part: str) -> str:
    """Name the tap on what one part of a residual hands back to the residual's input."""
    return f"{nn.join(path, part)}<"


def visit(node: nnx.Module, signal: Signal, scope: Scope) -> Signal:
    """Run one node inside a measurement, and measure its output.

    Args:
      node: the node.
      signal: what comes in.
      scope: where the node stands: its parent's ``scope.inside(name)``.

    Returns:
      What goes out.
    """
    scope.seen.add(scope.path)
    before = signal.exponent
    undo = shifted(node, scope.path, scope.tokens) if scope.path in scope.shared else None
    signal = forward(node, signal, scope)
    if undo is not None:
        undo()
    if scope.bare:
        return signal._replace(x=tapped_at(scope.path, signal.x, scope))
    scope.anchors[scope.path] = scope.anchor or scope.path
    same = _output_child(node)
    if same is not None:
        scope.aliases[scope.path] = nn.join(scope.path, same)
        scope.anchors[scope.path] = scope.anchors[nn.join(scope.path, same)]
        return signal
    activation = scope.measure(signal.x, signal.exponent)
    if scope.plain:
        scope.records[scope.path] = Forward(activation, ZERO)
        token = scope.tokens.get(scope.path)
        return signal if token is None else signal._replace(x=plain_tap(signal.x, token))
    token = scope.tokens[scope.path]
    scope.records[scope.path] = Forward(activation, jax.lax.stop_gradient(before))
    if not scope.on_trunk:
        return signal._replace(x=tap(signal.x, token, scope.careful))
    if scope.renormalise:
        signal = renormalise(signal, activation)
    elif homogeneous(node):  # nothing was taken out before any other
        signal = restore(signal)
    return cut(signal, token, scope.careful)


def tapped_at(path: str, x: jax.Array, scope: Scope) -> jax.Array:
    """Hand ``x`` on, through a tap where there is a token for it."""
    scope.seen.add(path)
    token = scope.tokens.get(path)
    if token is None:
        if scope.plain:
            scope.records[path] = lanes(x)
        return x
    return plain_tap(x, token) if scope.plain else tap(x, token, scope.careful)


def _output_child(node: nnx.Module) -> str | None:
    """Name the child whose output is the node's own, so that nothing is measured twice."""
    if follows(node, nn.Chain):
        return list(node.items())[-1][0]  # pyright: ignore[reportAttributeAccessIssue]
    if follows(node, nn.Repeat):
        return "*"
    if follows(node, nn.Residual) and node.activation is not None:  # pyright: ignore
        return "activation"
    return None


@by_type
def forward(node: Any, signal: Signal, scope: Scope) -> Signal:
    """Apply one node inside a measurement, its children by ``visit``.

    What is no combinator is called as a whole.

    Args:
      node: the node, on whose type this dispatches.
      signal: what comes in.
      scope: where the node stands.

    Returns:
      What goes out, not yet measured: ``visit`` does that.
    """
    return signal._replace(x=nn.applied(node, signal.x, scope.train, scope.rngs))


@forward.register
def _(node: nn.Chain, signal: Signal, scope: Scope) -> Signal:
    if isinstance(node, nn.Reading):
        node.draw(scope.rngs)
    units = list(node.items())
    for i, (name, unit) in enumerate(units):
        following = homogeneous(units[i + 1][1]) if i + 1 < len(units) else scope.renormalise
        signal = visit(
            unit, signal, scope.inside(name, renormalise=following and homogeneous(unit))
        )
    return signal


@forward.register
def _(node: nn.Parallel, signal: Signal, scope: Scope) -> Signal:
    inner = dataclasses.replace(scope, anchor=scope.anchor or scope.path)
    outputs = [visit(unit, signal, inner.inside(name)).x for name, unit in node.items()]
    return signal._replace(x=node.merge(outputs))


@forward.register
def _(node: nn.Residual, signal: Signal, scope: Scope) -> Signal:
    end = scope.path if node.activation is None else nn.join(scope.path, "activation")
    inner = dataclasses.replace(scope, anchor=scope.anchor or end)

    def run(part: str, child: nnx.Module) -> tuple[Any, Any]:
        x = tapped_at(returned(scope.path, part), signal.x, scope)
        return x, visit(child, signal._replace(x=x), inner.inside(part)).x

    if node.shortcut is None:
        branch = visit(node.branch, signal, inner.inside("branch")).x
        total = node.merge(*node.summands(signal.x, branch, None))
    else:
        _, branch = run("branch", node.branch)
        x, shortcut = run("shortcut", node.shortcut)
        branch, beside = node.summands(x, branch, shortcut)
        total = node.merge(branch, beside)
        if not scope.bare:
            scope.records[f"{scope.path}+"] = Summands(
                scope.measure(branch, signal.exponent),
                scope.measure(shortcut if beside is None else beside, signal.exponent),
                signal.x.size,
            )
    signal = signal._replace(x=total)
    if node.activation is None:
        return signal
    return visit(node.activation, signal, scope.inside("activation"))


@forward.register
def _(node: nn.Repeat, signal: Signal, scope: Scope) -> Signal:
    prefix = nn.join(scope.path, "*")
    tokens = {p: t for p, t in scope.tokens.items() if p.startswith(prefix)}
    unit_renormalises = scope.on_trunk and homogeneous(node) and not (scope.bare or scope.plain)

    def step(unit, signal, rngs, tokens):
        inner = dataclasses.replace(scope, records={}, tokens=tokens, rngs=rngs, seen=set())
        signal = visit(unit, signal, inner.inside("*", renormalise=unit_renormalises))
        scope.seen.update(inner.seen)
        # Of what is the same for every unit nothing goes through the loop.
        leaves, structure = jax.tree.flatten(inner.records)
        fixed = [None if isinstance(leaf, jax.Array) else leaf for leaf in leaves]
        kept.append((structure, fixed))
        return signal, [leaf for leaf in leaves if isinstance(leaf, jax.Array)]

    kept: list[Any] = []
    signal, found = node.scan(step, signal, scope.rngs, tokens)
    structure, fixed = kept[-1]
    moving = iter(found)
    leaves = [
        next(moving) if leaf is None else np.broadcast_to(leaf, (node.n, *np.shape(leaf)))
        for leaf in fixed
    ]
    scope.records.update(jax.tree.unflatten(structure, leaves))
    return restore(signal) if unit_renormalises and not scope.renormalise else signal


@forward.register
def _(node: nn.Graph, signal: Signal, scope: Scope) -> Signal:
    # No value in it carries the whole signal: all are measured as in a branch.
    inner = dataclasses.replace(scope, anchor=scope.anchor or scope.path)
    values = [signal]
    for (name, leaf), (first, *others) in zip(node.items(), node.sources, strict=True):
        more = tuple(values[i].x for i in others)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            values.append(visit(leaf, values[first], inner.inside(name, others=more)))
        else:
            values.append(signal._replace(x=leaf(values[first].x, others=more)))
    return values[-1]


@forward.register
def _(node: nn.Segment, signal: Signal, scope: Scope) -> Signal:
    return signal._replace(x=node(signal.x, others=scope.others))


def is_whole(node: nnx.Module) -> bool:
    """Whether a node is called as a whole, so that nothing inside is measured."""
    return forward.dispatch(type(node)) is forward.dispatch(object)
