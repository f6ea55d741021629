"""Which module an equation belongs to: by the parameters that it uses, and by its scopes."""

from collections.abc import Mapping, Sequence
from typing import Any

from convjax._trace import Flow, scopes

MODULE = "@"
"""Begins the scope that names a module of Flax NNX by its whole path."""


class Owner:
    """The parameters and the scopes of a flow's equations.

    Attributes:
      names: of the variables that stand for parameters and statistics.
    """

    def __init__(self, flow: Flow, names: Mapping[Any, str], within: str = ""):
        self.flow = flow
        self.names = dict(names)
        self.within = within
        self._used = {v: (name,) for v, name in names.items()}
        for i, equation in enumerate(flow.equations):
            if i not in flow.on_path:
                used = self._of(equation)
                self._used |= dict.fromkeys(equation.outvars, used)
        # A parameter of a module in another one: "a/b/kernel" says that "a" holds modules.
        held = (name.split("/")[:-2] for name in self.names.values())
        self._holding = {"/".join(m[: k + 1]) for m in map(tuple, held) for k in range(len(m))}
        self._parts = {part for name in self.names.values() for part in name.split("/")}
        self._scopes = {i: self._scope(i) for i in flow.path}
        inside = {s.rpartition("/")[0] for s in self._scopes.values() if s}
        self._outer = {
            "/".join(s.split("/")[: k + 1]) for s in inside for k in range(s.count("/") + 1)
        }

    def _of(self, equation: Any) -> tuple[str, ...]:
        read = (self._used.get(v, ()) for v in self.flow.read(equation))
        return tuple(dict.fromkeys(name for names in read for name in names))

    def parameters_of(self, i: int) -> tuple[str, ...]:
        """Return the names of what is held and used by an equation."""
        return self._of(self.flow.equations[i])

    def modules_of(self, i: int) -> tuple[str, ...]:
        """Return the paths of the modules that hold what an equation uses."""
        return tuple(dict.fromkeys(n.rpartition("/")[0] for n in self.parameters_of(i)))

    def holds_modules(self, module: str) -> bool:
        """Whether a module holds others; the root does."""
        return not module or module in self._holding

    def scope_of(self, i: int) -> str:
        """Return the path of the scope that an equation stands in."""
        return self._scopes[i]

    def leaf_scope(self, indices: Sequence[int]) -> str | None:
        """Return the one scope of some equations, if no other stands within it; or None."""
        found = {self._scopes[i] for i in indices}
        if len(found) != 1:
            return None
        (scope,) = found
        return scope if scope and scope not in self._outer else None

    def _scope(self, i: int) -> str:
        names = scopes(self.flow.equations[i])
        modules = [name for name in names if name.startswith(MODULE)]
        if modules:
            return modules[-1].removeprefix(MODULE)
        plain = [n for n in names if "->" not in n and "(" not in n and not n.startswith("eqx.")]
        while plain and plain[0] not in self._parts:
            plain = plain[1:]
        return "/".join(n for n in plain if n)
