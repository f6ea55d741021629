"""Ensembles: many networks of one kind, created and measured in one compiled loop, as rows."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import gradflow
from convjax.lab._columns import Columns, array, pick
from convjax.lab._compile import compiled

Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Many networks of one kind: a cell of an experiment.

    Attributes:
      kind: dataclass whose fields become columns; ``str`` says which it is.
      seeds: how many: 0, 1, …
      batch_size: examples that go through each; 0 where that is part of the kind.
    """

    kind: Any
    seeds: int
    batch_size: int = 0

    def __str__(self) -> str:
        return name_of(self.kind)


def name_of(kind: Any) -> str:
    """Return what a kind of network is called: as text, or else by its label and other fields."""
    if type(kind).__str__ is not object.__str__ or not hasattr(kind, "label"):
        return str(kind)
    fields = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(kind).items())
    return f"{kind.label} ({fields})"


def measure(ensemble: Ensemble) -> Columns:
    """Measure every network of an ensemble.

    Args:
      ensemble: its kind has ``network(rngs)`` and ``signal(key, batch_size)``; of these the
        column ``log_ratio``, ln(|g_l|^2 / |g_L|^2), is measured, for a unit Gaussian cotangent g_L.
        A kind that has ``measure(key, batch_size)`` says itself what is: by column, the values at
        the places of one network.

    Returns:
      A row for each seed and ``position``: 0 for the input, l behind unit l.

    Example:
      >>> import dataclasses, jax
      >>> from convjax import lab, models
      >>> @dataclasses.dataclass(frozen=True)
      ... class Plain:
      ...     depth: int = 3
      ...     def network(self, rngs):
      ...         return models.deep_stack(2 * self.depth, 4, rngs=rngs)
      ...     def signal(self, key, batch_size):
      ...         return jax.random.normal(key, (batch_size, 2, 2, 4))
      >>> columns = lab.measure(lab.Ensemble(Plain(), seeds=2, batch_size=1))
      >>> lab.array(columns, "log_ratio", "seed", "position").shape
      (2, 4)
    """

    def one(kind: Any, key: jax.Array) -> dict[str, jax.Array]:
        if hasattr(kind, "measure"):
            return kind.measure(key, ensemble.batch_size)
        weights, signal, cotangent = jax.random.split(key, 3)
        x = kind.signal(signal, ensemble.batch_size)
        return {"log_ratio": log_ratios(kind.network(nnx.Rngs(weights)), x, cotangent)}

    return over_seeds(ensemble, one)


def over_seeds(
    ensemble: Ensemble, one: Callable[[Any, jax.Array], dict[str, jax.Array]]
) -> Columns:
    """Measure networks of one kind, all by one program.

    Args:
      ensemble: how many of which kind.
      one: ``one(kind, key)`` creates and measures one network: by column the values at its places.

    Returns:
      A row for each seed and ``position``, the index of the place.

    Example:
      >>> import dataclasses, jax
      >>> from convjax import lab
      >>> kind = dataclasses.make_dataclass("Noise", ["size"])(3)
      >>> def one(kind, key):
      ...     return {"value": jax.random.normal(key, (kind.size,))}
      >>> lab.over_seeds(lab.Ensemble(kind, seeds=2), one)["position"].tolist()
      [0, 1, 2, 0, 1, 2]
    """

    def every():
        keys = jax.vmap(jax.random.key)(jnp.arange(ensemble.seeds))
        return jax.lax.map(lambda key: one(ensemble.kind, key), keys)

    return as_rows(ensemble.kind, **jax.device_get(compiled(every, level=2)()))


def as_rows(kind: Any, *, place: str = "position", **values: np.ndarray) -> Columns:
    """Return the rows of one kind of network.

    Args:
      kind: dataclass whose fields become columns.
      place: the column that counts the places.
      **values: by column, an array with a row for each network, a column for each place.

    Example:
      >>> import dataclasses, numpy as np
      >>> from convjax import lab
      >>> kind = dataclasses.make_dataclass("Plain", ["depth"])(8)
      >>> lab.as_rows(kind, x=np.array([[1.0, 2.0]]))["position"].tolist()
      [0, 1]
    """
    seeds, places = next(iter(values.values())).shape
    rows = dataclasses.asdict(kind) | {
        "seed": np.repeat(np.arange(seeds), places),
        place: np.tile(np.arange(places), seeds),
    }
    rows |= {name: np.asarray(value, np.float64).ravel() for name, value in values.items()}
    return {name: np.broadcast_to(value, (seeds * places,)) for name, value in rows.items()}


def by_kind(
    columns: Columns, kind: type[Kind], *names: str, place: str = "position"
) -> Iterator[tuple[Kind, tuple[np.ndarray, ...]]]:
    """Yield every kind of network with the named columns: ``as_rows`` back.

    Args:
      columns: the table.
      kind: dataclass whose fields tell the kinds apart.
      *names: which columns.
      place: the column that counts the places.

    Yields:
      The kind, and for each name an array with a row for each network, a column for each place.

    Example:
      >>> import dataclasses, numpy as np
      >>> from convjax import lab
      >>> Plain = dataclasses.make_dataclass("Plain", ["depth"])
      >>> columns = lab.as_rows(Plain(1), log_ratio=np.array([[0.5, 0.0]]))
      >>> [(kind.depth, x.tolist()) for kind, (x,) in lab.by_kind(columns, Plain, "log_ratio")]
      [(1, [[0.5, 0.0]])]
    """
    fields = [field.name for field in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
    axes = [columns[name].tolist() for name in fields]
    for values in dict.fromkeys(zip(*axes, strict=True)):
        here = pick(columns, **dict(zip(fields, values, strict=True)))
        yield kind(*values), tuple(array(here, name, "seed", place) for name in names)


def log_ratios(net: nnx.Module, x: jax.Array, cotangent: jax.Array) -> jax.Array:
    """Return ln(|g_l|^2 / |g_L|^2) for l = 0 (the input), 1, …, L (behind the last unit).

    Args:
      net: a ``Repeat`` of L units.
      x: the batch; norms use its statistics.
      cotangent: g_L, or a key from which a unit Gaussian one is drawn.

    Returns:
      Shape ``(L + 1,)``.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import lab, models
      >>> net = models.deep_stack(6, 4, rngs=nnx.Rngs(0))
      >>> x, key = jax.random.normal(jax.random.key(1), (2, 3, 3, 4)), jax.random.key(2)
      >>> lab.log_ratios(net, x, key).shape
      (4,)
    """
    profile = gradflow.profile(net, x, cotangent=cotangent, train=True)
    logs = jnp.append(profile["input"].gradient.log_norm, profile["*"].gradient.log_norm)
    return 2 * (logs - logs[-1])
