"""Whether a signal is finite on its way forward: slopes of NaN look perfect."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from convjax import nn
from convjax._rules import registered
from convjax.gradflow._homogeneous import homogeneous
from convjax.gradflow._norm import at_least_float32, measure
from convjax.gradflow._run import Forward, Scope, token_paths, visit
from convjax.gradflow._table import check_finite
from convjax.gradflow._tap import TOKEN, Signal
from convjax.gradflow._unit import Unit


def check_forward(
    net: nnx.Module, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None, plain: bool
) -> None:
    """Raise a ValueError that names the first unit whose output holds a NaN or an infinity.

    The derivative of a rectifier at NaN is 0, so that what is lost forward shows in no gradient.

    Args:
      net: the network.
      x: the batch.
      train: whether norms use the batch's statistics and dropout drops.
      rngs: source of random numbers; it is not advanced.
      plain: whether the measurement runs the network as it is, and not renormalised.
    """
    graphdef, state = nnx.split(net)
    streams = None if rngs is None else nnx.split(rngs)
    rules = registered(homogeneous)
    how = {"graphdef": graphdef, "train": train, "plain": plain, "rules": rules}
    found = jax.device_get(_outputs(state, x, streams, **how))
    # In the order of the forward pass, which a dictionary loses on its way out of jit.
    order = ["input", *(path for path, _, _ in nn.walk(net) if path in found)]
    units = [Unit("", found[path], found[path], {}, {}) for path in order]
    check_finite(order, units)


def is_lost(x: jax.Array, output: jax.Array) -> jax.Array:
    """Tell, where JAX traces, whether a signal is not finite, or became NaN on its way forward.

    An output beyond the dtype's range is none: where a network is homogeneous it was renormalised.
    """
    return ~jnp.isfinite(x).all() | jnp.isnan(output).any()


@partial(jax.jit, static_argnames=("graphdef", "train", "plain", "rules"))
def _outputs(state, x, streams, *, graphdef, train, plain, rules) -> Any:
    net = nnx.merge(graphdef, state, copy=True)
    rngs = None if streams is None else nnx.merge(*streams, copy=True)
    wide, places = at_least_float32(x.dtype), token_paths(net)
    tokens = {path: jnp.zeros((*axes, *TOKEN), wide) for path, axes in places.items()}
    records: dict[str, Any] = {}
    # What stands beside another path is measured at its true size.
    scope = Scope(train, True, rngs, tokens, records, {}, {}, anchor="" if plain else None)
    zero = jnp.zeros((), wide)
    visit(net, Signal(x, zero), scope)
    return {"input": measure(x, zero, careful=True)} | {
        path: record.activation for path, record in records.items() if isinstance(record, Forward)
    }
