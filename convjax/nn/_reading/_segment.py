"""Segment and Graph: what is read from a program, as a leaf and as leaves of any wiring."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from convjax._trace import Flow, bind, is_variable, on_numbers
from convjax.nn._node import Node, children_of
from convjax.nn._reading._count import Count, count
from convjax.nn._reading._homogeneity import degree


class Work:
    """Some equations of a program, as a function of the values that come in from outside.

    Attributes:
      path: the equations that the signal comes by.
      aside: those that make what is used on the way: of parameters and numbers alone.
      entries: the variables at which the signal comes in.
      exit: the variable in which it goes out.
      given: the variables that come from outside, besides the signal.
    """

    def __init__(self, flow: Flow, entries: Sequence[Any], exit: Any, indices: Sequence[int]):
        asides = flow.aside(indices)
        self.path = [flow.equations[i] for i in indices]
        self.aside = [flow.equations[i] for i in asides]
        self.equations = [flow.equations[i] for i in sorted({*indices, *asides})]
        self.entries = tuple(entries)
        self.exit = exit
        self.signals = flow.signals
        made = {v for e in self.equations for v in e.outvars}
        read = (v for e in self.equations for v in Flow.read(e))
        known = made | set(entries)
        self.given = tuple(dict.fromkeys(v for v in read if v not in known))
        self.made_aside = {v: e for e in self.aside for v in e.outvars}

    def __call__(self, entries: Sequence[Any], given: Sequence[Any]) -> Any:
        """Run the equations."""
        values = dict(zip(self.entries, entries, strict=True))
        values |= dict(zip(self.given, given, strict=True))
        return self._run(self.equations, values, self.exit)

    def needed(self, v: Any) -> tuple[int, ...]:
        """Return which of the given values a variable off the path is made of."""
        return tuple(i for i, u in enumerate(self.given) if u in self._behind(v))

    def beside(self, v: Any, given: Mapping[int, Any]) -> Any:
        """Return the value of a variable off the path, from those given values that it needs."""
        behind = self._behind(v)
        equations = [e for e in self.aside if behind & set(e.outvars)]
        return self._run(equations, {self.given[i]: value for i, value in given.items()}, v)

    def number(self, v: Any) -> float | None:
        """Return a number that a variable is, if nothing that is held makes it; or None."""
        if not is_variable(v):
            return float(v.val) if np.ndim(v.val) == 0 else None
        if v not in self.made_aside or v.aval.shape or self.needed(v):
            return None
        with jax.ensure_compile_time_eval():
            return float(self.beside(v, {}))

    def _behind(self, v: Any) -> set[Any]:
        """Return a variable off the path, and all that it is made of."""
        waiting, found = [v], set()
        while waiting:
            u = waiting.pop()
            if u not in found:
                found.add(u)
                waiting += Flow.read(self.made_aside[u]) if u in self.made_aside else []
        return found

    @functools.cached_property
    def function(self) -> Callable[[Any], Any]:
        """Elementwise equations, as a function of numbers in an array of any shape."""

        def elementwise(x: Any) -> Any:
            return on_numbers(self.equations, {self.entries[0]: x}, self.exit)

        return elementwise

    @functools.cached_property
    def parts(self) -> bool:
        """Whether the signal parts here: a loop or a choice, which may hold sums."""
        names = {equation.primitive.name for equation in self.path}
        return bool(names & {"scan", "while", "cond", "custom_vjp_call", "shard_map"})

    @functools.cached_property
    def counts(self) -> list[Count]:
        """What each equation on the path computes."""
        return [count(equation) for equation in self.path]

    @functools.cached_property
    def degree(self) -> Any:
        """Of which degree the equations are homogeneous in the signal; None if of none."""
        return degree(self.equations, self.entries, self.exit)

    @staticmethod
    def _run(equations: Sequence[Any], values: dict[Any, Any], exit: Any) -> Any:
        for equation in equations:
            inputs = [values[v] if is_variable(v) else v.val for v in equation.invars]
            values.update(zip(equation.outvars, bind(equation, inputs), strict=True))
        return values[exit]


class Segment(Node):
    """A leaf that was read from a program: some equations, and the parameters that they use.

    ``nn.read`` makes it.

    Args:
      label: its name, as results show it.
      kind: the kind of leaf that it is recognised as, or "Segment".
      work: the equations.
      held: what they use, by name.

    Example:
      >>> import jax
      >>> from convjax import nn
      >>> net = nn.Function(lambda p, x: x @ p["w"], {"w": jax.numpy.ones((3, 2))})
      >>> leaf = nn.read(net, jax.numpy.ones((1, 3)))[0]
      >>> type(leaf).__name__, nn.kind_of(leaf), list(leaf.held())
      ('Segment', 'Dense', ['w'])

    Attributes:
      work: the equations.
      like: the known leaf that they compute, or None.
    """

    def __init__(self, label: str, kind: str, work: Work, held: Mapping[str, nnx.Variable]):
        self._label = label
        self._kind = kind
        self._work = work
        self._names = tuple(held)
        self._like: Any = None
        self._first = False
        self._paths: tuple[str, ...] = ()
        for name, variable in held.items():
            setattr(self, name, variable)

    def __call__(
        self,
        x,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
        others: Sequence[jax.Array] = (),
    ):
        """Run the equations, in the mode that was read."""
        return self._work((x, *others), [getattr(self, name)[...] for name in self._names])

    @property
    def work(self) -> Work:
        """The equations."""
        return self._work

    @property
    def like(self) -> Any:
        """The known leaf that the equations compute, or None."""
        return self._like

    def channels_last(self, x: Any) -> Any:
        """Return the shape of an image with its channels in the last place."""
        if self._first and len(x.shape) > 2:
            batch, channels, *spatial = x.shape
            return jax.ShapeDtypeStruct((batch, *spatial, channels), x.dtype)
        return x

    @property
    def mode(self) -> str:
        """Of a norm: whether its statistics are those of the "batch", or "running" ones."""
        return "" if self._like is None else self._like.mode

    @property
    def dtype(self) -> Any:
        """The dtype of the output."""
        return self._work.exit.aval.dtype

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of what the equations use, in the network that was read."""
        return self._paths

    def held(self) -> dict[str, nnx.Variable]:
        """Return what the equations use, by name."""
        return {name: getattr(self, name) for name in self._names}


class Graph(Node):
    """Leaves of another wiring than the combinators have; each takes the outputs of earlier ones.

    ``nn.read`` makes it.

    Args:
      leaves: in forward order; the last one's output is the graph's.
      sources: for each leaf, which values it takes.

    Example:
      >>> import jax
      >>> from convjax import nn
      >>> def gated(p, x):
      ...     return (x @ p["a"]) * jax.nn.sigmoid(x @ p["b"])
      >>> w = jax.random.normal(jax.random.key(0), (2, 3, 3))
      >>> net = nn.read(nn.Function(gated, {"a": w[0], "b": w[1]}), jax.numpy.ones((1, 3)))
      >>> net[0].sources
      ((0,), (0,), (2, 1))

    Attributes:
      sources: for each leaf, which values it takes: 0 is the input, k the output of the k-th leaf.
    """

    def __init__(self, leaves: Sequence[Segment], sources: Sequence[tuple[int, ...]]):
        self.sources = tuple(sources)
        for i, leaf in enumerate(leaves):
            setattr(self, str(i), leaf)

    def items(self) -> Iterator[tuple[str, Segment]]:
        """Yield ``(name, leaf)`` in forward order."""
        return ((str(i), getattr(self, str(i))) for i in range(len(self.sources)))

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Run the leaves in order; the last one's output is the graph's."""
        values = [x]
        for (_, leaf), (first, *others) in zip(self.items(), self.sources, strict=True):
            values.append(leaf(values[first], others=[values[i] for i in others]))
        return values[-1]


@children_of.register
def _(node: Graph):
    return node.items()
