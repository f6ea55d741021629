"""What to expect of leaves that were read from a program: what the known leaf they compute says."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax import nn
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
from convjax.gradflow._theory._state import Signal

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
    fields: dict[str, Any] = {"origin": _FRESH, "standardize": False, "gain": 1.0}
    held = node.held()
    for field, name in like.named.items():
        value = None if name is None else _Value(scope.values(held[name]))
        if value is not None or field not in dict(like.fields):
            fields[field] = value
    if like.kernel is not None:
        fields["kernel"] = _Value(_kernel(node, scope))
    inner = scope._replace(units=(), arrays={})
    # What is random in the program is random; a norm's mode is the one that was read.
    inner = inner._replace(train=like.mode != "running")
    kind = getattr(nn, like.kind)
    return expected.dispatch(kind)(like.leaf(kind, **fields), signal, inner)


@expected.register
def _(node: nn.Graph, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
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


def _reshaped(node: nn.Segment, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    """Expect what flattening makes of places: channels, which are alike."""
    output = node.channels_last(node.work.exit.aval).shape
    if output == (signal.batch, *signal.spatial, sum(signal.features)):
        return signal, lambda cotangent: cotangent
    return _unknown(node, signal, scope, "nothing is known of a change of shape")


def _unknown(node: nn.Segment, signal: Signal, scope: Scope, note: str) -> tuple[Signal, Back]:
    scope.say(note=note, unknown=True)
    return unknown(signal, node.channels_last(node.work.exit.aval).shape)


def _kernel(node: nn.Segment, scope: Scope) -> Any:
    """Return the kernel that the product uses, in the order ``(*window, in, out)``."""
    like, held = node.like, list(node.held().values())
    given = {i: scope.values(held[i]) for i in node.work.needed(like.kernel)}
    if any(value is None for value in given.values()):
        return jax.ShapeDtypeStruct(like.kernel_shape, np.float32)
    with jax.ensure_compile_time_eval():
        exact = {i: np.asarray(value, held[i].dtype) for i, value in given.items()}
        kernel = node.work.beside(like.kernel, exact)
    return np.transpose(np.asarray(kernel, np.float64), like.order)
