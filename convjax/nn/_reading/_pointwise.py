"""Which function of single entries some equations compute, or of the channels of one place."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax._trace import is_of_jax, name_of, on_numbers
from convjax.nn._activations import ACTIVATIONS
from convjax.nn._reading._like import Like
from convjax.nn._reading._segment import Work
from convjax.nn._reading._structure import ELEMENTWISE, SHAPES, same_places

GRID = np.concatenate([np.linspace(-9, 9, 181), [-0.05, 0.05, 3.3, -2.2]]).astype(np.float32)

MORE = ("hard_tanh", "log_sigmoid", "soft_sign", "squareplus", "sparse_plus", "sparse_sigmoid")
"""Functions of ``jax.nn`` that are no activations of ``convjax.nn``."""


@functools.cache
def _known_values() -> dict[str, np.ndarray]:
    known = {**ACTIVATIONS, **{name: getattr(jax.nn, name) for name in MORE}}
    return {name: np.asarray(f(jnp.asarray(GRID))) for name, f in known.items()}


def pointwise(work: Work) -> Like | None:
    """Recognise an activation by its values, the product with a number, or a softmax."""
    if work.given or any(e.primitive.name == "stop_gradient" for e in work.path):
        return _softmax(work)
    if any(e.primitive.name not in ELEMENTWISE for e in work.path):
        return _softmax(work)
    if not all(map(is_of_jax, work.path)):
        return None  # its derivative may be another function's
    if not all(map(same_places, work.path)):
        return _called(work)
    shape = work.entries[0].aval.shape
    if any(v.aval.shape != shape for e in work.path for v in e.outvars):
        return _called(work)
    dtype = work.entries[0].aval.dtype
    with jax.ensure_compile_time_eval():
        start = {work.entries[0]: jnp.asarray(GRID).astype(dtype)}
        try:
            found = on_numbers(work.equations, start, work.exit)
        except (KeyError, TypeError, ValueError):
            return None
        values = np.asarray(found, np.float32)
    rough = 1e-6 if dtype in (jnp.float32, jnp.float64) else 2e-2
    for name, known in _known_values().items():
        if np.allclose(values, known, rtol=rough, atol=rough):
            return Like("Activation", (("name", name),))
    factor = float(values[180] / GRID[180])
    if np.allclose(values, factor * GRID, rtol=rough, atol=rough * abs(factor)):
        return Like("Scale", (("value", factor),))
    return Like("Activation", (("name", _name(work)),))


def _name(work: Work) -> str:
    """Return the name of a function that is no known one, as it is called."""
    name = name_of(work.path[0])
    if len(work.path) > 1 or name == work.path[0].primitive.name:
        return "elementwise"
    return f"{name} (own)" if name in ACTIVATIONS else name


def _called(work: Work) -> Like | None:
    """Return what is called by one name, such as ``glu``."""
    name = name_of(work.path[0])
    alone = len(work.path) == 1 and name != work.path[0].primitive.name
    return Like(name) if alone else None


def _softmax(work: Work) -> Like | None:
    """Recognise a softmax over one axis."""
    used = [e.primitive.name for e in work.path if e.primitive.name not in SHAPES]
    core = [name for name in used if name not in ("stop_gradient", "max")]
    if work.given or work.entries[0].aval.shape != work.exit.aval.shape:
        return None
    kinds = {
        ("reduce_max", "sub", "exp", "reduce_sum", "div"): "softmax",
        ("reduce_max", "sub", "exp", "reduce_sum", "log", "sub"): "log_softmax",
    }
    kind = kinds.get(tuple(core))
    return None if kind is None or not _whole(work) else Like(kind)


def _whole(work: Work) -> bool:
    """Whether all that is reduced is reduced over the same axes, and is the input's size."""
    reductions = [e for e in work.path if e.primitive.name.startswith("reduce_")]
    reductions = [e for e in reductions if e.primitive.name in ("reduce_max", "reduce_sum")]
    axes: set[Any] = {tuple(e.params["axes"]) for e in reductions}
    return len(axes) == 1 and {e.invars[0].aval.shape for e in reductions} == {
        work.entries[0].aval.shape
    }
