"""The structure of a program: parts one after the other, sums, concatenations and loops.

Between two places where one value alone carries the signal lies a *part*. What a part is, its last
equation says: a sum of two values that were made apart from one another, a concatenation of such
values, a loop over stacked parameters, or nothing of these.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from convjax._trace import Flow, body, carried, is_variable, name_of, subprograms, words

ELEMENTWISE = words(
    "add add_any sub mul div max min neg abs sign square sqrt rsqrt cbrt exp exp2 expm1 log log1p "
    "logistic tanh sin cos erf erfc integer_pow pow select_n clamp convert_element_type floor ceil "
    "round gt lt ge le eq ne and or not xor is_finite stop_gradient copy copy_p "
    "reduce_precision custom_jvp_call custom_vjp_call jit pjit"
)
SHAPES = words(
    "reshape broadcast_in_dim transpose squeeze expand_dims convert_element_type copy copy_p "
    "reduce_precision optimization_barrier"
)
"""What moves or converts entries, and computes nothing."""
PRODUCTS = frozenset(("conv_general_dilated", "dot_general"))
REMAT = ("remat", "remat2", "checkpoint")
SUMS = ("add", "add_any", "sub")
SUMS_OVER = words("reduce_sum psum psum_invariant")
"""Sums over axes; ``psum`` where a function is mapped over examples by an axis with a name."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """Equations that belong together, by their indices; the signal may enter at several values."""

    entries: tuple[Any, ...]
    exit: Any
    equations: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Series:
    """Parts one after the other; none is the identity."""

    parts: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Sum:
    """A sum of two series from the same value; the second is the shortcut.

    Attributes:
      taken: which of the two is subtracted: ``"branch"``, ``"shortcut"`` or none.
    """

    equation: int
    branch: Series
    shortcut: Series
    taken: str = ""


@dataclasses.dataclass(frozen=True)
class Beside:
    """Series from the same value whose results are concatenated."""

    equation: int
    branches: tuple[Series, ...]


@dataclasses.dataclass(frozen=True)
class Wired:
    """Pieces of another wiring, in order, and the value that they end in."""

    entry: Any
    exit: Any
    pieces: tuple[Piece, ...]


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop over stacked parameters that carries the signal alone.

    Attributes:
      equation: the loop's index.
      program: what it repeats.
      entry: the variable of that program in which the signal comes in.
      exit: the variable in which it goes out.
      stacked: the outer variable that each other input of the program is a slice of.
      fixed: the outer variable that an input of the program is, the same at each turn.
      length: how many times.
      remat: whether the backward pass runs what is repeated again.
    """

    equation: int
    program: Any
    entry: Any
    exit: Any
    stacked: dict[Any, Any]
    fixed: dict[Any, Any]
    length: int
    remat: bool


class Structure:
    """Takes the path of a flow apart.

    Attributes:
      constants: the variables that stand for what the network closes over.
    """

    def __init__(self, flow: Flow, owner: Any, constants: frozenset[Any] = frozenset()):
        self.flow = flow
        self.owner = owner
        self.constants = constants

    def series(self, entry: Any, exit: Any, indices: Sequence[int]) -> Series:
        """Return the parts between two values, of the equations between them."""
        parts: list[Any] = []
        for begin, end, link in self._links(entry, exit, indices):
            parts += self._part(begin, end, link)
        return Series(tuple(parts))

    def _links(self, entry: Any, exit: Any, indices: Sequence[int]) -> list[Any]:
        """Cut wherever one value is all of the signal that is needed later."""
        equations, flow = self.flow.equations, self.flow
        last = {v: i for i in indices for v in flow.signals_of(i)} | {exit: float("inf")}
        links, alive, begin, link = [], {entry}, entry, []
        for i in indices:
            link.append(i)
            made = [v for v in equations[i].outvars if v in last]
            alive = {v for v in (*alive, *made) if last[v] > i}
            if len(alive) == 1:
                (end,) = alive
                if end is not begin and jnp.issubdtype(end.aval.dtype, jnp.floating):
                    links.append((begin, end, tuple(link)))
                    begin, link = end, []
        return links

    def _part(self, entry: Any, exit: Any, link: tuple[int, ...]) -> list[Any]:
        piece = Piece((entry,), exit, link)
        equation = self.flow.equations[link[-1]]
        if len(link) == 1 and equation.primitive.name == "scan":
            return [self._loop(link[0], entry, exit) or piece]
        if len(link) == 1 and not self._joins(link[-1], entry):
            return [piece]
        if self.is_elementwise(piece):
            return [piece]
        terms = None
        same = all(v.aval.shape == exit.aval.shape for v in equation.invars)
        if equation.primitive.name in SUMS and exit in equation.outvars and same:
            terms = self._apart(equation, entry, link[:-1])
        past = terms is not None and any(v is entry for v, _ in terms)
        if self.is_statistics(link) and not past:
            return [piece]
        if terms is not None and len(terms) == 2:
            # The shortcut is the one with less on it; of two alike, the one that was made first.
            order = sorted(terms, key=lambda t: (self._weight(t[1]), t[1][:1] or (-1,)))
            shortcut, branch = (self.series(entry, v, part) for v, part in order)
            taken = ""
            if equation.primitive.name == "sub":
                taken = "branch" if equation.invars[1] is order[1][0] else "shortcut"
            return [Sum(link[-1], branch, shortcut, taken)]
        if _on_channels(equation) and exit in equation.outvars:
            terms = self._apart(equation, entry, link[:-1])
            if terms is not None:
                return [Beside(link[-1], tuple(self.series(entry, v, part) for v, part in terms))]
        if self.is_one_module(link):
            return [piece]
        wired = self._wired(entry, exit, link)
        return list(wired.pieces) if len(wired.pieces) == 1 else [wired]

    def _loop(self, i: int, entry: Any, exit: Any) -> Loop | None:
        """Return a loop that is a repeat: one carried value, and slices of what is held."""
        equation = self.flow.equations[i]
        constants, carry = carried(equation.params)
        known = self.owner.names
        fixed, slices = equation.invars[:constants], equation.invars[constants + carry :]
        plain = carry == 1 and not equation.params["reverse"]
        if not plain or equation.invars[constants] is not entry or equation.outvars[0] is not exit:
            return None
        if not all(is_variable(v) and v in {*known, *self.constants} for v in slices):
            return None
        if not all(is_variable(v) and v in self.constants for v in fixed):
            return None
        program = body(equation)
        first, others = program.inputs[constants], program.inputs[constants + 1 :]
        return Loop(
            i,
            program,
            first,
            program.outputs[0],
            dict(zip(others, slices, strict=True)),
            dict(zip(program.inputs[:constants], fixed, strict=True)),
            equation.params["length"],
            any(e.primitive.name in REMAT for e in subprograms(equation)[0].eqns),
        )

    def _joins(self, i: int, entry: Any) -> bool:
        """Whether an equation adds or concatenates a value with itself."""
        equation = self.flow.equations[i]
        twice = sum(v is entry for v in equation.invars) > 1
        return twice and equation.primitive.name == "concatenate"

    def _apart(self, equation: Any, entry: Any, link: tuple[int, ...]) -> list[Any] | None:
        """Return what an equation joins, with the equations of each; None if they share one."""
        if not all(is_variable(v) and v in self.flow.felt for v in equation.invars):
            return None
        terms, seen = [], set()
        for v in equation.invars:
            mine = self._before(v, entry, link)
            if seen & set(mine):
                return None
            seen |= set(mine)
            terms.append((v, mine))
        return terms if len(seen) == len(link) else None

    def _before(self, v: Any, entry: Any, link: tuple[int, ...]) -> tuple[int, ...]:
        """Return the equations of a link that a value comes from."""
        wanted, found = {v} - {entry}, []
        for i in reversed(link):
            if wanted & set(self.flow.equations[i].outvars):
                found.append(i)
                wanted |= set(self.flow.signals_of(i)) - {entry}
        return tuple(reversed(found))

    def _weight(self, indices: Sequence[int]) -> int:
        """Return how many products of signal and parameters, then how many equations, there are."""
        products = sum(self._is_product(i) for i in indices)
        return products * len(self.flow.equations) + len(indices)

    def _is_product(self, i: int) -> bool:
        equation = self.flow.equations[i]
        return equation.primitive.name in PRODUCTS or equation.primitive.name == "scan"

    def is_statistics(self, link: Sequence[int]) -> bool:
        """Whether equations only reduce and work elementwise, as norms and softmax do."""
        names = {self.flow.equations[i].primitive.name for i in link}
        reduces = any(name.startswith("reduce_") for name in names)
        known = ELEMENTWISE | SHAPES | SUMS_OVER
        plain = all(n in known or n.startswith("reduce_") for n in names)
        if not (reduces and plain and names & {"rsqrt", "sqrt", "div", "exp", "pow"}):
            return False
        return len(self.modules(link)) <= 1

    def is_elementwise(self, piece: Piece) -> bool:
        """Whether every entry of the result depends on the same entry of one value alone."""
        if len(piece.entries) != 1 or len(self.modules(piece.equations)) > 1:
            return False
        shape = piece.entries[0].aval.shape
        for i in piece.equations:
            equation = self.flow.equations[i]
            if equation.primitive.name not in ELEMENTWISE or not same_places(equation):
                return False
            if any(v.aval.shape != shape for v in (*equation.outvars, *self.flow.signals_of(i))):
                return False
        return True

    def modules(self, indices: Sequence[int]) -> set[str]:
        """Return the modules whose parameters equations use."""
        return {module for i in indices for module in self.owner.modules_of(i)}

    def is_one_module(self, link: Sequence[int]) -> bool:
        """Whether one module, that calls no other, holds all of these equations."""
        return self.owner.leaf_scope(link) is not None

    def _wired(self, entry: Any, exit: Any, link: tuple[int, ...]) -> Wired:
        """Group equations of another wiring by the modules that they belong to."""
        groups: list[list[int]] = []
        for i in link:
            near = groups[-1] if groups else None
            if near is not None and self._follows(near, i):
                near.append(i)
            else:
                groups.append([i])
        pieces = []
        for group in self._measurable(_with_one_exit(groups, self.flow, link, exit), link, exit):
            made = {v for i in group for v in self.flow.equations[i].outvars}
            read = (v for i in group for v in self.flow.signals_of(i) if v not in made)
            entries = tuple(dict.fromkeys(read))
            # One equation may make several values, as a split does: each has a piece.
            ends = _exits(group, self.flow, link, exit)
            pieces += [Piece(entries, end, tuple(group)) for end in ends]
        return Wired(entry, exit, tuple(pieces))

    def _measurable(
        self, groups: Sequence[list[int]], link: Sequence[int], exit: Any
    ) -> list[list[int]]:
        """Return the groups, those that end in no real numbers together with what follows.

        Integers that no parameter is used for stand alone: they have no gradient.
        """
        found: list[list[int]] = []
        waiting: list[int] = []
        for group in groups:
            waiting = waiting + group
            kinds = [v.aval.dtype for v in _exits(waiting, self.flow, link, exit)]
            unreal = [kind for kind in kinds if not jnp.issubdtype(kind, jnp.floating)]
            complex_ = any(jnp.issubdtype(kind, jnp.complexfloating) for kind in unreal)
            if not complex_ and not (unreal and self.modules(waiting)):
                found.append(waiting)
                waiting = []
        return [*found, waiting] if waiting else found

    def _follows(self, group: Sequence[int], i: int) -> bool:
        """Whether an equation goes on with a group: of one module, or of none and one scope."""
        if self.owner.leaf_scope((*group, i)) is not None:
            return True
        if self._is_product(i) or self._is_named(i) or self._is_named(group[-1]):
            return False
        mine, theirs = self.modules(group), self.modules((i,))
        if theirs:
            return mine == theirs
        products = any(map(self._is_product, group))
        return (
            not mine and not products and self.owner.scope_of(group[-1]) == self.owner.scope_of(i)
        )

    def _is_named(self, i: int) -> bool:
        equation = self.flow.equations[i]
        return name_of(equation) != equation.primitive.name


def _exits(group: Sequence[int], flow: Flow, link: Sequence[int], exit: Any) -> list[Any]:
    """Return the values of a group that are needed outside of it."""
    outside = {v for i in link if i not in group for v in flow.signals_of(i)} | {exit}
    return [v for i in group for v in flow.equations[i].outvars if v in outside]


def _with_one_exit(
    groups: Sequence[list[int]], flow: Flow, link: Sequence[int], exit: Any
) -> list[list[int]]:
    """Return the groups, cut so that one value of each is needed outside."""
    found = []
    for group in groups:
        rest = group
        while rest:
            ends = range(len(rest), 0, -1)
            fits = (n for n in ends if len(_exits(rest[:n], flow, link, exit)) == 1)
            n = next(fits, 1)
            found.append(rest[:n])
            rest = rest[n:]
    return found


def same_places(equation: Any) -> bool:
    """Whether a called function, if there is one, is elementwise as well."""
    for inner in subprograms(equation):
        for e in inner.eqns:
            if e.primitive.name not in ELEMENTWISE | {"broadcast_in_dim"} or not same_places(e):
                return False
    return True


def _on_channels(equation: Any) -> bool:
    """Whether an equation concatenates on the last axis, as a ``Parallel`` does."""
    last = equation.outvars[0].aval.ndim - 1
    return equation.primitive.name == "concatenate" and equation.params["dimension"] == last


def label_of(equation: Any) -> str:
    """Return what an equation is called where no parameter names it."""
    return LABELS.get(name_of(equation), name_of(equation))


LABELS = {
    "conv_general_dilated": "conv",
    "dot_general": "product",
    "reduce_window_max": "max_pool",
    "reduce_window_sum": "avg_pool",
    "reduce_window": "pool",
    "reduce_max": "max",
    "reduce_sum": "sum",
    "custom_jvp_call": "function",
    "custom_vjp_call": "function",
    "add_any": "add",
    "concatenate": "concat",
    "broadcast_in_dim": "broadcast",
    "convert_element_type": "cast",
    "select_n": "where",
}
