"""Which parameters are a node's own, and which stand at several places of one network."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from convjax import nn


def own_parameters(node: nnx.Module, children: Iterable[nnx.Module]) -> dict[str, nnx.Param]:
    """Return the parameters at and below a node that none of some children holds, by name."""
    theirs = {id(p) for child in children for p in _parameters(child).values()}
    return {name: p for name, p in _parameters(node).items() if id(p) not in theirs}


def _parameters(node: nnx.Module) -> dict[str, nnx.Param]:
    graph = nnx.iter_graph(node)
    found = {"/".join(map(str, path)): p for path, p in graph if isinstance(p, nnx.Param)}
    return dict(sorted(found.items()))


class Place(NamedTuple):
    """Where a parameter stands: the node's path, the parameter's name, the repeats around it."""

    path: str
    name: str
    repeats: tuple[int, ...]

    @property
    def shown(self) -> str:
        """The parameter's path."""
        return nn.join(self.path, self.name)

    @property
    def token(self) -> str:
        """The name of what is added to the parameter here, and here alone."""
        return f"{self.path}={self.name}"


@dataclasses.dataclass(frozen=True)
class Shared:
    """The parameters that stand at several places, which a profile reports at the first.

    The parts of such a parameter's gradient come from places where the cotangents were rescaled
    differently. A zero that is added to the parameter at each place tells the parts apart.

    Attributes:
      groups: the places of each such parameter, in forward order.
      values: the parameter, for each group.
    """

    groups: tuple[tuple[Place, ...], ...]
    values: tuple[Any, ...]

    def tokens(self) -> dict[str, jax.Array]:
        """Return the zeros to be added, by name."""
        pairs = zip(self.groups, self.values, strict=True)
        return {place.token: jnp.zeros_like(v) for group, v in pairs for place in group}

    @property
    def paths(self) -> frozenset[str]:
        """The paths of all nodes that hold such parameters."""
        return frozenset(place.path for group in self.groups for place in group)

    def at(self, path: str) -> dict[str, tuple[Place, ...]]:
        """Return the groups that a node is the first of, by the parameter's name."""
        return {g[0].name: g for g in self.groups if g[0].path == path}

    def later(self, path: str) -> set[str]:
        """Return the names of a node's parameters that are reported at another place."""
        return {p.name for group in self.groups for p in group[1:] if p.path == path}


def shared(net: nnx.Module, is_whole: Callable[[Any], bool]) -> Shared:
    """Find the parameters that stand at several places.

    Args:
      net: the network.
      is_whole: tells what is not entered.
    """
    places: dict[int, list[Place]] = {}
    values: dict[int, Any] = {}
    for path, node, repeats in _walk(net, is_whole, "", ()):
        children = [] if is_whole(node) else [child for _, child in nn.children(node)]
        for name, parameter in own_parameters(node, children).items():
            places.setdefault(id(parameter), []).append(Place(path, name, repeats))
            values[id(parameter)] = parameter[...]
    several = [key for key, found in places.items() if len(found) > 1]
    return Shared(
        tuple(tuple(places[key]) for key in several), tuple(values[key] for key in several)
    )


def _walk(node: Any, is_whole: Any, path: str, repeats: tuple[int, ...]) -> Iterator[Any]:
    if not is_whole(node):
        for name, child in nn.children(node):
            inner = (*repeats, node.n) if name == "*" else repeats
            yield from _walk(child, is_whole, nn.join(path, name), inner)
    yield path, node, repeats


def shifted(node: nnx.Module, path: str, tokens: Mapping[str, jax.Array]) -> Any:
    """Add what stands for a node's shared parameters to them; return a function that undoes it."""
    undo = []
    for name, parameter in _parameters(node).items():
        token = tokens.get(f"{path}={name}")
        if token is not None:
            before = parameter.get_value()
            undo.append((parameter, before))
            parameter.set_value(before + token)
    return lambda: [parameter.set_value(before) for parameter, before in undo]
