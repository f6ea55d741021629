"""read: the expression of a network, from the program that JAX traces of it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer

from convjax import _check, _foreign, _trace
from convjax.nn._chain import Chain, Parallel
from convjax.nn._node import label_of, walk
from convjax.nn._reading import _leaves
from convjax.nn._reading._called import Called, called
from convjax.nn._reading._folded import Folder, stacked
from convjax.nn._reading._like import Like
from convjax.nn._reading._owner import Owner
from convjax.nn._reading._recognise import recognise
from convjax.nn._reading._segment import Graph, Segment, Work
from convjax.nn._reading._structure import Beside, Loop, Piece, Series, Structure, Sum, Wired
from convjax.nn._repeat import Repeat
from convjax.nn._residual import Residual
from convjax.nn._simple import Identity, Scale
from convjax.nn._turns import Turns, turns_of

CONSTANT = "constant"
"""Begins the name of what a network closes over, and does not hold."""

KEPT = 64
"""Expressions that are kept, so that a network of the same structure is not traced again."""


class Reading(Chain):
    """The expression of a network that was read; ``nn.read`` makes it.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import nn
      >>> nn.read(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), jax.numpy.ones((1, 3))).labels
      ('kernel',)

    Attributes:
      passed: what the network is called with besides its input, as it is printed.
      words: how the network is called, as it is printed.
      channels_first: whether its images are ``(N, C, *spatial)``, as its first convolution has it.
    """

    passed: tuple[tuple[str, Any], ...] = ()
    words: str = ""
    _alike = True
    channels_first: bool = False
    drawn: tuple[tuple[str, int], ...] = ()

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Apply the units in order."""
        self.draw(rngs)
        return super().__call__(x, train, rngs)

    def take(self, streams: nnx.Rngs, drawn: tuple[tuple[str, int], ...]) -> None:
        """Have the random numbers that leaves hold come from those of each call."""
        self.streams, self.drawn = streams, drawn

    def draw(self, rngs: nnx.Rngs | None) -> None:
        """Take what the leaves use of random numbers, as the unit that was read would."""
        for name, count in self.drawn:
            if rngs is None:
                raise ValueError(f"rngs=None: a unit draws from the stream {name!r} in training")
            theirs, own = rngs[name], self.streams[name]
            own.key.set_value(theirs.key[...])
            own.count.set_value(theirs.count[...])
            theirs.count.set_value(theirs.count[...] + count)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of all units, in forward order."""
        shown = [node for _, node, _ in walk(self) if getattr(node, "_label", None)]
        labels = [str(label_of("", node)) for node in shown]
        return Turns.names(labels, [turns_of(node) for node in shown])


def read(
    net: nnx.Module,
    x: Any,
    *,
    call: Callable[[Any, Any], Any] | None = None,
    train: bool | None = None,
    rngs: nnx.Rngs | None = None,
) -> Reading:
    """Return the expression of a network: chains, sums, concatenations, loops and leaves.

    The network is traced by JAX as it is called, and its program taken apart. Where one value alone
    carries the signal, a unit ends. A unit that ends in the sum of two values made apart from one
    another is a ``Residual``, in a concatenation a ``Parallel``; any other wiring is a graph of
    leaves. Leaves are named for the modules whose parameters they use.

    The expression computes what the network does in this mode, at this shape. Its parameters are
    copies, of the values that the network has now.

    Args:
      net: any module of Flax NNX; ``nn.Function`` makes one of a network of another framework.
      x: the batch, or what has its shape and dtype.
      call: how the network is called, ``call(net, x)``; it must return one array. Pass the same
        function object each time, as with ``jax.jit``: what it closes over is taken as constant.
        Without it, ``train`` and ``rngs`` are passed as the call's signature accepts them.
      train: passed as ``train``, ``training``, ``is_training``, ``deterministic``, ``inference`` or
        ``use_running_average``, where the network's call has one of these.
      rngs: source of random numbers, passed as ``rngs``; it is not advanced.

    Returns:
      The expression.

    Raises:
      ValueError: what is no module, a call that does not return one array of floating numbers, an
        output that does not depend on ``x``, a mode for a network whose call has none.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import nn
      >>> class Net(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.conv = nnx.Conv(3, 3, (3, 3), rngs=rngs)
      ...
      ...     def __call__(self, x):
      ...         return x + jax.nn.relu(self.conv(x))
      >>> nn.read(Net(nnx.Rngs(0)), jax.numpy.ones((2, 5, 4, 3))).labels
      ('conv', 'relu', 'add')
    """
    _foreign.module("net", net, "a module of Flax NNX, or nn.Function(apply, params)")
    if call is None:
        _check.function("net", net, "a module that can be called")
    else:
        _check.function("call", call, "a function of net and x")
    if rngs is not None:
        _check.instance("rngs", rngs, nnx.Rngs, "None or an nnx.Rngs, such as nnx.Rngs(dropout=0)")
    train = None if train is None else _check.flag("train", train)
    if not isinstance(x, jax.ShapeDtypeStruct):
        x = _check.array("x", x)
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    how = called(net, call, train, rngs)
    key = (*how.key, call, shape.shape, shape.dtype)

    def make() -> Template:
        expression, stacks = expression_of(how, shape)
        return Template(expression, how.variables, stacks)

    return kept(key, make).filled(how.variables)


_TEMPLATES: dict[Any, "Template"] = {}


def kept(key: tuple[Any, ...], make: Callable[[], "Template"]) -> "Template":
    """Return the expression that is kept for a key, made where there is none."""
    told_apart = is_hashable(key)
    found = _TEMPLATES.get(key) if told_apart else None
    if found is None:
        found = make()
        if told_apart and not found.traced:
            if len(_TEMPLATES) >= KEPT:
                del _TEMPLATES[next(iter(_TEMPLATES))]
            _TEMPLATES[key] = found
    return found


class Template:
    """An expression without its values, and where these come from.

    Args:
      expression: the expression.
      variables: what its values are taken from, by name.
      wrapped: the one among them that stands for an array that is no variable, by its identity.
    """

    def __init__(
        self,
        expression: nnx.Module,
        variables: dict[str, nnx.Variable],
        stacks: Sequence[tuple[nnx.Variable, Sequence[Any]]] = (),
        wrapped: Mapping[int, nnx.Variable] | None = None,
    ):
        names: dict[int, Any] = {id(variable): name for name, variable in variables.items()}
        names |= {key: names[id(v)] for key, v in (wrapped or {}).items() if id(v) in names}
        names |= {id(variable): tuple(sources) for variable, sources in stacks}
        self.graphdef, state = nnx.split(expression)
        leaves, self.structure = jax.tree.flatten(state)
        held = dict(nnx.iter_graph(expression))
        paths = [path for path, _ in nnx.to_flat_state(state)]
        self.sources = [
            names.get(id(held[path]), leaf) for path, leaf in zip(paths, leaves, strict=True)
        ]
        self.traced = any(isinstance(source, Tracer) for source in jax.tree.leaves(self.sources))

    def filled(self, variables: dict[str, nnx.Variable]) -> Any:
        """Return the expression with a network's values."""
        values = [self._value(source, variables) for source in self.sources]
        return nnx.merge(self.graphdef, jax.tree.unflatten(self.structure, values))

    def _value(self, source: Any, variables: dict[str, nnx.Variable]) -> Any:
        if isinstance(source, tuple):
            return stacked([self._value(one, variables) for one in source])
        return variables[source].get_value() if isinstance(source, str) else source


def expression_of(
    how: Called,
    x: jax.ShapeDtypeStruct,
    *,
    path: str = "",
    around: tuple[int, ...] = (),
    folds: bool = True,
) -> tuple[Reading, Any]:
    """Return the expression of a network that is called in some way, and what was stacked for it.

    Args:
      how: the network, as it is called.
      x: what comes in.
      path: the network's own, within another expression.
      around: the lengths of the repeats around it, by which its values are stacked.
      folds: whether equal units in turn become a repeat.
    """
    depth = len(around)
    held = [variable.get_value() for variable in how.variables.values()]
    values = [jax.ShapeDtypeStruct(v.shape[depth:], v.dtype) for v in held] if depth else held
    returned: list[Any] = []

    def function(values: list[Any], x: Any) -> Any:
        returned[:] = [how.function(values, x)]
        return returned[0]

    try:
        program = _trace.trace(function, values, x)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"net={how.name} cannot be called as {how.words} with x of shape {x.shape} and dtype "
            f"{x.dtype}: {said}; give another x, or call=lambda net, x: … that says how"
        ) from error
    entry, exit = program.inputs[len(values)], output_of(program, returned.pop())
    names = dict(list(zip(program.inputs, how.variables, strict=False))[: len(values)])
    variables = {v: how.variables[name] for v, name in names.items()}
    for i, (v, value) in enumerate(program.constants.items()):
        each = jnp.broadcast_to(value, (*around, *jnp.shape(value))) if depth else value
        names[v], variables[v] = f"{CONSTANT} {i}", nnx.Variable(each)
    first = _channels_first(program.equations)
    reader = Reader(program, entry, exit, names, variables, Names(), channels_first=first)
    reader.outer, reader.folds = around, folds
    if exit not in reader.flow.signals:
        raise ValueError("net: its output does not depend on x, so that no gradient travels")
    if exit not in reader.flow.felt:
        raise ValueError(
            "net: its output depends on x by stop_gradient, rounding or comparisons alone, so that "
            "every gradient is zero; give call=lambda net, x: … that returns what is before them"
        )
    # What is tried on numbers to recognise a unit is no part of what is traced around.
    with jax.ensure_compile_time_eval():
        expression: Any = Reading(reader.nodes(reader.series))
    expression.passed, expression.words = tuple(how.passed.items()), how.words
    expression._label, expression._kind = path, how.name
    expression.channels_first = first
    for _, leaf, _ in walk(expression):
        if isinstance(leaf, Segment):
            leaf._first = expression.channels_first
    return expression, reader.folder.stacks


def _channels_first(equations: Sequence[Any]) -> bool:
    """Whether the first convolution takes its channels from the axis behind the batch."""
    found = (e for e in equations if e.primitive.name == "conv_general_dilated")
    first = next(found, None)
    if first is None:
        return False
    spec = first.params["dimension_numbers"].lhs_spec
    return len(spec) > 2 and spec[1] == 1


class Names:
    """The names that were given, and the one that was given last."""

    def __init__(self):
        self.taken = {"input": 1}  # the batch's
        self.latest = ""

    def once(self, name: str) -> str:
        """Return a name, with a number where it was used before."""
        self.taken[name] = self.taken.get(name, 0) + 1
        self.latest = name if self.taken[name] == 1 else f"{name}#{self.taken[name]}"
        return self.latest


class Reader:
    """Builds the nodes of a program's structure.

    Attributes:
      names: of the variables that stand for what the network holds.
      variables: what they stand for.
      given: the names that were given so far.
      channels_first: whether images have their channels behind the batch.
      turns: for each loop around the program, outermost first: the path of what it repeats, and
        how many times.
      outer: the lengths of the repeats of an expression that the program is a unit of.
    """

    def __init__(
        self,
        program: Any,
        entry: Any,
        exit: Any,
        names: dict[Any, str],
        variables: dict[Any, nnx.Variable],
        given: Names,
        turns: tuple[tuple[str, int], ...] = (),
        channels_first: bool = False,
    ):
        self.channels_first = channels_first
        self.names, self.variables, self.given, self.turns = names, variables, given, turns
        self.outer: tuple[int, ...] = ()
        self.folds = True
        self.flow = _trace.Flow(program.equations, entry, exit)
        random = (nnx.RngKey, nnx.RngCount)
        named = {
            v: n
            for v, n in names.items()
            if not isinstance(variables[v], random) and not n.startswith(CONSTANT)
        }
        owner = Owner(self.flow, named)
        constants = frozenset(v for v, n in names.items() if n.startswith(CONSTANT))
        self.structure = Structure(self.flow, owner, constants)
        self.series = self.structure.series(entry, exit, self.flow.path)
        self._joined: dict[int, list[Any]] = {}
        self.folder = Folder(self)

    def parts(self, series: Series) -> list[Any]:
        """Return the parts of a series, each of them one node outside of loops."""
        if id(series) not in self._joined:
            self._joined[id(series)] = _leaves.joined(series.parts, self.structure, self.is_known)
        return self._joined[id(series)]

    def nodes(self, series: Series) -> list[nnx.Module]:
        """Return the nodes of a series; the identity where it has no part."""
        parts, found, done = self.parts(series), [], 0
        for run in self.folder.runs(parts) if self.folds and not self.turns else ():
            found += map(self.node, parts[done : run.start])
            found.append(self.folder.repeat(parts[run.start : run.end], run))
            done = run.end
        found += map(self.node, parts[done:])
        return found or [Identity()]

    def chain(self, series: Series, *, negative: bool = False) -> nnx.Module:
        """Return a branch, which has no name of its own; with the other sign where it is taken."""
        units = self.nodes(series)
        if negative:
            units.append(Scale(-1.0))
            vars(units[-1])["_label"] = None
        node: Any = Chain(units)
        node._label = None
        for unit in node:
            if isinstance(unit, Identity):
                unit._label = None  # pyright: ignore[reportAttributeAccessIssue]
        return node

    def node(self, part: Any) -> nnx.Module:
        """Return the node of one part."""
        if isinstance(part, Piece):
            return self.leaf(part)
        if isinstance(part, Wired):
            return self.graph(part)
        if isinstance(part, Loop):
            return self.repeat(part)
        node: Any
        if isinstance(part, Sum):
            plain = not part.shortcut.parts and part.taken != "shortcut"
            branch = self.chain(part.branch, negative=part.taken == "branch")
            negative = part.taken == "shortcut"
            shortcut = "identity" if plain else self.chain(part.shortcut, negative=negative)
            node, what = Residual(branch, shortcut), "sub" if part.taken else "add"
            if plain:
                node.shortcut._label = None
        else:
            assert isinstance(part, Beside)
            node, what = Parallel([self.chain(branch) for branch in part.branches]), "concat"
        leaves = [m for _, m in nnx.iter_modules(node) if isinstance(m, Segment)]
        inside = [str(m._label) for m in leaves if m.held()]
        node._label = self.once(self.around(part.equation, inside, what))
        return node

    def is_known(self, piece: Piece) -> bool:
        """Whether a piece is a leaf that is recognised."""
        return self.recognised(piece)[2] is not None

    def recognised(self, piece: Piece) -> tuple[Work, dict[Any, str], Like | None]:
        """Return a piece as a function, the names of what it takes, and the leaf that it is."""
        work = Work(self.flow, piece.entries, piece.exit, piece.equations)
        names = {v: self.names[v] for v in work.given}
        variables = {v: self.folder.standing.get(v, self.variables[v]) for v in work.given}
        learned = (n for v, n in names.items() if isinstance(variables[v], nnx.Param))
        first = self.channels_first
        return work, names, recognise(work, names, frozenset(learned), first=first)

    def leaf(self, piece: Piece) -> Segment:
        """Return a leaf."""
        work, names, like = self.recognised(piece)
        label, short = self.called(piece, like, list(names.values()))
        held = {
            s: self.folder.standing.get(v, self.variables[v])
            for s, v in zip(short, names, strict=True)
        }
        leaf = Segment(label, _kind(like), work, held)
        leaf._paths = self.paths_of(list(names.values()))
        if like is not None:
            own = dict(zip(names.values(), short, strict=True))
            parts = {field: n and own[n] for field, n in like.named.items()}
            leaf._like = dataclasses.replace(like, **parts)
        return leaf

    def called(
        self, piece: Piece, like: Like | None, names: Sequence[str]
    ) -> tuple[str, list[str]]:
        """Return the name of a leaf, and what it calls what it holds.

        Args:
          piece: its equations.
          like: the known leaf that they compute.
          names: what it holds.
        """
        # One operation that is no known activation is called by its own name.
        alone = like is not None and like.fields == UNKNOWN and len(piece.equations) == 1
        name = _leaves.name_of(piece, self.structure, "" if alone else _word(like))
        if "/" not in name and not names and like is not None and like.kind == "Activation":
            # Nothing names its module: an activation stands by what it is applied to.
            name = f"{_parent(self.given.latest)}/{name}".removeprefix("/")
        short = [n.rpartition("/")[2] if n == name else n.removeprefix(f"{name}/") for n in names]
        return self.once(name), short

    def graph(self, part: Wired) -> Graph:
        """Return leaves of another wiring."""
        pieces = _leaves.joined_in_graph(part.pieces, part.exit, self.structure, self.is_known)
        values = {part.entry: 0} | {piece.exit: i + 1 for i, piece in enumerate(pieces)}
        sources = [tuple(values[v] for v in piece.entries) for piece in pieces]
        node: Any = Graph([self.leaf(piece) for piece in pieces], sources)
        node._label = None
        return node

    def around(self, equation: int, inside: Sequence[str], what: str) -> str:
        """Return the name of a sum or a concatenation: its scope, or what its leaves share.

        Args:
          equation: the sum.
          inside: the names of the leaves in it that hold something.
          what: says what it is.
        """
        scope = self.structure.owner.scope_of(equation)
        if not scope:
            scope = _leaves.common(inside if len(inside) > 1 else [_parent(n) for n in inside])
            scope = _outside(scope, len(self.turns))
        return f"{scope}/{what}" if scope else what

    @staticmethod
    def paths_of(names: Sequence[str]) -> tuple[str, ...]:
        """Return the names of what a network holds."""
        return tuple(name for name in names if not name.startswith(CONSTANT))

    def is_constant(self, v: Any) -> bool:
        """Whether a variable stands for what the network closes over, and does not hold."""
        return self.names[v].startswith(CONSTANT)

    def source_of(self, v: Any) -> Any:
        """Return the name of what a variable stands for; of a constant, its value."""
        return self.variables[v][...] if self.is_constant(v) else self.names[v]

    def repeat(self, part: Loop) -> Repeat:
        """Return a loop over stacked parameters."""
        inner = self.inside(part)
        node: Any = Repeat(lambda rngs: Identity(), 1, rngs=nnx.Rngs(0))
        node.unit, node.n = inner.chain(inner.series), part.length
        node.remat = "unit" if part.remat else "none"
        node._label = None
        return node

    def inside(self, part: Loop) -> "Reader":
        """Return the reader of what a loop repeats."""
        names = {inner: self.names[outer] for inner, outer in part.stacked.items()}
        variables = {inner: self.variables[outer] for inner, outer in part.stacked.items()}
        around = (*self.outer, *(length for _, length in self.turns))
        constants = {v: self.variables[outer][...] for v, outer in part.fixed.items()}
        inside = {
            v: jnp.broadcast_to(value, (*around, *jnp.shape(value)))
            for v, value in part.program.constants.items()
        }
        for i, (v, value) in enumerate({**constants, **inside}.items()):
            each = jnp.expand_dims(value, len(around))
            shape = (*around, part.length, *value.shape[len(around) :])
            names[v] = f"{CONSTANT} {i}"
            variables[v] = nnx.Variable(jnp.broadcast_to(each, shape))
        learned = [n for v, n in names.items() if isinstance(variables[v], nnx.Param)]
        modules = {_parent(name) for name in learned or names.values()}
        # What is repeated stands around its leaves, and around the one where there is but one.
        within = _leaves.common([_parent(m) for m in modules] if len(modules) == 1 else [*modules])
        program = (part.program, part.entry, part.exit, names, variables, self.given)
        turns = (*self.turns, (within, part.length))
        inner = Reader(*program, turns, channels_first=self.channels_first)
        inner.outer = self.outer
        return inner

    def once(self, name: str) -> str:
        """Return a name for a unit: within a loop, with a star for which turn it is of."""
        if "*" not in name.split("/"):
            for within, _ in reversed(self.turns):
                turn = f"{within}/*".removeprefix("/")
                rest = name.removeprefix(within).removeprefix("/")
                name = f"{turn}/{rest}" if rest else turn
        return self.given.once(name)


def _outside(name: str, turns: int) -> str:
    """Return a path as far as it is not within more loops than some number."""
    parts = name.split("/")
    stars = [i for i, part in enumerate(parts) if part == "*"]
    return "/".join(parts[: stars[turns]]) if len(stars) > turns else name


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _kind(like: Like | None) -> str:
    """Return the kind of a leaf, as results show it."""
    if like is None:
        return "Segment"
    return dict(like.fields)["name"] if like.kind == "Activation" else like.kind


UNKNOWN = (("name", "elementwise"),)
SUFFIX = " (own)"
WORDS = {"Flatten": "flatten", "Reshape": "reshape", "Dropout": "dropout"}


def _word(like: Like | None) -> str:
    """Return what a leaf without parameters and scope is called."""
    if like is None:
        return ""
    how = dict(like.fields)
    if like.kind in ("GlobalPool", "Pool"):
        return f"{how['kind']}_pool" if like.kind == "Pool" else f"global_{how['kind']}_pool"
    if like.kind == "Activation":
        return how["name"].removesuffix(SUFFIX)
    return WORDS.get(like.kind, like.kind if like.kind.islower() else "")


def output_of(program: Any, returned: Any) -> Any:
    """Return the one output of a program; refuse an array within a tuple or a dict."""
    if jax.tree.structure(returned) == jax.tree.structure(0):
        (found,) = program.outputs
        if jnp.issubdtype(found.aval.dtype, jnp.floating):
            return found
    leaves, structure = jax.tree_util.tree_flatten_with_path(returned)
    kinds = jax.tree.unflatten(structure, [_Kind(leaf) for _, leaf in leaves])
    first = jax.tree_util.keystr(leaves[0][0]) if leaves else ""
    call = f"net(x){first}, say" if first else "… that returns one"
    raise ValueError(
        f"net returns {kinds}, and must return one array of floating numbers; give "
        f"call=lambda net, x: {call}"
    )


class _Kind:
    """Shape and dtype of an array, as messages show them."""

    def __init__(self, array: Any):
        self.text = f"{jnp.result_type(array)}{list(jnp.shape(array))}"

    def __repr__(self) -> str:
        return self.text


def is_hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True
