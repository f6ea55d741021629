"""Any network as an expression: as it was written, or read from its program."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from convjax import _foreign, nn
from convjax._check import flag, function
from convjax._readable import whole
from convjax.gradflow import _check as check

OPAQUE = "not seen through, measured from outside"


def opened(
    net: Any,
    x: Any,
    train: bool | None,
    rngs: nnx.Rngs | None,
    call: Callable[[Any, Any], Any] | None,
    whole: Collection[str] = (),
) -> tuple[nnx.Module, bool, nnx.Rngs | None]:
    """Return a network's expression, and the mode and random numbers to run it with.

    The mode of a network that is read is what its norms do, whatever was asked for.

    Args:
      net: a node of ``convjax.nn``, or any module.
      x: the batch.
      train: the mode; a network that was written as an expression must be given one.
      rngs: source of random numbers.
      call: how the network is called, if not as its signature says.
      whole: paths of units that are not seen into.
    """
    rngs = check.streams(rngs)
    if call is None:
        check.network(net)
    else:
        _foreign.module("net", net, "a module of Flax NNX, which call=… says how to call")
        function("call", call, "a function of net and x")
    train = None if train is None else flag("train", train)
    if call is None and is_written(net):
        if train is None:
            raise ValueError(
                "train=None: say train=True (norms use the batch's statistics, dropout "
                "drops) or train=False"
            )
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return nn.seen(net, shape, train=train, rngs=rngs, whole=whole), train, rngs
    found = nn.read(net, x, call=call, train=train, rngs=rngs)
    leaves = (leaf for _, leaf, _ in nn.walk(found) if isinstance(leaf, nn.Segment))
    return found, any(leaf.mode == "batch" for leaf in leaves), None


def said(net: nnx.Module, train: bool) -> str:
    """Return how a network was called, as results print it."""
    leaves = [leaf for _, leaf, _ in nn.walk(net) if isinstance(leaf, nn.Segment)]
    modes = [leaf.mode for leaf in leaves if leaf.mode]
    norms = {"batch": "the batch's statistics", "running": "running statistics"}
    used = " and ".join(norms[mode] for mode in dict.fromkeys(modes))
    if not isinstance(net, nn.Reading):
        asked = "batch" if train else "running"
        return f"train={train}" + (f"; norms on {used}" if {*modes} - {asked} else "")
    return f"called as {net.words}" + (f"; norms on {used}" if used else "")


def unseen(net: nnx.Module) -> tuple[str, ...]:
    """Return the units of a network that was read in which the signal takes several paths."""
    found = []
    for _, node, _ in nn.walk(net):
        if isinstance(node, nn.Graph):
            *_, (_, last) = node.items()
            found.append(last)
        if isinstance(node, nn.Segment) and node.work.parts:
            found.append(node)
    labels = [str(nn.label_of("", node)) for node in found]
    names = nn.Turns.names(labels, [nn.turns_of(node) for node in found])
    return tuple(dict.fromkeys(names))


def not_seen(paths: Sequence[str], what: str = OPAQUE) -> list[str]:
    """Return the sentence that names some units, as results print it; none where there is none."""
    if not paths:
        return []
    more = ", …" * (len(paths) > 3)
    return [f"{what}: {', '.join(map(whole, paths[:3]))}{more}"]


def is_written(net: nnx.Module) -> bool:
    """Whether a network is an expression already, or a node with a rule of its own."""
    return isinstance(net, nn.Node)


def has_mode(net: Any, call: Callable[[Any, Any], Any] | None) -> bool:
    """Whether a network is called with a mode, which is then to be said."""
    return call is None and (is_written(net) or nn.takes_mode(net))


def channels_last(net: nnx.Module, given: Any) -> Any:
    """Return a shape or an array of images with the channels in the last place.

    That of a network that is read may have them behind the batch.
    """
    first = isinstance(net, nn.Reading) and net.channels_first
    if isinstance(given, tuple):
        batch, *rest = given
        return (batch, *rest[1:], rest[0]) if len(rest) > 1 and first else given
    return np.moveaxis(given, 1, -1) if given.ndim > 2 and first else given
