"""A loop that was written in Python, as one repeat: a turn's nodes, and the names of all turns."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from convjax.nn._chain import Chain
from convjax.nn._reading import _alike
from convjax.nn._reading._segment import Graph, Segment
from convjax.nn._reading._structure import Beside, Piece, Series, Sum, Wired
from convjax.nn._repeat import Repeat
from convjax.nn._residual import Residual
from convjax.nn._simple import Identity
from convjax.nn._turns import Turns

LARGE = 2**16
"""A constant of more entries is not copied for every turn."""


class Folder:
    """Makes one node of the turns of a loop, for a reader of the program.

    Attributes:
      stacks: the variables that stand for those of all turns, and these.
      standing: the variable that stands for the turns', while a loop's first turn is read.
    """

    def __init__(self, reader: Any):
        self.reader = reader
        self.stacks: list[tuple[nnx.Variable, list[Any]]] = []
        self.standing: dict[Any, nnx.Variable] = {}
        self._within = False
        self._loops = 0
        self._uses: Counter[str] | None = None
        self._alike = _alike.Alike(reader.flow, self._kind, reader.parts)
        self._patterns: Counter[str] = Counter()

    def runs(self, parts: Sequence[Any]) -> list[_alike.Run]:
        """Return the loops among the parts of a series; none within a loop."""
        if len(parts) < _alike.FEWEST or self._within:
            return []
        found = _alike.runs([self._alike.number(part) for part in parts], _alike.FEWEST)
        return [run for run in found if self._keeps_shape(parts[run.start : run.end], run)]

    def _keeps_shape(self, parts: Sequence[Any], run: _alike.Run) -> bool:
        ends = [_exit(part, self.reader.flow).aval for part in parts[run.period - 1 :: run.period]]
        return all((v.shape, v.dtype) == (ends[0].shape, ends[0].dtype) for v in ends) and (
            (ends[0].shape, ends[0].dtype) == self.entry_of(parts[0])
        )

    def entry_of(self, part: Any) -> tuple[Any, Any]:
        """Return shape and dtype of the signal at which a part begins."""
        aval = self._alike.entries[id(part)].aval
        return aval.shape, aval.dtype

    def repeat(self, parts: Sequence[Any], run: _alike.Run) -> Repeat:
        """Return the repeat of a loop."""
        reader = self.reader
        turns = [parts[i : i + run.period] for i in range(0, len(parts), run.period)]
        given = [[v for part in turn for v in self._alike.given[id(part)]] for turn in turns]
        for v, *others in zip(*given, strict=True):
            variable = reader.variables[v]
            value = jax.ShapeDtypeStruct((run.turns, *v.aval.shape), v.aval.dtype)
            self.standing[v] = type(variable)(value)
            sources = [reader.source_of(u) for u in (v, *others)]
            self.stacks.append((self.standing[v], sources))
        self._within, self._loops = True, self._loops + 1
        nodes = [reader.node(part) for part in turns[0]]
        names = _Names(reader, nodes)
        for turn, theirs in zip(turns[1:], given[1:], strict=True):
            names.given = dict(zip(given[0], theirs, strict=True))
            for part, node in zip(turn, nodes, strict=True):
                names.rename(part, node)
        self._within, self.standing = False, {}
        for node, labels, held, paths in names.found.values():
            pattern = starred(labels)
            self._patterns[pattern] += 1
            count = self._patterns[pattern]
            node._label = pattern if count == 1 else f"{pattern}#{count}"
            node._turns = Turns(self._loops, tuple(labels), tuple(held), tuple(paths))
        found: Any = Repeat(lambda rngs: Identity(), 1, rngs=nnx.Rngs(0))
        unit: Any = Chain(nodes)
        found.unit, found.n, found.remat = unit, run.turns, "none"
        found._label = unit._label = None
        return found

    def _kind(self, v: Any) -> Any:
        """Return what must agree of two variables from outside: one that is shared is like none."""
        variable = self.reader.variables[v]
        learned = isinstance(variable, nnx.Param)
        if learned and self.uses[self.reader.names[v]] > 1:
            return ("shared", object())
        if not learned and v.aval.size > LARGE and self.reader.is_constant(v):
            return ("large", object())
        return type(variable)

    @property
    def uses(self) -> Counter[str]:
        """In how many leaves what is held is used."""
        if self._uses is None:
            self._uses = Counter()
            owner = self.reader.structure.owner
            for piece in _pieces(self.reader.series, self.reader.parts):
                self._uses.update({n for i in piece.equations for n in owner.parameters_of(i)})
        return self._uses


class _Names:
    """The names of a loop's nodes, turn by turn.

    Attributes:
      found: each node that has a name, its labels, the names of what it holds and their paths.
      given: what the variables of the first turn are in this one.
    """

    def __init__(self, reader: Any, nodes: Sequence[Any]):
        self.reader = reader
        self.found: dict[int, tuple[Any, list[str], list[Any], list[Any]]] = {}
        self.given: dict[Any, Any] = {}
        for top in nodes:
            for _, node in nnx.iter_modules(top):
                label = vars(node).get("_label")
                if label is not None:
                    leaf = isinstance(node, Segment)
                    held, paths = ([tuple(node.held())], [node.paths]) if leaf else ([], [])
                    self.found[id(node)] = (node, [label], held, paths)

    def rename(self, part: Any, node: Any) -> None:
        """Give the node of a part the name of this turn."""
        reader = self.reader
        if isinstance(part, Piece):
            assert isinstance(node, Segment)
            names = [reader.names[self.given[v]] for v in node.work.given]
            label, held = reader.called(part, node.like, names)
            _, labels, every, paths = self.found[id(node)]
            labels.append(label)
            every.append(tuple(held))
            paths.append(reader.paths_of(names))
        elif isinstance(part, Wired):
            assert isinstance(node, Graph)
            for piece, (_, leaf) in zip(part.pieces, node.items(), strict=True):
                self.rename(piece, leaf)
        elif isinstance(part, Sum):
            assert isinstance(node, Residual)
            self.series(part.branch, node.branch)
            if isinstance(node.shortcut, Chain):
                self.series(part.shortcut, node.shortcut)
            self.joint(part, node, "sub" if part.taken else "add")
        elif isinstance(part, Beside):
            for series, branch in zip(part.branches, node, strict=True):
                self.series(series, branch)
            self.joint(part, node, "concat")

    def series(self, series: Series, chain: Any) -> None:
        """Give the nodes of a branch their names."""
        for part, node in zip(self.reader.parts(series), chain, strict=False):
            self.rename(part, node)

    def joint(self, part: Any, node: Any, what: str) -> None:
        """Give a sum or a concatenation its name."""
        leaves = [m for _, m in nnx.iter_modules(node) if isinstance(m, Segment) and m.held()]
        inside = [self.found[id(leaf)][1][-1] for leaf in leaves]
        name = self.reader.once(self.reader.around(part.equation, inside, what))
        self.found[id(node)][1].append(name)


def _pieces(series: Series, joined: Any) -> list[Piece]:
    """Return all leaves of a series."""
    found: list[Piece] = []
    for part in joined(series):
        if isinstance(part, Piece):
            found.append(part)
        elif isinstance(part, Wired):
            found += part.pieces
        elif isinstance(part, Sum):
            found += _pieces(part.branch, joined) + _pieces(part.shortcut, joined)
        elif isinstance(part, Beside):
            found += [piece for branch in part.branches for piece in _pieces(branch, joined)]
        else:
            found.append(Piece((part.entry,), part.exit, (part.equation,)))
    return found


def _exit(part: Any, flow: Any) -> Any:
    """Return the variable in which a part ends."""
    return (
        part.exit if isinstance(part, Piece | Wired) else flow.equations[part.equation].outvars[0]
    )


def starred(labels: Sequence[str]) -> str:
    """Return one name for several, with a star for what is not the same in all."""
    columns = list(zip(*(label.split("/") for label in labels), strict=False))
    other = [column for column in columns if len({*column}) > 1]
    alike = len({label.count("/") for label in labels}) == 1
    if alike and len(other) == 1 and all(name.isdigit() for name in other[0]):
        return "/".join("*" if column is other[0] else column[0] for column in columns)
    before = _shared(labels)
    after = _shared([label[len(before) :][::-1] for label in labels])[::-1]
    return f"{before}*{after}"


def _shared(texts: Sequence[str]) -> str:
    """Return what all texts begin with."""
    same = [len({*letters}) == 1 for letters in zip(*texts, strict=False)]
    return texts[0][: (*same, False).index(False)]


def stacked(values: Sequence[Any]) -> Any:
    """Return arrays of one shape as one, with a first axis for them."""
    if any(isinstance(value, jax.ShapeDtypeStruct) for value in values):
        return jax.ShapeDtypeStruct((len(values), *values[0].shape), values[0].dtype)
    if all(map(_is_at_hand, values)):
        # One copy in memory; JAX would make one of each first.
        return jnp.asarray(np.stack([np.asarray(value) for value in values]))
    return jnp.stack(values)


def _is_at_hand(value: Any) -> bool:
    """Whether an array lies in the memory of the host."""
    if isinstance(value, Tracer) or not isinstance(value, jax.Array):
        return isinstance(value, np.ndarray)
    plain = not jnp.issubdtype(value.dtype, jax.dtypes.extended)
    devices = value.devices()
    return plain and len(devices) == 1 and next(iter(devices)).platform == "cpu"
