"""The measuring interpreter: the forward pass with taps, dispatching on the node's type.

The trunk is every place through which the whole signal passes. There the value is renormalised
between homogeneous units, and the cotangent at every boundary. Inside a residual's or a parallel's
branches nothing is rescaled, since the parts must keep their proportion; what is measured there
counts from the trunk's nearest boundary downstream, its *anchor*.
"""

import dataclasses
from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import jax
from flax import nnx

from convjax import nn
from convjax.gradflow._homogeneous import homogeneous
from convjax.gradflow._norm import Norm, measure
from convjax.gradflow._tap import Signal, cut, renormalise, restore, tap


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

    @property
    def on_trunk(self) -> bool:
        """Whether the whole signal passes here."""
        return self.anchor is None

    def measure(self, x: jax.Array, exponent: jax.Array) -> Norm:
        """Return the norm of ``x * 2 ** exponent``; nothing flows back through it."""
        x, exponent = jax.lax.stop_gradient((x, exponent))
        return measure(x, exponent, careful=self.careful)

    def inside(self, name: str, **changes) -> "Scope":
        """Return the scope of a child."""
        return dataclasses.replace(self, path=nn.join(self.path, name), **changes)


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

    Example:
      A combinator of one's own, seen through:

      >>> import jax.numpy as jnp
      >>> from convjax import gradflow, nn
      >>> class Twice(nn.Node):
      ...     def __init__(self, unit):
      ...         self.unit = unit
      ...
      ...     def __call__(self, x, train=False, rngs=None):
      ...         return self.unit(self.unit(x, train, rngs), train, rngs)
      >>> @nn.children.register
      ... def _(node: Twice):
      ...     yield "unit", node.unit
      >>> @gradflow.forward.register
      ... def _(node: Twice, signal, scope):
      ...     once = signal._replace(x=node.unit(signal.x, scope.train, scope.rngs))
      ...     return gradflow.visit(node.unit, once, scope.inside("unit"))
      >>> net = Twice(nn.Activation("tanh"))
      >>> gradflow.profile(net, jnp.ones((2, 3)), loss=jnp.sum, train=False).paths
      ('input', 'unit', '')
    """
    before = signal.exponent
    signal = forward(node, signal, scope)
    if scope.bare:
        return signal._replace(x=tapped_at(scope.path, signal.x, scope))
    scope.anchors[scope.path] = scope.anchor or scope.path
    same = _output_child(node)
    if same is not None:
        scope.aliases[scope.path] = nn.join(scope.path, same)
        scope.anchors[scope.path] = scope.anchors[nn.join(scope.path, same)]
        return signal
    activation = scope.measure(signal.x, signal.exponent)
    scope.records[scope.path] = Forward(activation, jax.lax.stop_gradient(before))
    token = scope.tokens[scope.path]
    if not scope.on_trunk:
        return signal._replace(x=tap(signal.x, token, scope.careful))
    if scope.renormalise:
        signal = renormalise(signal, activation)
    elif homogeneous(node):  # nothing was taken out before any other
        signal = restore(signal)
    return cut(signal, token, scope.careful)


def tapped_at(path: str, x: jax.Array, scope: Scope) -> jax.Array:
    """Hand ``x`` on, through a tap where there is a token for it."""
    token = scope.tokens.get(path)
    return x if token is None else tap(x, token, scope.careful)


def _output_child(node: nnx.Module) -> str | None:
    """Name the child whose output is the node's own, so that nothing is measured twice."""
    if isinstance(node, nn.Chain):
        return node.names[-1]
    if isinstance(node, nn.Repeat):
        return "*"
    if isinstance(node, nn.Residual) and node.activation is not None:
        return "activation"
    return None


@singledispatch
def forward(node: Any, signal: Signal, scope: Scope) -> Signal:
    """Apply one node inside a measurement, its children by ``visit``.

    A node whose type registers nothing is called as a whole. ``visit`` shows how to register.

    Args:
      node: the node, on whose type this dispatches.
      signal: what comes in.
      scope: where the node stands.

    Returns:
      What goes out, not yet measured: ``visit`` does that.

    Example:
      >>> from convjax import gradflow, nn
      >>> gradflow.forward.dispatch(nn.Chain) is gradflow.forward.dispatch(nn.Conv)
      False
    """
    return signal._replace(x=node(signal.x, train=scope.train, rngs=scope.rngs))


@forward.register
def _(node: nn.Chain, signal: Signal, scope: Scope) -> Signal:
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
    unit_renormalises = scope.on_trunk and homogeneous(node) and not scope.bare

    def step(unit, signal, rngs, tokens):
        inner = dataclasses.replace(scope, records={}, tokens=tokens, rngs=rngs)
        signal = visit(unit, signal, inner.inside("*", renormalise=unit_renormalises))
        return signal, inner.records

    signal, records = node.scan(step, signal, scope.rngs, tokens)
    scope.records.update(records)
    return restore(signal) if unit_renormalises and not scope.renormalise else signal
