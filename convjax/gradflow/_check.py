"""What the arguments of measurements may be: refused here, once, for all of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from convjax import _check, _foreign, nn


def network(net: Any) -> nnx.Module:
    """Return a module that can be called."""
    expected = "a network: a node of convjax.nn, or any nnx.Module called as net(x, train, rngs)"
    _foreign.module("net", net, expected)
    return _check.function("net", net, expected)  # pyright: ignore[reportReturnType]


def held(net: nnx.Module, *states: Any) -> None:
    """Refuse a network whose arrays are shapes alone, or were handed over and are gone."""
    if not any(map(_is_absent, jax.tree.leaves(states))):
        return
    name, leaf = next(
        (f"{nn.label_of(path, node) or path}/{part[-1]}", value.get_value())
        for path, node, _ in nn.walk(net)
        if not any(True for _ in nn.children(node))
        for part, value in nnx.iter_graph(node)
        if isinstance(value, nnx.Variable) and _is_absent(value.get_value())
    )
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise ValueError(
            f"net: {name!r} is a shape without values, as nnx.eval_shape makes it; build the "
            "network itself (convjax.cost and gradflow.predict take it as it is)"
        )
    raise ValueError(
        f"net: the array {name!r} was deleted, as jax.jit does with what donate_argnums names; "
        "measure before the step, or with what the step returned"
    )


def _is_absent(leaf: Any) -> bool:
    gone = isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and leaf.is_deleted()
    return gone or isinstance(leaf, jax.ShapeDtypeStruct)


def streams(rngs: Any) -> nnx.Rngs | None:
    """Return the source of random numbers, or None."""
    expected = "None or an nnx.Rngs, such as nnx.Rngs(dropout=0)"
    return None if rngs is None else _check.instance("rngs", rngs, nnx.Rngs, expected)


def batch(x: Any) -> jax.Array:
    """Return a floating batch, none of its axes empty."""
    x = _check.array("x", x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise _check.WrongTypeError(f"x has dtype {x.dtype}; gradients need a floating one")
    if x.ndim < 2 or x.size == 0:
        raise ValueError(
            f"x has shape {x.shape}; it must be (N, *spatial, C) with no axis of size 0"
        )
    return x


def start(loss: Any, targets: Any, cotangent: Any) -> Any:
    """Return the cotangent, checked; None where a loss is given, as exactly one of the two is."""
    if (loss is None) == (cotangent is None):
        given = "both were" if loss is not None else "neither was"
        raise ValueError(f"give loss or cotangent, one of the two; {given} given")
    if loss is not None:
        objective(loss)
        arrays("targets", targets)
        return None
    if targets is not None:
        raise ValueError("targets are the second argument of a loss, and cotangent was given")
    return array_or_key(cotangent)


def objective(loss: Any) -> None:
    """Refuse a loss that cannot be called."""
    _check.function("loss", loss, "a function of the output, or of output and targets")


def arrays(name: str, tree: Any) -> None:
    """Refuse a pytree with leaves that are no arrays and no numbers."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        kinds = (np.ndarray, np.generic, jax.Array, int, float, complex)
        where = f"{name}{jax.tree_util.keystr(path)}"
        _check.instance(where, leaf, kinds, "an array")


def array_or_key(cotangent: Any) -> jax.Array:
    """Return a cotangent: an array of the output's shape, or a key from which it is drawn."""
    expected = "an array of the output's shape, or a PRNG key such as jax.random.key(0)"
    if not isinstance(cotangent, np.ndarray | jax.Array):
        _check.wrong_type("cotangent", cotangent, expected)
    if is_key(cotangent):
        return _check.key("cotangent", cotangent)
    cotangent = _check.array("cotangent", cotangent)
    if not jnp.issubdtype(cotangent.dtype, jnp.floating):
        _check.wrong_type("cotangent", cotangent, f"of real floating numbers: {expected}")
    return cotangent


def numbers(name: str, values: Any) -> np.ndarray:
    """Return real numbers as an array in float64: from an array, a list or a single number."""
    try:
        found = np.asarray(values)
        real = found.dtype.kind in "iuf" or jnp.issubdtype(found.dtype, jnp.floating)
    except (ValueError, TypeError, jax.errors.TracerArrayConversionError):
        real = False
    if not real:
        _check.wrong_type(name, values, "a number, or a sequence or an array of numbers")
    return found.astype(np.float64)


def is_key(cotangent: Any) -> bool:
    """Whether this is a typed PRNG key."""
    return jnp.issubdtype(cotangent.dtype, jax.dtypes.prng_key)
