"""Chain and Parallel: units one after the other, and side by side."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from convjax import _check
from convjax.nn._applied import applied
from convjax.nn._node import Node, children_of
from convjax.nn._unit import unit as as_unit

Unit = nnx.Module | Callable[[Any], Any]


class _Named(Node):
    """Named units, held as attributes so that state paths are unit paths."""

    def __init__(
        self,
        *units: Unit | Mapping[str, Unit] | Iterable[Unit],
        **named: Unit,
    ):
        given = _by_name(type(self).__name__, units)
        if twice := sorted(set(given) & set(named)):
            raise ValueError(f"{type(self).__name__}: two units are named {', '.join(twice)}")
        given = {**given, **named}
        if not given:
            raise ValueError(f"{type(self).__name__}: units is empty; give at least one")
        self.names = tuple(given)
        for name, unit in given.items():
            unit = as_unit(f"{type(self).__name__}: unit {name!r}", unit)
            if (
                not isinstance(name, str)
                or not name
                or "/" in name
                or "*" in name
                or hasattr(self, name)
            ):
                raise ValueError(
                    f"{type(self).__name__}: {name!r} cannot name a unit; use a name without "
                    "'/' and '*' that is not an attribute of the combinator"
                )
            setattr(self, name, unit)

    def items(self) -> Iterator[tuple[str, nnx.Module]]:
        """Yield ``(name, unit)`` in forward order."""
        return ((name, getattr(self, name)) for name in self.names)

    def __getitem__(self, key: str | int) -> Any:
        if not isinstance(key, str):
            place = _check.integer("key", key)
            if not -len(self.names) <= place < len(self.names):
                raise IndexError(f"key={place}: there are {len(self.names)} units")
            return getattr(self, self.names[place])
        if key not in self.names:
            raise KeyError(f"{key!r}; there are {', '.join(self.names)}")
        return getattr(self, key)

    def __iter__(self) -> Iterator[nnx.Module]:
        return (unit for _, unit in self.items())

    def __len__(self) -> int:
        return len(self.names)


def _by_name(kind: str, units: tuple[Any, ...]) -> dict[Any, Any]:
    """Return units by name: as a mapping has them, or numbered, one by one or in a sequence."""
    if len(units) == 1 and not isinstance(units[0], nnx.Module):
        (several,) = units
        if isinstance(several, Mapping):
            return dict(several)
        if isinstance(several, str) or not (isinstance(several, Iterable) or callable(several)):
            right = "modules one by one, a sequence of them, or a mapping from names to them"
            _check.wrong_type(f"{kind}: units", several, right)
        units = tuple(several) if isinstance(several, Iterable) else units
    return {str(i): unit for i, unit in enumerate(units)}


class Chain(_Named):
    """Named units, one after the other.

    Formula: ``chain(x) = u_n(… u_2(u_1(x)))``.

    Args:
      *units: one by one, or in a sequence (named "0", "1", …), or in a mapping from names to them:
        nodes, any other module of Flax NNX that can be called with one array, or functions such as
        ``jax.nn.relu``. ``nn.applied`` says how the mode is passed to each.
      **named: further units by keyword, in order.

    Raises:
      ValueError: no unit, a unit that is neither module nor function, a name that cannot be one or
        is given twice.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import nn
      >>> net = nn.Chain(double=nn.Scale(2.0), relu=nn.Activation("relu"))
      >>> net(jnp.array([[-1.0, 3.0]])).tolist()
      [[0.0, 6.0]]
    """

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Apply the units in order."""
        for unit in self:
            x = applied(unit, x, train, rngs)
        return x


class Parallel(_Named):
    """Branches on the same input, their outputs concatenated on channels (Inception).

    Formula: ``parallel(x) = concat(b_1(x), …, b_n(x))`` on the last axis.

    Args:
      *units: the branches, as the units of a ``Chain``.
      **named: further branches by keyword, in order.

    Raises:
      ValueError: no branch, a branch that is neither module nor function, a name that cannot be one
        or is given twice; in the call, branches whose outputs differ in another axis than the
        channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from convjax import nn
      >>> net = nn.Parallel(same=nn.Identity(), double=nn.Scale(2.0))
      >>> net(jnp.array([[1.0, 3.0]])).tolist()
      [[1.0, 3.0, 2.0, 6.0]]

    Reference: Szegedy et al., Going Deeper with Convolutions, 2015.
    """

    def __call__(self, x, train: bool = False, rngs: nnx.Rngs | None = None):
        """Apply every branch to ``x`` and concatenate."""
        return self.merge([applied(branch, x, train, rngs) for branch in self])

    def merge(self, outputs: Sequence[jax.Array]) -> jax.Array:
        """Concatenate the branches' outputs on the last axis."""
        if len({y.shape[:-1] for y in outputs}) > 1:
            shapes = ", ".join(f"{n} {y.shape}" for n, y in zip(self.names, outputs, strict=True))
            raise ValueError(f"Parallel: outputs must agree in all axes but the last: {shapes}")
        return jnp.concatenate(outputs, axis=-1)


@children_of.register
def _(node: _Named):
    return node.items()
