"""The order of a network's paths: forward, as they are written."""

from collections.abc import Callable, Sequence

from flax import nnx

from convjax import nn


def network_order(net: nnx.Module) -> Callable[[str], tuple[int, ...]]:
    """Return a key that sorts paths of units and of their parameters into forward order.

    Units of a ``Repeat`` go by their number, each with all that it holds. What is no unit, such as
    ``input``, comes before the units; a unit comes before what it holds.

    Args:
      net: the network, a node of ``convjax.nn``.
    """
    places: dict[str, int] = {}
    for path, node, _ in nn.walk(net):
        names = (name for name, _ in nn.children(node))
        places |= {nn.join(path, name): i for i, name in enumerate(names)}

    def key(path: str) -> tuple[int, ...]:
        found, here = [], ""
        for name in path.split("/"):
            if nn.join(here, name) in places:
                here = nn.join(here, name)
                found.append(places[here])
            elif nn.join(here, "*") in places and name.isdigit():
                here = nn.join(here, "*")
                found.append(int(name))
            else:
                # Not a unit: a parameter of one, in the order of the rows.
                return tuple(found) if here else (-1,)
        return tuple(found)

    return key


def read_order(labels: Sequence[str]) -> Callable[[str], tuple[int, ...]]:
    """Return a key that sorts the names of units and of their parameters into forward order.

    Args:
      labels: of the units of a network that was read, in forward order; "*" stands for which turn
        of a loop it is.
    """
    places = {label: i for i, label in reversed(list(enumerate(labels)))}

    def first(prefix: str) -> int:
        found = (i for label, i in places.items() if label.startswith(f"{prefix}/"))
        return min(found, default=len(places))

    def key(path: str) -> tuple[int, ...]:
        if path == "input":
            return (-1,)
        parts = path.split("/")
        for n in range(len(parts), 0, -1):
            if (name := "/".join(parts[:n])) in places:
                return places[name], 0, 0
            for i, turn in enumerate(parts[:n]):
                loop = "/".join((*parts[:i], "*"))
                name = "/".join((loop, *parts[i + 1 : n]))
                if turn.isdigit() and name in places:
                    return min(first(loop), places.get(loop, len(places))), int(turn), places[name]
        return first(path.rpartition("/")[0]), 0, 0

    return key
