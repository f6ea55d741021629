"""features: what comes out of chosen nodes, in one pass; headless: all but the classifier.

Chosen nodes are recorded on a copy of the tree: only the nodes on the way to them are copied, and
every variable is shared, so that the pass is the network's own, statistics and random draws
included.
"""

import fnmatch
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import _check, nn


def features(
    net: nnx.Module,
    x: jax.Array | np.ndarray,
    paths: str | Sequence[str],
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
    call: Callable[..., Any] | None = None,
) -> dict[str, jax.Array]:
    """Return the outputs of chosen nodes, from one forward pass.

    Of a network that is no expression of ``convjax.nn`` they are the units that ``nn.read`` finds,
    by their labels, turns of a loop by number; it stays as it is, statistics included.

    Else the pass is ``net(x, train, rngs)``: with ``train=True`` batch statistics move as there. A
    ``Repeat`` with a chosen node inside runs unrolled. Under ``jax.jit`` what stands behind the
    last chosen node is not computed.

    Args:
      net: any network: a node of ``convjax.nn``, a module of Flax NNX, or an ``nn.Function``.
      x: the batch.
      paths: nodes by path, as for ``nn.at``, units of a ``Repeat`` by number; or globs, matched
        name by name: ``"stage*"`` is every stage, ``"stage2/rest/*"`` every unit of the repeat.
      train: as in the network's call.
      rngs: as in the network's call.
      call: how the network is called, if not as its signature says; see ``nn.applied``.

    Returns:
      Path to output, in the order asked for.

    Raises:
      ValueError: no such path, a glob that matches nothing, a node that is asked for twice, that
        did not run, or that lies inside a node which cannot be looked into.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = models.resnet_cifar(14, width=4, rngs=nnx.Rngs(0))
      >>> x = jax.random.normal(jax.random.key(0), (1, 8, 12, 3))
      >>> found = models.features(net, x, ["stage*", "stage1/rest/1/branch/conv2"])
      >>> {path: y.shape for path, y in found.items()}  # doctest: +NORMALIZE_WHITESPACE
      {'stage1': (1, 8, 12, 4), 'stage2': (1, 4, 6, 8), 'stage3': (1, 2, 3, 16),
       'stage1/rest/1/branch/conv2': (1, 8, 12, 4)}
    """
    _check.instance("net", net, nnx.Module, "a network, any module of nnx")
    given, read = _paths(paths), call is not None or not isinstance(net, nn.Node)
    wanted = [] if read else _resolved(net, given)
    x, train = _check.array("x", x), _check.flag("train", train)
    if rngs is not None:
        _check.instance("rngs", rngs, nnx.Rngs, "an nnx.Rngs, such as nnx.Rngs(dropout=0), or None")
    if read:
        found = nn.read(net, x, call=as_called(train, rngs, call))
        return _of_labels(found, x, given)
    outputs: dict[str, Any] = {}
    probe: Any = _recorded(net, "", wanted, outputs)
    nn.applied(probe, x, train, rngs)
    if idle := [path for path in wanted if path not in outputs]:
        raise ValueError(f"paths: {', '.join(idle)} did not run in this pass")
    return {path: outputs[path] for path in wanted}


def as_called(
    train: bool, rngs: nnx.Rngs | None, call: Callable[..., Any] | None
) -> Callable[[Any, Any], Any]:
    """Return how any network is called in a mode, as ``nn.read`` takes it."""
    if call is not None:
        _check.function("call", call, "a function of net and x")
    if rngs is None:
        return _without_random(train, call)
    graphdef, state = nnx.split(rngs)

    def run(net: Any, x: Any) -> Any:
        return nn.applied(net, x, train, nnx.merge(graphdef, state, copy=True), call)

    return run


@cache
def _without_random(train: bool, call: Callable[..., Any] | None) -> Callable[[Any, Any], Any]:
    """Return one function for each mode: by it ``nn.read`` knows a network that it has read."""

    def run(net: Any, x: Any) -> Any:
        return nn.applied(net, x, train, None, call)

    return run


def labelled(reading: nnx.Module) -> dict[str, str]:
    """Return where the units of a network that was read stand, by label in forward order."""
    found: dict[str, str] = {}

    def visit(node: nnx.Module, path: str, turns: tuple[str, ...]) -> None:
        for name, child in _inside(node):
            inner = (*turns, name) if isinstance(node, nn.Repeat) else turns
            visit(child, nn.join(path, name), inner)
        label, own = nn.label_of("", node), nn.turns_of(node)
        if own is not None:
            found.setdefault(own.labels[int(turns[-1])], path)
        elif label:
            numbers = iter(turns)
            parts = (next(numbers, p) if p == "*" else p for p in label.split("/"))
            found.setdefault("/".join(parts), path)

    visit(reading, "", ())
    return found


def _of_labels(reading: nnx.Module, x: Any, patterns: Sequence[str]) -> dict[str, jax.Array]:
    """Return the outputs of the units of these labels."""
    places, chosen = labelled(reading), []
    if not patterns:
        raise ValueError("paths is empty; name at least one unit")
    for pattern in patterns:
        matches = [label for label in places if _fits(label, pattern)]
        if not matches:
            inside = [label for label in places if label.startswith(f"{pattern}/")]
            if inside:
                shown = ", ".join(inside[:8]) + (", …" if len(inside) > 8 else "")
                raise ValueError(f"paths: {pattern!r} is no unit, but holds some: {shown}")
            _check.refuse("paths: unit", pattern, list(places))
        if twice := [label for label in matches if label in chosen]:
            raise ValueError(
                f"paths: {twice[0]!r} is asked for twice, the second time by {pattern!r}"
            )
        chosen += matches
    outputs: dict[str, Any] = {}
    probe: Any = _recorded(reading, "", [places[label] for label in chosen], outputs)
    probe(x)
    return {label: outputs[places[label]] for label in chosen}


def _fits(label: str, pattern: str) -> bool:
    """Whether a label is what a pattern says, name by name."""
    names, globs = label.split("/"), pattern.split("/")
    pairs = zip(names, globs, strict=False)
    return len(names) == len(globs) and all(n == g or fnmatch.fnmatchcase(n, g) for n, g in pairs)


def _paths(paths: str | Sequence[str]) -> Sequence[str]:
    """Return paths one by one."""
    given = [paths] if isinstance(paths, str) else paths
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        _check.wrong_type("paths", paths, "a path, or a sequence of paths")
    return [_check.instance(f"paths[{i}]", p, str, "a path") for i, p in enumerate(given)]


def _resolved(net: nnx.Module, paths: Sequence[str]) -> list[str]:
    """Return the nodes asked for, globs written out."""
    if not paths:
        raise ValueError("paths is empty; name at least one node")
    found: list[str] = []
    for path in paths:
        matches = list(_matching(net, [name for name in path.split("/") if name]))
        if not matches:
            nn.at(net, path)  # refuses, and tells what there is
            raise ValueError(f"paths: {path!r} matches no node")
        if twice := [match for match in matches if match in found]:
            raise ValueError(f"paths: {twice[0]!r} is asked for twice, the second time by {path!r}")
        found += matches
    return found


def _matching(node: nnx.Module, names: Sequence[str], path: str = "") -> Iterator[str]:
    if not names:
        yield path
        return
    for name, child in _inside(node):
        if name == names[0] or fnmatch.fnmatchcase(name, names[0]):
            yield from _matching(child, names[1:], nn.join(path, name))


def _inside(node: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """Yield children, the units of a repeat by number."""
    if isinstance(node, nn.Repeat):
        return ((str(i), node.unit) for i in range(node.n))
    return nn.children(node)


def _recorded(
    node: nnx.Module, path: str, wanted: Collection[str], outputs: dict[str, Any]
) -> nnx.Module:
    """Return a node that writes what is wanted of it and its children into ``outputs``."""
    below = [p for p in wanted if p != path and (not path or p.startswith(f"{path}/"))]
    if not below and path not in wanted:
        return node
    run: Callable[..., Any] | None = None
    copy = _copied(node)
    if below and isinstance(node, nn.Repeat):
        run = _unrolled(node, path, below, outputs)
    elif below:
        for name, child in nn.children(node):
            inner = _recorded(child, nn.join(path, name), below, outputs)
            if inner is not child:
                vars(copy)[_attribute(node, name, child, path)] = inner

    def call(own: Callable[..., Any], *args: Any, **mode: Any) -> Any:
        y = (run or own)(*args, **mode)
        if path in wanted:
            outputs[path] = y
        return y

    vars(copy)["_watch"] = call
    return copy


def _unrolled(
    repeat: nn.Repeat, path: str, wanted: Collection[str], outputs: dict[str, Any]
) -> Callable[..., Any]:
    """Return the repeat's forward pass without its scan, out of which nothing could be handed."""

    def run(x: Any, train: bool = False, rngs: nnx.Rngs | None = None) -> Any:
        states, moved = [], False
        for i in range(repeat.n):
            unit = repeat[i]
            before = jax.tree.leaves(_statistics(unit))
            probe: Any = _recorded(unit, nn.join(path, str(i)), wanted, outputs)
            x = nn.applied(probe, x, train, rngs)
            states.append(_statistics(unit))
            after = jax.tree.leaves(states[-1])
            moved = moved or any(a is not b for a, b in zip(before, after, strict=True))
        # A network closed over by jax.grad may be read but not written.
        if moved:
            nnx.update(repeat.unit, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
        return x

    return run


def _statistics(unit: nnx.Module) -> Any:
    return nnx.split(unit, nnx.Param, ...)[2]


def _copied(node: nnx.Module) -> nnx.Module:
    """Return a node with the same attributes, whose calls can be watched."""
    copy = object.__new__(_watched(type(node)))
    vars(copy).update(vars(node))
    return copy


@cache
def _watched(kind: type) -> type:
    """Derive from a node's type, not wrap it: parents look at the types of their children."""

    class Watched(kind):
        @wraps(kind.__call__)  # nn.applied asks what it takes
        def __call__(self, *args, **mode):
            return vars(self)["_watch"](super().__call__, *args, **mode)

    Watched.__name__, Watched.__qualname__ = kind.__name__, kind.__qualname__
    return Watched


def _attribute(node: nnx.Module, name: str, child: nnx.Module, path: str) -> str:
    """Name the attribute that holds a child."""
    held = vars(node)
    if held.get(name) is child:
        return name
    found = next((key for key, value in held.items() if value is child), None)
    if found is None:
        raise ValueError(
            f"paths: cannot look into {type(node).__name__} at {path!r}, which holds its child "
            f"{name!r} in no attribute of its own"
        )
    return found


def headless(net: nnx.Module) -> nn.Chain:
    """Return the network without its classifier, the last unit ``dense`` of its ``head``.

    Its output are the pooled features, of shape (N, C). Variables are shared with ``net``: what
    moves in one has moved in the other.

    Args:
      net: a chain that ends in a chain ``head``, which ends in ``dense``.

    Returns:
      A chain of the same units under the same names.

    Raises:
      ValueError: a network that does not end in ``head/dense``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models
      >>> body = models.headless(models.resnet_cifar(8, width=4, rngs=nnx.Rngs(0)))
      >>> body(jax.random.normal(jax.random.key(0), (2, 8, 12, 3))).shape
      (2, 16)
    """
    _check.instance("net", net, nnx.Module, "a network that ends in head/dense")
    units, head = _parts(net), {}
    if list(units)[-1:] == ["head"]:
        head = _parts(units.pop("head"))
    if list(head)[-1:] != ["dense"]:
        there = [f"head/{name}" for name in head] if head else list(_parts(net))
        raise ValueError(
            f"net={type(net).__name__} does not end in the classifier head/dense; "
            f"it has {', '.join(there) or 'no units'}"
        )
    del head["dense"]
    if head:
        units["head"] = nn.Chain(head)
    if not units:
        raise ValueError("net is nothing but its classifier head/dense")
    return nn.Chain(units)


def _parts(node: nnx.Module) -> dict[str, nnx.Module]:
    return dict(node.items()) if isinstance(node, nn.Chain) else {}
