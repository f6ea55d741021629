"""The order of a network's paths: forward, as they are written."""

from collections.abc import Callable

from flax import nnx

from convjax import nn


def network_order(net: nnx.Module) -> Callable[[str], tuple[int, ...]]:
    """Return a key that sorts paths of units and of their parameters into forward order.

    Units of a ``Repeat`` go by their number, each with all that it holds. What is no unit, such as
    ``input``, comes before the units; a unit comes before what it holds.

    Args:
      net: the network.
    """
    places: dict[str, int] = {}
    for path, node, _ in nn.walk(net) if isinstance(net, nn.Node) else ():
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
