"""Turns: the names of what stands in every turn of a loop that was written in Python."""

import dataclasses
from collections.abc import Sequence

from flax import nnx


@dataclasses.dataclass(frozen=True)
class Turns:
    """What results show for a node of a loop that was written in Python, turn by turn.

    Args:
      loop: tells the loops of a network apart.
      labels: the node's name in every turn.
      held: the names of what the node holds, in every turn.
      paths: the paths of that in the network that was read, in every turn.

    Example:
      >>> from convjax import nn
      >>> conv, relu = nn.Turns(0, ("conv0", "conv1")), nn.Turns(0, ("relu", "relu#2"))
      >>> nn.Turns.in_order([conv, relu, None])
      [(0, 0), (1, 0), (0, 1), (1, 1), (2, None)]
    """

    loop: int
    labels: tuple[str, ...]
    held: tuple[tuple[str, ...], ...] = ()
    paths: tuple[tuple[str, ...], ...] = ()

    @staticmethod
    def in_order(turns: Sequence["Turns | None"]) -> list[tuple[int, int | None]]:
        """Return the places of nodes in the order of their outputs, a loop's turn by turn.

        Args:
          turns: of each node, its turns; None for one that stands in no such loop.

        Returns:
          Pairs of place and turn.
        """
        found: list[tuple[int, int | None]] = []
        i = 0
        while i < len(turns):
            first = turns[i]
            if first is None:
                found.append((i, None))
                i += 1
                continue
            end = i
            while end < len(turns) and (other := turns[end]) and other.loop == first.loop:
                end += 1
            found += [(place, k) for k in range(len(first.labels)) for place in range(i, end)]
            i = end
        return found

    @staticmethod
    def names(labels: Sequence[str], turns: Sequence["Turns | None"]) -> tuple[str, ...]:
        """Return the names of nodes in that order, of a loop's those of every turn.

        Args:
          labels: of each node, its name outside of loops.
          turns: of each node, its turns; None for one that stands in no such loop.

        Returns:
          The names.
        """
        found = []
        for i, k in Turns.in_order(turns):
            own = turns[i]
            found.append(labels[i] if own is None or k is None else own.labels[k])
        return tuple(found)


def turns_of(node: nnx.Module) -> Turns | None:
    """Return the names of a node that stands for one in every turn of a loop; None elsewhere.

    ``nn.read`` makes one ``Repeat`` of many equal layers that are called one after the other; in
    results each of them has its own name.

    Args:
      node: the node.

    Returns:
      The names, or None.

    Example:
      >>> from convjax import nn
      >>> nn.turns_of(nn.Identity()) is None
      True
    """
    return vars(node).get("_turns")
