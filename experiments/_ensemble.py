"""Many networks of one kind: drawn and measured in one compiled loop, and their numbers as rows."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import gradflow
from experiments._columns import Columns

Cell = TypeVar("Cell")


@dataclasses.dataclass(frozen=True)
class Networks:
    """Many networks of one kind: a cell of a study.

    Attributes:
      kind: dataclass whose fields become columns; ``str`` says which it is.
      seeds: how many: 0, 1, …
      batch_size: examples that go through each; 0 where that is part of the kind.
    """

    kind: Any
    seeds: int
    batch_size: int = 0

    def __str__(self) -> str:
        return str(self.kind)


def measured(networks: Networks, one: Callable[[Any, jax.Array], dict[str, jax.Array]]) -> Columns:
    """Measure networks of one kind, all by one program.

    Args:
      networks: how many of which kind.
      one: ``one(kind, key)`` draws and measures one network: by column the values at its places.

    Returns:
      A row for each seed and ``position``, the index of the place.
    """

    def every():
        keys = jax.vmap(jax.random.key)(jnp.arange(networks.seeds))
        return jax.lax.map(lambda key: one(networks.kind, key), keys)

    program = jax.jit(every).lower().compile(compiler_options())
    return as_rows(networks.kind, **jax.device_get(program()))


def compiler_options() -> dict[str, Any]:
    """Return what to compile programs with that draw kernels.

    At its highest level LLVM spends most of a minute on random numbers, for nothing.
    """
    if jax.default_backend() != "cpu" or jax.config.read("jax_disable_most_optimizations"):
        return {}
    return {"xla_backend_optimization_level": 2}


def as_rows(cell: Any, **values: np.ndarray) -> Columns:
    """Return the rows of one kind of network, from arrays with a row for each network."""
    seeds, places = next(iter(values.values())).shape
    rows = dataclasses.asdict(cell) | {
        "seed": np.repeat(np.arange(seeds), places),
        "position": np.tile(np.arange(places), seeds),
    }
    rows |= {name: np.asarray(value, np.float64).ravel() for name, value in values.items()}
    return {name: np.broadcast_to(value, (seeds * places,)) for name, value in rows.items()}


def by_cell(
    columns: Columns, kind: type[Cell], *names: str
) -> Iterator[tuple[Cell, tuple[np.ndarray, ...]]]:
    """Yield every kind of network with the named columns, a row for each network: ``as_rows`` back.

    Args:
      columns: the table.
      kind: dataclass whose fields tell the kinds apart.
      names: which columns.
    """
    fields = [field.name for field in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
    axes = [columns[name].tolist() for name in fields]
    for values in dict.fromkeys(zip(*axes, strict=True)):
        pairs = zip(fields, values, strict=True)
        here = np.logical_and.reduce([columns[name] == value for name, value in pairs])
        order = np.lexsort((columns["position"][here], columns["seed"][here]))
        seeds = len(np.unique(columns["seed"][here]))
        found = (columns[name][here][order].reshape(seeds, -1) for name in names)
        yield kind(*values), tuple(found)


def log_squares(net: nnx.Module, x: jax.Array, cotangent: jax.Array) -> jax.Array:
    """Return ln(|g_l|^2 / |g_L|^2) for l = 0 (the input), 1, …, L (behind the last unit).

    Args:
      net: a ``Repeat`` of L units.
      x: the batch; norms use its statistics.
      cotangent: a key, from which the unit Gaussian g_L is drawn.
    """
    profile = gradflow.profile(net, x, cotangent=cotangent, train=True)
    logs = jnp.append(profile["input"].gradient.log_norm, profile["*"].gradient.log_norm)
    return 2 * (logs - logs[-1])
