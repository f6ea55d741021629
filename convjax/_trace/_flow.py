"""What flows through a program: which equations see the signal, and which parameters they use."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import jax.numpy as jnp

from convjax._trace._program import is_variable, words

CUTS = words("stop_gradient round floor ceil sign")
"""What no gradient comes through, as it comes through no integer."""


class Flow:
    """The equations between a signal and a result, and what the others bring to them.

    Attributes:
      equations: all of the program.
      signals: the variables that depend on the signal.
      felt: those of them whose changes a gradient sees.
      path: indices of the equations that the signal comes by on its way to the result.
    """

    def __init__(self, equations: Sequence[Any], entry: Any, exit: Any):
        self.equations = tuple(equations)
        self.signals, self.felt = {entry}, {entry}
        self.path: list[int] = []
        needed = self._needed(exit)
        for i, equation in enumerate(self.equations):
            if i in needed and any(v in self.signals for v in self.read(equation)):
                self.path.append(i)
                self.signals |= set(equation.outvars)
                if equation.primitive.name not in CUTS and self.felt & set(self.read(equation)):
                    self.felt |= {v for v in equation.outvars if _is_inexact(v)}
        self.producer = {v: i for i, e in enumerate(self.equations) for v in e.outvars}

    def _needed(self, exit: Any) -> set[int]:
        wanted, needed = {exit}, set()
        for i in reversed(range(len(self.equations))):
            if wanted & set(self.equations[i].outvars):
                needed.add(i)
                wanted |= set(self.read(self.equations[i]))
        return needed

    @staticmethod
    def read(equation: Any) -> list[Any]:
        """Return the variables that an equation reads."""
        return [v for v in equation.invars if is_variable(v)]

    def signals_of(self, i: int) -> list[Any]:
        """Return the variables, each once, by which the signal comes to an equation."""
        return list(dict.fromkeys(v for v in self.read(self.equations[i]) if v in self.signals))

    @cached_property
    def on_path(self) -> frozenset[int]:
        """The path as a set."""
        return frozenset(self.path)

    def aside(self, indices: Iterable[int]) -> list[int]:
        """Return the equations off the path that some on it need, in order."""
        found: set[int] = set()
        waiting = [v for i in indices for v in self.read(self.equations[i])]
        while waiting:
            i = self.producer.get(waiting.pop())
            if i is not None and i not in found and i not in self.on_path:
                found.add(i)
                waiting += self.read(self.equations[i])
        return sorted(found)


def _is_inexact(v: Any) -> bool:
    return jnp.issubdtype(v.aval.dtype, jnp.inexact)
