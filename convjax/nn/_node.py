"""What a network is made of: nodes, their children, and the walk over them."""

from collections.abc import Iterator
from functools import singledispatch
from typing import Any, NamedTuple

import jax
from flax import nnx

from convjax import _check

MODULE = "a module, such as a node of convjax.nn"


class Node(nnx.Module):
    """Base of every leaf and combinator; a node is called ``node(x, train=False, rngs=None)``.

    ``train=True`` means batch statistics, dropout and stochastic depth; nothing else switches
    mode. ``rngs`` is needed only where ``train=True`` uses random numbers. Any other
    ``nnx.Module`` may stand in a network as well: ``nn.applied`` says how it is called.
    """

    _abstract = True  # its call is meant to be replaced

    def __call__(self, x: jax.Array, train: bool = False, rngs: nnx.Rngs | None = None) -> Any:
        """Apply the node to ``x``."""
        raise NotImplementedError(f"{type(self).__name__} has no forward pass")


@singledispatch
def children_of(node: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """Yield the children of a node that is checked; each combinator says which."""
    return iter(())


def children(node: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """Yield ``(name, child)`` in forward order; a leaf has none.

    These are the units of the combinators. Any other module is a leaf here; what measures it sees
    into it all the same, by its program.

    Args:
      node: any node.

    Returns:
      An iterator over pairs of name and node. The name ``"*"`` stands for every unit of a
      ``Repeat``.

    Example:
      >>> from convjax import nn
      >>> net = nn.Chain(a=nn.Activation("relu"), b=nn.Identity())
      >>> [name for name, _ in nn.children(net)]
      ['a', 'b']
    """
    check_module("node", node)
    return children_of(node)


def check_module(argument: str, node: Any) -> Any:
    """Return a module; refuse anything else, a function among it."""
    hint = (
        "an instance, not a class" if isinstance(node, type) else "wrap a function in nn.Activation"
    )
    right = f"{MODULE}; {hint}" if callable(node) else MODULE
    return _check.instance(argument, node, nnx.Module, right)


def check_streams(rngs: Any, stream: str = "params") -> nnx.Rngs:
    """Return a source of random numbers; refuse one that has no such stream."""
    example = "nnx.Rngs(0)" if stream == "params" else f"nnx.Rngs({stream}=0)"
    _check.instance("rngs", rngs, nnx.Rngs, f"an nnx.Rngs, such as {example}")
    if not hasattr(rngs, stream):
        raise ValueError(f"rngs has no stream {stream!r}; give {example}")
    return rngs


def label_of(path: str, node: nnx.Module) -> str | None:
    """Return the name that results show for the node at a path.

    Args:
      path: the node's path, as ``nn.walk`` gives it.
      node: the node.

    Returns:
      The path itself; for a node that ``nn.read`` made, the name of the module that it was read
      from, or None where results show no row: a branch's output is that of its last leaf.

    Example:
      >>> from convjax import nn
      >>> nn.label_of("stem/conv", nn.Identity())
      'stem/conv'
    """
    return vars(node).get("_label", path)


def kind_of(node: nnx.Module) -> str:
    """Return the kind of a node, as results show it: its type, or an activation's name.

    Args:
      node: the node.

    Returns:
      The kind; for a leaf that ``nn.read`` made, that of the leaf it is recognised as.

    Example:
      >>> from convjax import nn
      >>> nn.kind_of(nn.Identity()), nn.kind_of(nn.Activation("relu"))
      ('Identity', 'relu')
    """
    return getattr(node, "_kind", "") or type(node).__name__


class Visit(NamedTuple):
    """One step of ``walk``: the node's path, the node, the lengths of the repeats around it."""

    path: str
    node: nnx.Module
    repeats: tuple[int, ...]


def join(path: str, name: str) -> str:
    """Append one name to a path; the root's path is empty.

    Args:
      path: names joined by ``/``.
      name: one name.

    Returns:
      The longer path.

    Example:
      >>> from convjax import nn
      >>> nn.join("stage2/3", "branch"), nn.join("", "stem")
      ('stage2/3/branch', 'stem')
    """
    _check.instance("path", path, str, "names joined by '/'")
    _check.instance("name", name, str, "a name")
    return f"{path}/{name}" if path else name


def walk(node: nnx.Module, path: str = "", repeats: tuple[int, ...] = ()) -> Iterator[Visit]:
    """Yield every node below and including ``node``, parents after their children.

    That is the order in which outputs come to be. Inside a ``Repeat`` of n units the path holds a
    ``*`` and ``repeats`` the n; every parameter there has a leading axis of that length.

    Args:
      node: the root.
      path: the root's own path.
      repeats: lengths of the repeats around the root, outermost first.

    Returns:
      An iterator over ``Visit(path, node, repeats)``.

    Raises:
      ValueError: what is no module, or no path.

    Example:
      >>> from convjax import nn
      >>> net = nn.Chain(a=nn.Activation("relu"), b=nn.Chain(c=nn.Identity()))
      >>> [visit.path for visit in nn.walk(net)]
      ['a', 'b/c', 'b', '']
    """
    check_module("node", node)
    _check.instance("path", path, str, "names joined by '/'")
    return _visits(node, path, _check.integers("repeats", repeats, least=1))


def _visits(node: nnx.Module, path: str, repeats: tuple[int, ...]) -> Iterator[Visit]:
    for name, child in children_of(node):
        inner = (*repeats, node.n) if name == "*" else repeats  # pyright: ignore
        yield from _visits(child, join(path, name), inner)
    yield Visit(path, node, repeats)


def at(node: nnx.Module, path: str) -> nnx.Module:
    """Return the node at ``path``, such as ``"stage2/3/branch/conv1"``.

    Inside a ``Repeat`` a number picks one unit (a copy with its own parameters); ``*`` picks the
    stacked one.

    Args:
      node: the root.
      path: names joined by ``/``; the empty path is the root.

    Returns:
      The node found there.

    Raises:
      ValueError: no such path; the message lists the names that exist at the point of failure.

    Example:
      >>> from convjax import nn
      >>> nn.at(nn.Chain(a=nn.Activation("tanh")), "a").name
      'tanh'
    """
    check_module("node", node)
    _check.instance("path", path, str, "names joined by '/'")
    for name in filter(None, path.split("/")):
        known = dict(children(node))
        if name in known:
            node = known[name]
        elif "*" in known and name.isdigit() and int(name) < node.n:  # pyright: ignore
            node = node[int(name)]  # pyright: ignore
        else:
            here = ", ".join(known) or "no children"
            raise ValueError(f"path={path!r}: no node {name!r} in {type(node).__name__} ({here})")
    return node
