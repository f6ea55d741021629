"""The predicting interpreter: forward with expectations, then back, dispatching on the node's type.

A rule ``expected(node, signal, scope)`` returns what goes out and a function that turns the
cotangent there into the one that is handed back.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.core import Tracer

from convjax import nn
from convjax._check import instance, wrong_type
from convjax._rules import by_type, of_leaves
from convjax.gradflow._theory._state import NONE, Cotangent, Doubt, Signal, Way

Back = Callable[[Cotangent], Cotangent]


class Source(NamedTuple):
    """Where the input of a node was measured.

    Attributes:
      activation: path of the node whose output it is; None where nothing measures it.
      gradient: path and column of the gradient handed back to it; None where nothing measures it.
    """

    activation: str | None
    gradient: tuple[str, str] | None


BATCH = Source("input", ("input", "gradient"))


@dataclasses.dataclass
class Facts:
    """What else theory found out about a node.

    Attributes:
      note: what it leaves open, or what a reader should know.
      unknown: whether it knows nothing of the node.
      kernel_variance: mean square of a kernel's entry, as theory used it.
      groups: groups of the convolution.
      border: share of the energy that zero padding leaves, or would leave, of even energy.
      biased: whether it has a bias beside its kernel.
    """

    note: str = ""
    unknown: bool = False
    kernel_variance: float = math.nan
    groups: int = 1
    border: float = 1.0
    biased: bool = False


@dataclasses.dataclass
class Row:
    """What is expected of one node."""

    path: str
    shown: str | None
    kind: str
    source: Source
    before: Signal
    signal: Signal
    activation_doubt: Doubt
    cotangent: Cotangent | None = None
    handed: Cotangent | None = None
    gradient_doubt: Doubt = NONE


class Scope(NamedTuple):
    """Where the interpreter stands, and where it writes.

    Attributes:
      train: whether norms use the batch's statistics.
      kernels: ``"declared"`` or ``"measured"``: where the variances come from.
      rows: what is expected of every node visited so far.
      arrays: parameters already fetched, by identity.
      facts: what else there is to say of a node, by path.
      path: the node's path.
      units: which unit of every repeat around it.
      source: where its input was measured.
    """

    train: bool
    kernels: str
    rows: list[Row]
    arrays: dict[int, Any]
    facts: dict[str, Facts]
    path: str = ""
    units: tuple[int, ...] = ()
    source: Source = BATCH

    def inside(self, name: str, **changes: Any) -> "Scope":
        """Return the scope of a child."""
        return self._replace(path=nn.join(self.path, name), **changes)

    def values(self, variable: Any) -> np.ndarray | None:
        """Return a parameter's values as this unit has them; None where there are none."""
        if variable is None:
            return None
        key = id(variable)
        if key not in self.arrays:
            value = variable.get_value()
            concrete = not isinstance(value, jax.ShapeDtypeStruct | Tracer)
            self.arrays[key] = np.asarray(value, np.float64) if concrete else None
        found = self.arrays[key]
        return None if found is None else np.asarray(found[self.units])

    def say(self, **facts: Any) -> None:
        """Write down facts about this node."""
        found = self.facts.setdefault(self.path, Facts())
        for name, value in facts.items():
            setattr(found, name, value)


def visit(node: nnx.Module, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    """Apply the rule of one node, and write down what it expects.

    Args:
      node: the node.
      signal: what comes in.
      scope: where the node stands.

    Returns:
      What goes out, and the way back.
    """
    fresh = signal._replace(own=NONE, carry=1.0)
    after, back = _pair(node, expected(node, fresh, scope))
    row = Row(
        scope.path,
        shown(node, scope),
        nn.kind_of(node),
        scope.source,
        signal,
        after,
        # What the node does not follow of its input's scale shows in its gain.
        signal.total.then(after.carry - 1, after.own),
    )
    scope.rows.append(row)

    def returning(cotangent: Cotangent) -> Cotangent:
        cotangent = cotangent.regrouped(after.features)
        row.cotangent = cotangent
        handed = back(cotangent._replace(own=Way(), inside=0.0))
        name = f"what the rule of {type(node).__name__} in gradflow.expected hands back"
        instance(
            name, handed, Cotangent, "what is expected of the gradient, as known rules give it"
        )
        forward = after.own.without(cotangent.centred)
        way = handed.own._replace(forward=forward, follows=after.carry)
        row.gradient_doubt = handed.doubt(way, signal)
        # Of what the gain shares with those downstream, some are within the same node, or all.
        share = cotangent.inside / cotangent.kernels if cotangent.kernels else 0.0
        more = share * way.beyond
        own = cotangent.own.then(way._replace(beyond=way.beyond - more))
        handed = handed._replace(
            own=own.and_again(handed.shared + more),
            total=cotangent.total.then(way).and_again(handed.shared + way.beyond),
            shared=0.0,
            inside=handed.inside + share * (handed.kernels - handed.inside),
        )
        row.handed = handed
        return handed

    whole = after._replace(
        own=signal.own.then(after.carry, after.own).and_again(after.shared),
        total=after.total.and_again(after.shared),
        carry=signal.carry * after.carry,
        shared=0.0,
    )
    return whole, returning


def shown(node: nnx.Module, scope: Scope) -> str | None:
    """Return the name of a node, with numbers for the units of repeats, or None for no row."""
    name, turns = nn.label_of(scope.path, node), nn.turns_of(node)
    if turns is not None:
        return turns.labels[scope.units[-1]]
    if name is None or name == scope.path:
        return name
    for i in scope.units:
        name = name.replace("*", str(i), 1)
    return name


def output_of(node: Any, path: str) -> str:
    """Return the path of the row that shows what a node gives: a loop or a chain may have none."""
    while nn.label_of(path, node) is None:
        if isinstance(node, nn.Repeat):
            path, node = nn.join(path, str(node.n - 1)), node.unit
        elif isinstance(node, nn.Chain):
            path, node = nn.join(path, node.names[-1]), node[-1]
        else:
            break
    return path


def _pair(node: Any, result: Any) -> tuple[Signal, Back]:
    """Return what a rule gave, which must be a signal and the way back."""
    pair = isinstance(result, tuple) and len(result) == 2
    if not (pair and isinstance(result[0], Signal) and callable(result[1])):
        wrong_type(
            f"the rule of {type(node).__name__} in gradflow.expected",
            result,
            "a pair: what is expected of the output, and a function of what is expected of the "
            "gradient there",
        )
    return result


@of_leaves
@by_type
def expected(node: Any, signal: Signal, scope: Scope) -> tuple[Signal, Back]:
    """Say what theory expects of one node: what goes out, and what is handed back.

    A leaf of your own takes part by a rule that you register with ``expected.register``: a function
    of the same three arguments, the first annotated with the leaf's type. It calls the rules of
    known leaves that act alike: ``nn.Activation(function)`` stands for any function of single
    entries; what does several things in turn calls one rule on the output of the other, and goes
    back in the opposite order. What it says is held against measurements by ``compare``, like all
    else. A module without a rule is read; what is not recognised in it is taken to keep every
    scale, and named in ``Prediction.unknown``.

    Args:
      node: the node, on whose type this dispatches.
      signal: what is expected of its input; rules hand it on as it is.
      scope: where the node stands. ``scope.values(parameter)`` is the NumPy array of a parameter of
        the leaf, that of this unit within a ``Repeat``; None where the network has no values.
        ``scope.train`` says whether norms use the batch's statistics.

    Returns:
      What is expected of its output, and a function that turns what is expected of the gradient
      there into that of the gradient handed back.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import gradflow, nn
      >>> class Squashed(nn.Node):
      ...     def __call__(self, x, train=False, rngs=None):
      ...         return jax.numpy.tanh(x)
      >>> @gradflow.expected.register
      ... def _(node: Squashed, signal, scope):
      ...     return gradflow.expected(nn.Activation("tanh"), signal, scope)
      >>> gradflow.predict(Squashed(), (2, 5, 4, 8), train=True).unknown
      ()

      Two layers as one leaf:

      >>> class LowRank(nn.Node):
      ...     def __init__(self, features, rank, rngs):
      ...         self.down = nn.Dense(features, rank, use_bias=False, rngs=rngs)
      ...         self.up = nn.Dense(rank, features, use_bias=False, rngs=rngs)
      ...
      ...     def __call__(self, x, train=False, rngs=None):
      ...         return self.up(self.down(x))
      >>> @gradflow.expected.register
      ... def _(node: LowRank, signal, scope):
      ...     low, from_low = gradflow.expected(node.down, signal, scope)
      ...     high, from_high = gradflow.expected(node.up, low, scope)
      ...     return high, lambda cotangent: from_low(from_high(cotangent))
      >>> net = LowRank(64, 8, rngs=nnx.Rngs(0))
      >>> gradflow.predict(net, (2, 64), train=True).unknown
      ()
    """
    scope.say(note=f"nothing is known of {type(node).__name__}", unknown=True)
    shape = jax.ShapeDtypeStruct(
        (signal.batch, *signal.spatial, sum(signal.features)), np.dtype(np.float32)
    )
    output = nnx.eval_shape(lambda net, x: nn.applied(net, x, scope.train), node, shape).shape
    return unknown(signal, output)


def unknown(signal: Signal, output: tuple[int, ...]) -> tuple[Signal, Back]:
    """Return what is said of a node that nothing is known of: that it keeps every scale."""
    same = signal.merged()
    spatial = np.full((1, *output[1:-1]), same.energy.mean())
    after = same.becomes(1.0, UNKNOWN, features=(output[-1],), energy=spatial)

    def back(cotangent: Cotangent) -> Cotangent:
        whole = cotangent.regrouped(after.features)
        size = sum(signal.features) * int(np.prod(signal.spatial))
        energy = whole.energy.sum() * output[-1] / size
        return whole.becomes(
            UNKNOWN, features=same.features, energy=np.full((1, *signal.spatial), energy)
        ).regrouped(signal.features)

    return after, back


UNKNOWN = Doubt(0.0, math.inf)
