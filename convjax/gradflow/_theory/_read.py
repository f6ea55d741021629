"""What to expect of leaves that were read from a program: what the known leaf they compute says."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from convjax import _trace, nn
from convjax.gradflow._theory._combine import in_turn
from convjax.gradflow._theory._norms import root_mean_square
from convjax.gradflow._theory._pools import gated
from convjax.gradflow._theory._run import (
    UNKNOWN,
    Back,
    Row,
    Scope,
    Source,
    expected,
    shown,
    unknown,
)
from convjax.gradflow._theory._state import NONE, Cotangent, Signal

_FRESH = SimpleNamespace(kernel_init=None, bias_init=None, groups=1)


class _Value:
    """A parameter's values, as the rules ask for them."""

    def __init__(self, value: Any):
        self.value = value

    def get_value(self) -> Any:
        """Return the array, or its shape and dtype."""
        return self.value


@expected.register
def _(node: nn.Segment, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    like = node.like
    if like is None:
        return _unknown(node, signal, scope, f"nothing is known of {nn.label_of('', node)}")
    if like.kind in ("Reshape", "Flatten"):
        return _reshaped(node, signal, scope)
    if like.kind == "Activation":
        name = dict(like.fields)["name"]
        known = name if name in nn.ACTIVATIONS else node.work.function
        return expected(nn.Activation(known), signal, scope)
    if not (hasattr(nn, like.kind) or like.kind == "RMSNorm"):
        return _unknown(node, signal, scope, f"nothing is known of {like.kind}")
    fields: dict[str, Any] = {"origin": _FRESH, "standardize": False, "gain": 1.0}
    held = node.held()
    for field, name in like.named.items():
        value = None if name is None else _Value(scope.values(held[name]))
        if value is not None or field not in dict(like.fields):
            fields[field] = value
    if like.kernel is not None:
        kernel = _made(node, scope, like.kernel)
        fields["kernel"] = _Value(_in_order(kernel, like))
    if like.mode == "running":
        for field, v in zip(("mean", "var"), like.statistics, strict=True):
            value = _made(node, scope, v)
            fields[field] = None if value is None else _Value(np.asarray(value, np.float64))
    if like.kind == "RMSNorm":
        return root_mean_square(SimpleNamespace(**dict(like.fields) | fields), signal, scope)
    inner = scope._replace(units=(), arrays={})
    # What is random in the program is random; a norm's mode is the one that was read.
    inner = inner._replace(train=like.mode != "running")
    kind = getattr(nn, like.kind)
    return expected.dispatch(kind)(like.leaf(kind, **fields), signal, inner)


@expected.register
def _(node: nn.Graph, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    gate = _gate(node)
    if gate is not None:
        return _weighed(node, gate, signal, scope)
    *_, (_, last) = node.items()
    note = "another wiring than sums and concatenations: nothing is known of it"
    after, back = _unknown(last, signal, scope, note)
    for name, leaf in node.items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue  # it carries no gradient, and has no row in a profile
        inner = scope.inside(name, source=Source(None, None))
        shape = leaf.channels_last(leaf.work.exit.aval).shape
        inner.say(unknown=True)
        blank = after
        if len(shape) > 1:
            blank = after._replace(features=(shape[-1],), energy=np.ones((1, *shape[1:-1])))
        row = Row(
            inner.path, shown(leaf, inner), nn.kind_of(leaf), inner.source, signal, blank, UNKNOWN
        )
        scope.rows.append(row)
    return after, back


class _Gate(NamedTuple):
    """A product of what comes in with a function of its mean over all places.

    Attributes:
      leaves: from the mean on, in order, by name.
      function: of what they end in.
    """

    leaves: tuple[tuple[str, nn.Segment], ...]
    function: Callable[[Any], Any]


def _gate(node: nn.Graph) -> _Gate | None:
    """Return the gate of a squeeze-and-excitation; None where a graph is another."""
    *leaves, (_, last) = node.items()
    *sources, ends = node.sources
    series = sources == [(i,) for i in range(len(leaves))]
    if not (series and leaves and sorted(ends) == [0, len(leaves)]):
        return None
    pooled, *others = [leaf.like for _, leaf in leaves]
    if pooled is None or pooled.kind != "GlobalPool" or dict(pooled.fields)["kind"] != "avg":
        return None
    if any(like is None or like.kind not in VECTORS for like in others):
        return None
    whole, small = (last.work.entries[ends.index(i)] for i in (0, len(leaves)))
    *before, product = last.work.equations
    factors = [v for v in product.invars if v is not whole]
    if product.primitive.name != "mul" or len(factors) != 1 or last.work.given:
        return None

    def function(z: Any) -> Any:
        return _trace.on_numbers(before, {small: z}, factors[0])

    try:
        function(np.zeros((3,), np.float32))
    except (KeyError, TypeError, ValueError):
        return None
    return _Gate(tuple(leaves), function)


VECTORS = ("Dense", "Conv", "Activation", "Reshape", "Flatten", "Scale")
"""What is known of leaves on one vector an example."""


def _weighed(node: nn.Graph, gate: _Gate, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    """Expect what squeeze-and-excitation does, and what goes into its gate."""
    squeezed = signal._replace(own=NONE, carry=1.0)
    backs: list[Back] = []
    for name, leaf in gate.leaves:
        inner = scope.inside(name, source=Source(None, None))
        before = squeezed
        if leaf.like.kind not in ("Reshape", "Flatten"):
            squeezed, back = expected(leaf, squeezed, inner)
            backs.append(back)
        row = Row(
            inner.path,
            shown(leaf, inner),
            nn.kind_of(leaf),
            inner.source,
            before,
            squeezed,
            squeezed.total,
        )
        scope.rows.append(row)
    after, back = gated(signal, squeezed, in_turn(backs), "gate", gate.function)
    name, last = list(node.items())[-1]
    inner = scope.inside(name, source=Source(None, None))
    row = Row(
        inner.path, shown(last, inner), "SqueezeExcite", inner.source, signal, after, after.own
    )
    scope.rows.append(row)

    def returning(cotangent: Cotangent) -> Cotangent:
        row.cotangent = cotangent
        row.handed = back(cotangent)
        row.gradient_doubt = row.handed.doubt(row.handed.own, signal)
        return row.handed

    return after, returning


def _reshaped(node: nn.Segment, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    """Expect what flattening makes of places: channels, which are alike."""
    output = node.channels_last(node.work.exit.aval).shape
    if output == (signal.batch, *signal.spatial, sum(signal.features)):
        return signal, lambda cotangent: cotangent
    if output == (signal.batch, math.prod(signal.spatial) * sum(signal.features)):
        return _flattened(signal)
    return _unknown(node, signal, scope, "nothing is known of a change of shape")


def _flattened(signal: Signal) -> tuple[Signal, Back]:
    """Make channels of places: a layer that mixes them gives each place weights of its own."""
    whole, places = signal.merged(), math.prod(signal.spatial)
    after = whole.becomes(
        1.0,
        features=(places * sum(signal.features),),
        energy=whole.level,
        overlap=whole.overlap / places,
    )

    def back(cotangent: Cotangent) -> Cotangent:
        one = cotangent.regrouped(after.features)
        energy = np.broadcast_to(
            one.energy.reshape(1, *(1,) * len(signal.spatial)), (1, *signal.spatial)
        )
        # Of pairs in two examples, those at one place are alike, and no others.
        twin = np.repeat([False, False, True, False], signal.pairs.nodes)
        pair = np.where(twin, one.pair, 0.0)
        handed = one.becomes(features=whole.features, energy=energy, pair=pair)
        return handed.regrouped(signal.features)

    return after, back


def _unknown(node: nn.Segment, signal: Signal, scope: Scope, note: str) -> tuple[Signal, Back]:
    scope.say(note=note, unknown=True)
    return unknown(signal, node.channels_last(node.work.exit.aval).shape)


def _made(node: nn.Segment, scope: Scope, v: Any) -> Any:
    """Return the value of a variable as the equations use it; None where there are no values."""
    held = list(node.held().values())
    given = {i: held[i] for i in node.work.needed(v)}
    values = {i: scope.values(variable) for i, variable in given.items()}
    if any(value is None for value in values.values()):
        return None
    with jax.ensure_compile_time_eval():
        exact = {i: np.asarray(value, given[i].dtype) for i, value in values.items()}
        if v in node.work.given:
            return exact[node.work.given.index(v)]
        return node.work.beside(v, exact)


def _in_order(kernel: Any, like: Any) -> Any:
    """Return a kernel in the order ``(*window, in, out)``."""
    if kernel is None:
        return jax.ShapeDtypeStruct(like.kernel_shape, np.float32)
    order = [axis for axes in like.axes for axis in axes]
    return np.transpose(np.asarray(kernel, np.float64), order).reshape(like.kernel_shape)
