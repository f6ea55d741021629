"""freeze: which parameters stay, and which are trained, in transfer learning."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from convjax import nn
from convjax._check import array, choice, instance, refuse, wrong_type
from convjax.models._features import as_called

FROZEN, TRAINABLE, MOVING = "frozen", "trainable", "moving"

Path = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Labels:
    """What each parameter is, as a function of a tree of them, which optax calls.

    Attributes:
      words: ``"frozen"`` or ``"trainable"``, by the parameter's path in ``nnx.state(net)``.
    """

    words: tuple[tuple[Path, str], ...]

    def __call__(self, params: Any) -> Any:
        """Return a tree with the structure of ``params`` and a word at every leaf.

        Args:
          params: all parameters of the network, or some, or anything of one leaf each: an
            ``nnx.State``, or nested dictionaries.

        Raises:
          ValueError: a leaf that is no parameter of the network.
        """
        words = dict(self.words)

        def word(path: tuple[Any, ...], _: Any) -> str:
            name = _names(path)
            if name not in words:
                raise ValueError(
                    f"params: {'/'.join(map(str, name))!r} is no parameter of the network that was "
                    "split"
                )
            return words[name]

        return jax.tree_util.tree_map_with_path(word, params)


@dataclasses.dataclass(frozen=True, repr=False)
class Split:
    """A network's parameters, each frozen or trainable.

    Attributes:
      labels: a function that labels each parameter ``"frozen"`` or ``"trainable"``, as
        ``optax.multi_transform`` takes it; ``labels(nnx.state(net, nnx.Param))`` is the tree.
      trainable: an ``nnx`` filter of the trainable parameters, as ``nnx.split`` takes it.
      count: how many numbers are ``"frozen"`` and how many ``"trainable"``.
      statistics: paths of the running statistics that stay as they are.
    """

    labels: Labels
    trainable: Any
    count: dict[str, int]
    statistics: frozenset[Path]

    def __repr__(self) -> str:
        return f"Split({', '.join(f'{n:,} {word}' for word, n in self.count.items())})"

    def keep_statistics(self, net: nnx.Module) -> None:
        """Have frozen batch norms run in evaluation, also where the network is called to train.

        They then normalise by their running statistics, and leave them as they are. This sets
        ``frozen`` on every such ``nn.BatchNorm``, and gives every such ``nnx.BatchNorm`` a call
        that is always in evaluation; ``train.fit(frozen=…)`` does it by itself.

        Args:
          net: the network that was split, or a copy of it; its norms are changed.

        Raises:
          ValueError: running statistics that stay and are neither's.
        """
        held = {id(v): p for p, v in nnx.iter_graph(net) if p in self.statistics}
        for _, module in nnx.iter_modules(net):
            if isinstance(module, nn.BatchNorm | nnx.BatchNorm) and id(module.mean) in held:
                if isinstance(module, nn.BatchNorm):
                    module.frozen = True
                else:
                    module.__class__ = _still(type(module))
                held = {i: p for i, p in held.items() if i not in (id(module.mean), id(module.var))}
        for path in held.values():
            raise ValueError(
                f"statistics='frozen': {'/'.join(map(str, path))!r} is not an nn.BatchNorm's, "
                "nor an nnx.BatchNorm's, so it is not known how to keep it; give "
                "models.freeze(…, statistics='moving')"
            )


@functools.cache
def _still(kind: type) -> type:
    """Return the type of batch norms of NNX that are in evaluation, whatever they are told."""

    def call(self: Any, x: Any, use_running_average: bool | None = None, **how: Any) -> Any:
        return kind.__call__(self, x, True, **how)  # pyright: ignore[reportAttributeAccessIssue]

    return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})


@dataclasses.dataclass(frozen=True)
class _Trainable:
    """The filter: parameters at these paths. Equal splits compare equal, so ``jax.jit`` caches."""

    paths: frozenset[Path]

    def __call__(self, path: Path, value: Any) -> bool:
        return path in self.paths


def freeze(
    net: nnx.Module,
    up_to: str | None = None,
    *,
    paths: str | Sequence[str] = (),
    statistics: str = FROZEN,
    x: Any = None,
    call: Callable[..., Any] | None = None,
) -> Split:
    """Split a network's parameters into those that stay and those that are trained.

    Nothing is changed in the network. The split is used in one of these ways:

    - ``train.fit(net, source, recipe, frozen=split)``: the backward pass ends where the trainable
      part begins, and frozen batch norms run in evaluation.
    - ``optax.multi_transform({"trainable": optax.adam(1e-3), "frozen": optax.set_to_zero()},
      split.labels)``, in ``nnx.Optimizer(net, …, wrt=nnx.Param)``, in ``train.fit(optimiser=…)``,
      or in a loop of your own.
    - ``nnx.Optimizer(net, optax.adam(1e-3), wrt=split.trainable)``, with
      ``nnx.grad(…, argnums=nnx.DiffState(0, split.trainable))``.
    - Differentiate the trainable part alone, as in the example.

    Batch statistics are no parameters. In all ways but the first, a frozen unit that is called
    with ``train=True`` normalises by the batch and moves its running statistics, unless
    ``split.keep_statistics(net)`` was called before.

    Args:
      net: any network: a node of ``convjax.nn``, a module of Flax NNX, or an ``nn.Function``.
      up_to: path of the last frozen unit, such as ``"stage3"`` or ``"stage3/2"``; with it is frozen
        whatever comes before it in forward order. None freezes nothing. In a network that is no
        expression of ``convjax.nn`` it is a label that ``nn.read`` shows, or the path of a module.
      paths: instead of ``up_to``, the paths of just those units that are frozen, or of modules and
        parameters where the network is no expression.
      statistics: ``"frozen"``: the batch norms of frozen units keep their running statistics and
        normalise by them, as in Keras; ``"moving"``: they go on as in training.
      x: a batch, or what has its shape and dtype; needed with ``up_to`` where a network is read.
      call: how a network that is read is called, if not as its signature says; see ``nn.applied``.

    Returns:
      ``Split(labels, trainable, count, statistics)``.

    Raises:
      ValueError: no such path; a path inside a ``Repeat``, whose units share one array; both
        ``up_to`` and ``paths``; ``up_to`` without ``x`` for a network that is read.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import models
      >>> net = models.resnet_cifar(8, width=4, rngs=nnx.Rngs(0))
      >>> split = models.freeze(net, up_to="stage3")
      >>> split.count["trainable"]
      170
      >>> graphdef, trainable, rest = nnx.split(net, split.trainable, ...)
      >>> def loss(trainable):
      ...     whole = nnx.merge(graphdef, trainable, rest, copy=True)
      ...     return whole(jnp.ones((2, 8, 12, 3))).var()
      >>> [leaf.shape for leaf in jax.tree.leaves(jax.grad(loss)(trainable))]
      [(10,), (16, 10)]
    """
    instance("net", net, nnx.Module, "a network, an nnx.Module")
    choice("statistics", statistics, (FROZEN, MOVING))
    named = _listed(up_to, paths)
    if not isinstance(net, nn.Node):
        stay = _read_up_to(net, up_to, x, call) if up_to is not None else _inside(net, named)
    else:
        if up_to is not None:
            nodes = _up_to("up_to", net, up_to)
        else:
            nodes = [_up_to("paths", net, path)[-1] for path in named]
        stay = {id(value) for node in nodes for _, value in nnx.iter_graph(node)}
    graph = [(p, v) for p, v in nnx.iter_graph(net) if isinstance(v, nnx.Variable)]
    words, count = {}, {FROZEN: 0, TRAINABLE: 0}
    for path, value in graph:
        if isinstance(value, nnx.Param):
            words[path] = FROZEN if id(value) in stay else TRAINABLE
            count[words[path]] += sum(leaf.size for leaf in jax.tree.leaves(value))
    moving = _Trainable(frozenset(path for path, word in words.items() if word == TRAINABLE))
    kept = {p for p, v in graph if isinstance(v, nnx.BatchStat) and id(v) in stay}
    still = frozenset(kept if statistics == FROZEN else ())
    return Split(Labels(tuple(words.items())), moving, count, still)


def _held(net: nnx.Module) -> dict[str, Any]:
    """Return what a network holds by path."""
    graph = ((p, v) for p, v in nnx.iter_graph(net) if isinstance(v, nnx.Variable))
    return {"/".join(map(str, path)): value for path, value in graph}


def _inside(net: nnx.Module, paths: Sequence[str]) -> set[int]:
    """Return the ids of what is held at or below some paths of a network that is read."""
    held, stay = _held(net), set()
    for path in paths:
        found = [v for name, v in held.items() if name == path or name.startswith(f"{path}/")]
        if not any(isinstance(v, nnx.Param) for v in found):
            params = [name for name, v in held.items() if isinstance(v, nnx.Param)]
            refuse("paths: module or parameter", path, params)
        stay |= {id(v) for v in found}
    return stay


def _read_up_to(net: nnx.Module, up_to: str, x: Any, call: Callable[..., Any] | None) -> set[int]:
    """Return the ids of what the units up to one use, in forward order."""
    if x is None:
        raise ValueError(
            f"up_to={up_to!r} needs x, a batch or what has its shape and dtype: the order of the "
            f"units of net={type(net).__name__} is read from its program"
        )
    if not isinstance(x, jax.ShapeDtypeStruct):
        x = array("x", x)
    reading = nn.read(net, x, call=as_called(False, None, call))
    units = [node for _, node, _ in nn.walk(reading) if nn.label_of("", node)]
    turns = [nn.turns_of(unit) for unit in units]
    names = nn.Turns.names([str(nn.label_of("", unit)) for unit in units], turns)
    here = [i for i, name in enumerate(names) if name == up_to or name.startswith(f"{up_to}/")]
    if not here:
        refuse("up_to: unit", up_to, list(names))
    held = _held(net)
    order = nn.Turns.in_order(turns)[: here[-1] + 1]
    used = {p for i, k in order for p in _paths_of(units[i], turns[i], k)}
    used |= {path for path in held if path.startswith(f"{up_to}/")}
    return {id(held[path]) for path in used if path in held}


def _paths_of(unit: nnx.Module, turns: nn.Turns | None, k: int | None) -> tuple[str, ...]:
    """Return the paths of what a unit uses, in one turn of a loop."""
    if turns is None or k is None:
        return getattr(unit, "paths", ())
    return turns.paths[k] if turns.paths else ()


def _listed(up_to: Any, paths: Any) -> list[str]:
    """Return the paths; refuse what is none, and both arguments at once."""
    if up_to is not None and not isinstance(up_to, str):
        wrong_type("up_to", up_to, "the path of a unit, such as 'stage3', or None")
    if not isinstance(paths, str | Sequence):
        wrong_type("paths", paths, "a path, or a sequence of them")
    found = [paths] if isinstance(paths, str) else list(paths)
    for i, path in enumerate(found):
        if not isinstance(path, str):
            wrong_type(f"paths[{i}]", path, "the path of a unit")
    if up_to is not None and found:
        raise ValueError(f"up_to={up_to!r} and paths={paths!r} are both given; give one of them")
    return found


def _names(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a state's path as ``nnx`` has it, without the step from a variable to its value."""
    return tuple(step.key for step in path if isinstance(step, jax.tree_util.DictKey))


def _up_to(argument: str, net: nnx.Module, path: str) -> list[nnx.Module]:
    """Return the node at a path, last, after all that come before it in forward order."""
    before, node, here = [], net, ""
    for name in filter(None, path.split("/")):
        if isinstance(node, nn.Repeat):
            raise ValueError(
                f"{argument}={path!r} lies inside the Repeat {here!r}, whose units share one "
                f"array and can only be frozen together: {here!r}"
            )
        known = dict(nn.children(node))
        if name not in known:
            nn.at(net, path)  # refuses, and tells what there is
        names = list(known)
        before += [known[other] for other in names[: names.index(name)]]
        node, here = known[name], nn.join(here, name)
    return [*before, node]
