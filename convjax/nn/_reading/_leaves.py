"""Pieces of a series that make one leaf together, and what a leaf is called."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

from convjax._trace import name_of as name_of_equation
from convjax._trace import words
from convjax.nn._reading._structure import PRODUCTS, SHAPES, Piece, Structure, label_of

PARTING = words("scan while cond")
"""What runs programs of their own, of any number of parts."""


def joined(
    parts: Sequence[Any], structure: Structure, is_known: Callable[[Piece], bool]
) -> list[Any]:
    """Return the parts of a series with neighbouring pieces of one leaf together.

    Args:
      parts: of the series.
      structure: of the program.
      is_known: whether a piece is a leaf that is recognised. A module that holds others may use
        its own parameters in several leaves: what makes no known leaf together stays apart.
    """
    found: list[Any] = []
    runs: list[list[Any]] = []
    for part in parts:
        run = [part]
        while _goes_on(found, part, structure):
            part, run = _one(found.pop(), part), runs.pop() + run
        if found and _is_reshaped(found[-1], part, structure):
            part, run = _one(found.pop(), part), runs.pop() + run
        while found and _makes(found, part, structure, is_known):
            part, run = _one(found.pop(), part), runs.pop() + run
        for _ in range(_of_softmax(found, part, structure)):
            part, run = _one(found.pop(), part), runs.pop() + run
        found.append(part)
        runs.append(run)
    whole = zip(found, runs, strict=True)
    return [piece for part, run in whole for piece in _apart(part, run, structure, is_known)]


def _singly(piece: Piece, structure: Structure) -> list[Piece]:
    """Return changes of shape one by one; any other piece as it is."""
    equations = [structure.flow.equations[i] for i in piece.equations]
    after = [e.outvars[0] for e in equations]
    series = all(e.invars[0] is v for e, v in zip(equations[1:], after, strict=False))
    if len(piece.entries) != 1 or not (series and _only_shapes(piece, structure)):
        return [piece]
    begins = [piece.entries[0], *after]
    return [Piece((begins[k],), after[k], (i,)) for k, i in enumerate(piece.equations)]


def _makes(
    found: Sequence[Any], part: Any, structure: Structure, is_known: Callable[[Piece], bool]
) -> bool:
    """Whether what stands before a piece makes it another known leaf, or one with it.

    Zeros around an input, the mean that a norm takes out, and axes that are turned for a product or
    a pool and back after it.
    """
    before = found[-1]
    if not (isinstance(before, Piece) and isinstance(part, Piece)):
        return False
    owner = structure.owner
    scopes = [owner.leaf_scope(piece.equations) for piece in (before, part)]
    if scopes[0] != scopes[1]:
        return False
    names = _computing(before, structure)
    mine = _computing(part, structure)
    if not mine:
        if names[:1] == ["reduce_window_sum"]:
            # What a sum is divided by comes later.
            return len(names) == 1 and _turns(before, structure) and _turns(part, structure)
        turned = names and (names[-1] in PRODUCTS or names[0].startswith("reduce_window"))
        return bool(turned) and not is_known(before) and is_known(_one(before, part))
    if not names:
        return mine[0].startswith("reduce_window") and _turns(before, structure)
    if names == ["pad"]:
        return is_known(_one(before, part))
    if names == ["reduce_window_sum"] and len(mine) == 1 and mine[0] in ("div", "mul"):
        return is_known(_one(before, part))
    if set(names) <= {"sub", "div", "mul"} and set(mine) <= {"mul", "add"}:
        return not structure.modules(before.equations) and is_known(_one(before, part))
    centring = names[-1] == "sub" and "reduce_sum" in names and not {"rsqrt", "sqrt"} & set(names)
    roots = {"rsqrt", "sqrt"} & set(mine) and "reduce_sum" in mine
    return bool(centring and roots) and is_known(_one(before, part))


def _of_softmax(found: Sequence[Any], part: Any, structure: Structure) -> int:
    """Return how many pieces before the last one of a softmax belong to it."""
    names = [
        tuple(_computing(piece, structure)) if isinstance(piece, Piece) else ()
        for piece in (*found[-2:], part)
    ]
    shifts = [("reduce_max", "sub"), ("reduce_max", "stop_gradient", "sub")]
    shifts.append(("reduce_max", "max", "stop_gradient", "sub"))
    if names[-1] == ("exp", "reduce_sum", "log", "sub") and {*names[-2:-1]} & {*shifts}:
        return 1
    whole = names[1:] == [("exp",), ("reduce_sum", "div")]
    return 2 if whole and names[0] in shifts else 0


def _computing(piece: Piece, structure: Structure) -> list[str]:
    """Return the names of what computes something in a piece."""
    equations = (structure.flow.equations[i] for i in piece.equations)
    return [e.primitive.name for e in equations if e.primitive.name not in SHAPES]


def _turns(piece: Piece, structure: Structure) -> bool:
    """Whether a piece changes the order of axes."""
    equations = structure.flow.equations
    return any(equations[i].primitive.name == "transpose" for i in piece.equations)


def joined_in_graph(
    pieces: Sequence[Piece], exit: Any, structure: Structure, is_known: Callable[[Piece], bool]
) -> list[Piece]:
    """Return the pieces of a graph with those of one leaf together, which nothing parts."""
    pieces = [one for piece in pieces for one in _singly(piece, structure)]
    uses = collections.Counter(v for piece in pieces for v in piece.entries)
    uses[exit] += 1
    after = {piece.entries[0]: piece for piece in pieces if len(piece.entries) == 1}
    found: list[Piece] = []
    taken: set[int] = set()
    for piece in pieces:
        run: list[Piece] = []
        while piece is not None and id(piece) not in taken:
            run.append(piece)
            taken.add(id(piece))
            piece = after.get(piece.exit) if uses[piece.exit] == 1 else None
        found += joined(run, structure, is_known)
    return sorted(found, key=lambda piece: piece.equations[0])


def _apart(
    part: Any, run: list[Any], structure: Structure, is_known: Callable[[Piece], bool]
) -> list[Any]:
    """Return a leaf as the known leaves in it, where the module that it belongs to holds others."""
    if len(run) == 1:
        return [part]
    owner = structure.owner
    modules = structure.modules(part.equations)
    scope = owner.leaf_scope(part.equations)
    if scope is not None or not any(owner.holds_modules(module) for module in modules):
        return [part]
    if is_known(part):
        return [part]
    for count in range(len(run) - 1, 0, -1):
        first = _one(*run[:count])
        if count == 1 or is_known(first):
            break
    return [first, *_apart(_one(*run[count:]), run[count:], structure, is_known)]


def _is_reshaped(before: Any, part: Any, structure: Structure) -> bool:
    """Whether statistics are taken in another shape, which is the old one again after them."""
    pieces = isinstance(before, Piece) and isinstance(part, Piece)
    if not (pieces and _only_shapes(before, structure) and _has_statistics(part, structure)):
        return False
    return before.entries[0].aval.shape == part.exit.aval.shape


def _has_statistics(piece: Piece, structure: Structure) -> bool:
    names = {structure.flow.equations[i].primitive.name for i in piece.equations}
    return "reduce_sum" in names and bool(names & {"rsqrt", "sqrt"})


def _goes_on(found: Sequence[Any], part: Any, structure: Structure) -> bool:
    """Whether a part belongs to the leaf before it."""
    if not found or not isinstance(part, Piece) or not isinstance(found[-1], Piece):
        return False
    before = found[-1]
    if _only_shapes(part, structure) and _only_shapes(before, structure):
        return structure.owner.leaf_scope(before.equations) == structure.owner.leaf_scope(
            part.equations
        )
    if _only_shapes(part, structure):
        return _is_trivial(part, structure) and not _is_trivial(before, structure)
    if _only_shapes(before, structure):
        if _is_trivial(before, structure):
            return True
        # A change of shape within one module: before its bias, say.
        return (
            len(found) > 1
            and isinstance(found[-2], Piece)
            and _together(found[-2], part, structure)
            and bool(structure.modules(part.equations))
        )
    return _together(before, part, structure)


def _one(*pieces: Piece) -> Piece:
    equations = tuple(i for piece in pieces for i in piece.equations)
    return Piece(pieces[0].entries, pieces[-1].exit, equations)


def _only_shapes(piece: Piece, structure: Structure) -> bool:
    equations = structure.flow.equations
    return all(equations[i].primitive.name in SHAPES for i in piece.equations)


def _is_trivial(piece: Piece, structure: Structure) -> bool:
    """Whether a change of shape only adds axes of length 1, or takes them away."""
    before, after = piece.entries[0].aval.shape, piece.exit.aval.shape
    equations = [structure.flow.equations[i] for i in piece.equations]
    turned = any(e.primitive.name == "transpose" and _is_turned(e) for e in equations)
    return not turned and [n for n in before if n > 1] == [n for n in after if n > 1]


def _is_turned(equation: Any) -> bool:
    """Whether a transposition changes the order of axes that are longer than 1."""
    shape = equation.invars[0].aval.shape
    order = [i for i in equation.params["permutation"] if shape[i] > 1]
    return order != sorted(order)


def _together(first: Piece, second: Piece, structure: Structure) -> bool:
    """Whether two pieces are one leaf."""
    owner = structure.owner
    if _has_core(second, structure):
        return False
    if owner.leaf_scope(first.equations + second.equations) is not None:
        return True
    if owner.leaf_scope(first.equations) or owner.leaf_scope(second.equations):
        return False
    mine, theirs = structure.modules(first.equations), structure.modules(second.equations)
    if theirs:
        return mine == theirs or (not mine and _has_statistics(first, structure))
    if _is_mean(first, second, structure):
        return True
    plain = structure.is_elementwise(first) and structure.is_elementwise(second)
    return plain and not mine and not (_is_named(first, structure) or _is_named(second, structure))


def _is_mean(first: Piece, second: Piece, structure: Structure) -> bool:
    """Whether a sum is divided by a number."""
    equations = structure.flow.equations
    last, then = equations[first.equations[-1]], equations[second.equations[0]]
    divides = then.primitive.name in ("div", "mul") and len(structure.flow.read(then)) == 1
    sums = last.primitive.name in ("reduce_sum", "reduce_window_sum")
    return sums and divides and len(second.equations) == 1


def _has_core(piece: Piece, structure: Structure) -> bool:
    """Whether a piece has a product or statistics, of which a leaf has one."""
    names = {structure.flow.equations[i].primitive.name for i in piece.equations}
    return bool(names & PRODUCTS) or structure.is_statistics(piece.equations)


def _is_named(piece: Piece, structure: Structure) -> bool:
    return any(_called(structure.flow.equations[i]) for i in piece.equations)


def _called(equation: Any) -> bool:
    """Whether an equation calls a function by its name."""
    return name_of_equation(equation) != equation.primitive.name


def name_of(piece: Piece, structure: Structure, kind: str) -> str:
    """Return what a leaf is called: its module, or its scope and what it does."""
    owner = structure.owner
    used = [name for i in piece.equations for name in owner.parameters_of(i)]
    if used:
        module = common([name.rpartition("/")[0] for name in used])
        if not owner.holds_modules(module):
            return module
        # A module that holds others is no leaf's name: the one that is called is, which may use
        # the parameters of another; or its own parameter, unless it does several things with them.
        scope = owner.leaf_scope(piece.equations)
        several = structure.flow.equations[_central(piece, structure)].primitive.name in PARTING
        if scope or not several:
            return scope or used[0]
        return "/".join((*module.split("/"), label_of_central(piece, structure))).lstrip("/")
    scope = owner.leaf_scope(piece.equations)
    if scope:
        return scope
    scope = common([owner.scope_of(i) for i in piece.equations])
    label = kind or label_of_central(piece, structure)
    return f"{scope}/{label}" if scope else label


def label_of_central(piece: Piece, structure: Structure) -> str:
    """Return what a leaf is called where no parameter names it."""
    return label_of(structure.flow.equations[_central(piece, structure)])


def _central(piece: Piece, structure: Structure) -> int:
    """Return the equation that a leaf without parameters is named for."""
    equations = structure.flow.equations
    named = [i for i in piece.equations if _called(equations[i])]
    core = [i for i in piece.equations if equations[i].primitive.name in PRODUCTS]
    # Where several values meet, the last equation says what is made of them.
    last = piece.equations[-1:] if len(piece.entries) > 1 else ()
    return (core or last or named or piece.equations)[0]


def common(paths: Sequence[str]) -> str:
    """Return the longest path that all paths begin with."""
    shared: list[str] = []
    for parts in zip(*(path.split("/") for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "/".join(shared)
