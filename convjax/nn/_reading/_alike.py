"""Which parts of a program compute the same with other parameters, one after the other.

A loop that is written in Python leaves as many parts as it has turns. Two parts are alike where
their equations agree in all but which variables they take from outside.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from convjax._trace import Flow, is_of_jax, is_variable, sources
from convjax.nn._reading._structure import Beside, Loop, Piece, Sum, Wired

FEWEST = 64
"""So many turns are read as one repeat. XLA's convolutions run slower in a loop on CPU, some ten
times, and compiling fewer layers takes seconds: networks of usual depth stay as they are."""

LONGEST = 64
"""So many parts may make a turn."""

MOST_ASIDE = 64
"""Of more equations off the path a part is taken for one of its kind."""


class Run(NamedTuple):
    """Turns that compute the same, one after the other: where they begin, and the parts of each."""

    start: int
    period: int
    turns: int

    @property
    def end(self) -> int:
        """Where they end."""
        return self.start + self.period * self.turns


def runs(marks: Sequence[int], fewest: int, start: int = 0) -> list[Run]:
    """Return where a sequence of marks repeats itself, in order: the longest stretches first.

    Args:
      marks: equal numbers stand for parts that are alike.
      fewest: turns.
      start: place of the first mark.
    """
    found, row = [], np.asarray(marks)
    for period in range(1, min(LONGEST, len(row) // fewest) + 1):
        ends = np.flatnonzero(np.append(row[:-period] != row[period:], True))
        for before, end in zip((-1, *ends[:-1].tolist()), ends.tolist(), strict=True):
            turns = (end - before - 1) // period + 1
            if turns >= fewest:
                found.append(Run(before + 1, period, turns))
    if not found:
        return []
    best = max(found, key=lambda run: (run.period * run.turns, -run.period))
    return [
        *runs(marks[: best.start], fewest, start),
        best._replace(start=start + best.start),
        *runs(marks[best.end :], fewest, start + best.end),
    ]


class Alike:
    """Numbers parts, such that those that are alike have the same number.

    Attributes:
      given: what a part takes from outside, by the part's identity, in the same order for parts
        that are alike.
      entries: the variable at which the signal enters a part, by the part's identity.
    """

    def __init__(
        self,
        flow: Flow,
        kind: Callable[[Any], Any],
        joined: Callable[[Any], Sequence[Any]],
    ):
        """Begin.

        Args:
          flow: the program.
          kind: tells what must agree of two variables from outside.
          joined: gives the parts of a series.
        """
        self.flow, self.kind, self.joined = flow, kind, joined
        self.given: dict[int, tuple[Any, ...]] = {}
        self.entries: dict[int, Any] = {}
        self._numbers: dict[Any, int] = {}
        self._programs: dict[int, Any] = {}

    def number(self, part: Any) -> int:
        """Return a part's number."""
        writing = _Writing(self)
        writing.part(part)
        self.given[id(part)] = tuple(writing.outside)
        self.entries[id(part)] = writing.entry
        return self._numbers.setdefault(tuple(writing.lines), len(self._numbers))

    def value(self, value: Any) -> Any:
        """Return what tells an equation's parameter from others."""
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns") and hasattr(inner, "invars"):
            if id(inner) not in self._programs:
                self._programs[id(inner)] = self._program(value, inner)
            return self._programs[id(inner)]
        if isinstance(value, tuple | list):
            return (type(value).__name__, *map(self.value, value))
        if isinstance(value, Mapping):
            return ("mapping", *((k, self.value(v)) for k, v in value.items()))
        if isinstance(value, np.ndarray | np.generic):
            return (str(value.dtype), value.shape, value.tobytes())
        if isinstance(value, float | complex):
            return (type(value), repr(value))
        try:
            hash(value)
        except TypeError:
            return ("one of its kind", id(value))
        return (type(value), value)

    def _program(self, closed: Any, inner: Any) -> int:
        names: dict[Any, int] = {}
        lines: list[Any] = [tuple(map(id, getattr(closed, "consts", ())))]
        for v in (*inner.constvars, *inner.invars):
            names[v] = len(names)
            lines.append(v.aval)
        for equation in inner.eqns:
            read = [names[v] if is_variable(v) else self.literal(v) for v in equation.invars]
            lines.append(self.line(equation, read))
            for v in equation.outvars:
                names[v] = len(names)
        lines += [names[v] if is_variable(v) else self.literal(v) for v in inner.outvars]
        return self._numbers.setdefault(("program", *lines), len(self._numbers))

    def literal(self, v: Any) -> Any:
        """Return what tells a number from others."""
        return ("literal", v.aval, np.asarray(v.val).tobytes())

    def line(self, equation: Any, read: Sequence[Any]) -> Any:
        """Return what tells an equation from others, that reads these."""
        primitive, how = equation.primitive.name, dict(equation.params)
        if primitive.startswith("custom_") and is_of_jax(equation):
            # A rule of JAX's own is that of the function, and an object of its own in every call.
            how = {name: value for name, value in how.items() if not _is_function(value)}
            how["sources"] = sources(equation)
        made = tuple(v.aval for v in equation.outvars)
        return (primitive, *((k, self.value(v)) for k, v in sorted(how.items())), *read, made)


class _Writing:
    """One part, with numbers for its variables."""

    def __init__(self, alike: Alike):
        self.alike, self.flow = alike, alike.flow
        self.names: dict[Any, int] = {}
        self.lines: list[Any] = []
        self.outside: list[Any] = []
        self.entry: Any = None

    def part(self, part: Any) -> None:
        """Write a part."""
        self.lines.append(type(part).__name__)
        if isinstance(part, Piece):
            self.piece(part)
        elif isinstance(part, Wired):
            for piece in part.pieces:
                self.part(piece)
            self.lines.append(self.read(part.exit))
        elif isinstance(part, Loop):
            self.lines.append(id(part))
        elif isinstance(part, Sum | Beside):
            several = isinstance(part, Beside)
            for series in part.branches if several else (part.branch, part.shortcut):
                for inner in self.alike.joined(series):
                    self.part(inner)
                self.lines.append("end")
            self.equation(part.equation)
            self.lines.append("" if several else part.taken)

    def piece(self, piece: Piece) -> None:
        """Write a piece."""
        for i in piece.equations:
            self.equation(i)
        self.lines += [*map(self.read, piece.entries), self.read(piece.exit)]

    def equation(self, i: int) -> None:
        """Write an equation, after those off the path that make what it reads."""
        equation = self.flow.equations[i]
        if i in self.flow.on_path and len(self.flow.aside((i,))) > MOST_ASIDE:
            self.lines.append(("one of its kind", i))
            return
        read = [self.read(v) for v in equation.invars]
        self.lines.append(self.alike.line(equation, read))
        for v in equation.outvars:
            self.names[v] = len(self.names)

    def read(self, v: Any) -> Any:
        """Return what stands for a variable or a number."""
        if not is_variable(v):
            return self.alike.literal(v)
        if v not in self.names and v not in self.flow.signals and v in self.flow.producer:
            self.equation(self.flow.producer[v])
        if v not in self.names:
            self.names[v] = len(self.names)
            signal = v in self.flow.signals
            self.lines.append((v.aval, "signal" if signal else self.alike.kind(v)))
            if signal:
                self.entry = v
            else:
                self.outside.append(v)
        return self.names[v]


def _is_function(value: Any) -> bool:
    return callable(value) or hasattr(value, "call_wrapped")
