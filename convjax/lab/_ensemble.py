"""Ensembles: many networks of one kind, created and measured in one compiled loop, as rows."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import _check, gradflow, nn
from convjax.lab._columns import Columns, array, pick
from convjax.lab._compile import compiled

Kind = TypeVar("Kind")
T = TypeVar("T")


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
    kind = ensemble.kind

    def one(key: jax.Array) -> dict[str, jax.Array]:
        if hasattr(kind, "measure"):
            return kind.measure(key, ensemble.batch_size)
        weights, signal, cotangent = jax.random.split(key, 3)
        x = kind.signal(signal, ensemble.batch_size)
        return {"log_ratio": log_ratios(kind.network(nnx.Rngs(weights)), x, cotangent)}

    return as_rows(kind, **jax.device_get(map_seeds(one, ensemble.seeds, level=2)))


def map_seeds(
    one: Callable[[jax.Array], T],
    seeds: int,
    *,
    keys: jax.Array | None = None,
    at_once: int | None = None,
    level: int | None = None,
) -> T:
    """Create and measure many networks, by one compiled loop over their keys.

    Args:
      one: ``one(key)`` creates and measures one network.
      seeds: how many.
      keys: theirs; without it, those of the seeds 0, 1, …
      at_once: how many are measured side by side; without it, one after the other.
      level: of LLVM's effort, as in ``compiled``.

    Returns:
      What ``one`` returns, with networks for the first axis of every array.

    Example:
      >>> import jax
      >>> from convjax import lab
      >>> lab.map_seeds(lambda key: jax.random.normal(key, (3,)), 2).shape
      (2, 3)
    """
    mapped = partial(jax.lax.map, one, batch_size=at_once)
    if keys is not None:
        return compiled(mapped, keys, level=level)(keys)
    return compiled(lambda: mapped(jax.vmap(jax.random.key)(jnp.arange(seeds))), level=level)()


def as_rows(kind: Any, *, place: str = "position", **values: Any) -> Columns:
    """Return the rows of one kind of network.

    Args:
      kind: dataclass whose fields become columns.
      place: the column that counts the places.
      **values: by column, an array with a row for each network, a column for each place; or what
        can be broadcast to that, such as one value for each place.

    Example:
      >>> import dataclasses, numpy as np
      >>> from convjax import lab
      >>> kind = dataclasses.make_dataclass("Plain", ["depth"])(8)
      >>> lab.as_rows(kind, x=np.array([[1.0, 2.0]]))["position"].tolist()
      [0, 1]
    """
    shape = seeds, places = np.broadcast_shapes(*map(np.shape, values.values()))
    rows = dataclasses.asdict(kind) | {"seed": np.arange(seeds)[:, None], place: np.arange(places)}
    for name, value in values.items():
        kept = np.asarray(value).dtype.kind in "biuU"
        rows[name] = np.asarray(value, None if kept else np.float64)
    return {name: np.broadcast_to(value, shape).ravel() for name, value in rows.items()}


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

    Raises:
      WrongTypeError: net is no ``Repeat``.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import lab, models
      >>> net = models.deep_stack(6, 4, rngs=nnx.Rngs(0))
      >>> x, key = jax.random.normal(jax.random.key(1), (2, 3, 3, 4)), jax.random.key(2)
      >>> lab.log_ratios(net, x, key).shape
      (4,)
    """
    if not isinstance(net, nn.Repeat):
        raise _check.WrongTypeError(
            f"network() returned a {type(net).__name__}; it must return an nn.Repeat of the units, "
            "or the kind define measure(key, batch_size)"
        )
    logs = _log_norms(gradflow.profile(net, x, cotangent=cotangent, train=True))
    return 2 * (logs - logs[-1])


def unit_gains(profile: gradflow.Profile) -> jax.Array:
    """Return the gain of every unit: |g|^2 before it over |g|^2 behind it, input side first.

    Args:
      profile: of a ``Repeat`` of L units.

    Returns:
      Shape ``(L,)``.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from convjax import gradflow, lab, models
      >>> net = models.deep_stack(6, 4, rngs=nnx.Rngs(0))
      >>> x, key = jax.random.normal(jax.random.key(1), (2, 3, 3, 4)), jax.random.key(2)
      >>> lab.unit_gains(gradflow.profile(net, x, cotangent=key, train=True)).shape
      (3,)
    """
    return jnp.exp(-2 * jnp.diff(_log_norms(profile)))


def _log_norms(profile: gradflow.Profile) -> jax.Array:
    return jnp.append(profile["input"].gradient.log_norm, profile["*"].gradient.log_norm)
