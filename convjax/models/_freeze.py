"""freeze: which parameters stay, and which are trained, in transfer learning."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from convjax import nn

FROZEN, TRAINABLE = "frozen", "trainable"


@dataclasses.dataclass(frozen=True)
class Split:
    """A network's parameters, each frozen or trainable.

    Attributes:
      labels: a tree like ``nnx.state(net, nnx.Param)`` with the leaves ``"frozen"`` and
        ``"trainable"``, as ``optax.multi_transform`` takes it.
      trainable: an ``nnx`` filter of the trainable parameters, as ``nnx.split`` takes it.
      count: how many numbers are ``"frozen"`` and how many ``"trainable"``.
    """

    labels: Any
    trainable: Any
    count: dict[str, int]


@dataclasses.dataclass(frozen=True)
class _Trainable:
    """The filter: parameters at these paths. Equal splits compare equal, so ``jax.jit`` caches."""

    paths: frozenset[tuple[Any, ...]]

    def __call__(self, path: tuple[Any, ...], value: Any) -> bool:
        return path in self.paths


def freeze(net: nnx.Module, up_to: str | None = None, *, paths: str | Sequence[str] = ()) -> Split:
    """Split a network's parameters into those that stay and those that are trained.

    Nothing is changed in the network. The split is used in one of two ways: give all gradients to
    ``optax.multi_transform({"trainable": optax.adam(1e-3), "frozen": optax.set_to_zero()},
    split.labels)``; or differentiate the trainable part alone, as in the example, and the backward
    pass ends where that part begins.

    Batch statistics are no parameters. Called with ``train=True`` a frozen unit still normalises by
    the batch and moves its running statistics. To keep them, cut the chain and run the frozen part
    in evaluation: ``back(front(x), train=True)`` with ``front = nn.Chain({n: net[n] for n in
    net.names[:4]})`` and ``back`` of the names behind; both share their variables with ``net``.

    Args:
      net: any network.
      up_to: path of the last frozen unit, such as ``"stage3"`` or ``"stage3/2"``; with it is frozen
        whatever comes before it in forward order. None freezes nothing.
      paths: instead of ``up_to``, the paths of just those units that are frozen.

    Returns:
      ``Split(labels, trainable, count)``.

    Raises:
      ValueError: no such path; a path inside a ``Repeat``, whose units share one array; both
        ``up_to`` and ``paths``.

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
    if up_to is not None and paths:
        raise ValueError(f"up_to={up_to!r} and paths={paths!r} are both given; give one of them")
    if up_to is not None:
        nodes = _up_to("up_to", net, up_to)
    else:
        named = [paths] if isinstance(paths, str) else paths
        nodes = [_up_to("paths", net, path)[-1] for path in named]
    stay = {id(value) for node in nodes for _, value in nnx.iter_graph(node)}
    parameters = [(p, v) for p, v in nnx.iter_graph(net) if isinstance(v, nnx.Param)]
    moving = _Trainable(frozenset(path for path, value in parameters if id(value) not in stay))

    def label(path: tuple[Any, ...], _: Any) -> str:
        return TRAINABLE if _names(path) in moving.paths else FROZEN

    state = nnx.state(net, nnx.Param)
    labels = jax.tree_util.tree_map_with_path(label, state)
    count = {FROZEN: 0, TRAINABLE: 0}
    for word, leaf in zip(jax.tree.leaves(labels), jax.tree.leaves(state), strict=True):
        count[word] += leaf.size
    return Split(labels, moving, count)


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
