"""Which known leaf some equations compute: a convolution, a matrix, a norm, an activation, a pool.

What is recognised is what the equations are, never what a module is called.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax._trace import is_of_jax, is_variable, on_numbers
from convjax.nn._activations import ACTIVATIONS
from convjax.nn._reading._segment import Work
from convjax.nn._reading._structure import ELEMENTWISE, PRODUCTS, SHAPES

Layout = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Like:
    """The known leaf that a segment computes.

    Attributes:
      kind: the leaf's class, by its name in ``convjax.nn``; an activation's own name.
      fields: its attributes, as far as they are numbers or words.
      kernel: the variable that is the kernel where it is used, or None.
      order: axes of the kernel, in the order of ``(*window, in, out)``.
      scale: name of the parameter that multiplies each channel, or None.
      bias: name of the parameter that is added to each channel, or None.
      mean: name of the running mean, or None.
      var: name of the running variance, or None.
      value: name of the parameter that each channel is multiplied by, and nothing else, or None.
      mode: of a norm: whether the statistics are ``"batch"`` or ``"running"``.
    """

    kind: str
    fields: tuple[tuple[str, Any], ...] = ()
    kernel: Any = None
    order: Layout = ()
    scale: str | None = None
    bias: str | None = None
    mean: str | None = None
    var: str | None = None
    value: str | None = None
    mode: str = ""

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """The kernel's shape, ``(*window, in, out)``."""
        return tuple(self.kernel.aval.shape[axis] for axis in self.order)

    @property
    def named(self) -> dict[str, str | None]:
        """The parameters and statistics by what they are for."""
        return {field: getattr(self, field) for field in ("scale", "bias", "mean", "var", "value")}

    def leaf(self, kind: type, **fields: Any) -> Any:
        """Return a leaf of a class, with these attributes and those known, and nothing else.

        Args:
          kind: the class.
          **fields: further attributes.
        """
        return _bare(kind)({**dict(self.fields), **fields})


@functools.cache
def _bare(kind: type) -> Any:
    """Return a class whose leaves are made of their attributes alone."""

    def init(self: Any, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            setattr(self, name, value)

    return type(kind.__name__, (kind,), {"__init__": init, "__module__": kind.__module__})


def recognise(work: Work, names: Mapping[Any, str], parameters: frozenset[str]) -> Like | None:
    """Return the known leaf that some equations compute; None if they are none.

    Args:
      work: the equations.
      names: what the segment calls the values that come from outside.
      parameters: those of the names that are learned.
    """
    if len(work.entries) != 1:
        return None
    core = [e for e in work.path if e.primitive.name in PRODUCTS]
    if len(core) == 1:
        return _product(core[0], work, names)
    if core:
        return None
    if (found := _activation(work)) is not None:
        return Like("Activation", (("name", found),))
    if (pool := _pool(work)) is not None:
        return pool
    return _norm(work, names, parameters) or _plain(work, names)


def _product(core: Any, work: Work, names: Mapping[Any, str]) -> Like | None:
    """Recognise a convolution or a matrix, with the bias after it."""
    before, after = _around(core, work)
    lhs, rhs = core.invars[:2]
    if core.primitive.name == "dot_general" and rhs in work.signals:
        lhs, rhs = rhs, lhs
    if rhs in work.signals or lhs not in work.signals:
        return None
    if any(e.primitive.name not in SHAPES for e in before):
        return None
    bias = None
    for equation in after:
        if equation.primitive.name in SHAPES:
            continue
        used = _of_outside(equation, work, names)
        terms = [v for v in equation.invars if not (is_variable(v) and v in work.signals)]
        if equation.primitive.name != "add" or bias is not None or not len(terms) == len(used) == 1:
            return None
        (bias,) = used
    if core.primitive.name == "dot_general":
        return _matrix(core, work, bias)
    return _convolution(core, bias)


def _around(core: Any, work: Work) -> tuple[list[Any], list[Any]]:
    place = work.path.index(core)
    return work.path[:place], work.path[place + 1 :]


def _of_outside(equation: Any, work: Work, names: Mapping[Any, str]) -> list[str]:
    """Return the names of what an equation takes from outside, through changes of shape alone."""
    found = []
    for v in equation.invars:
        while is_variable(v) and v in work.made_aside and _only_moves(work.made_aside[v]):
            v = work.made_aside[v].invars[0]
        if is_variable(v) and v in names:
            found.append(names[v])
    return found


def _only_moves(equation: Any) -> bool:
    return equation.primitive.name in SHAPES


def _matrix(core: Any, work: Work, bias: str | None) -> Like | None:
    contracted, batch = core.params["dimension_numbers"]
    if any(batch) or any(len(axes) != 1 for axes in contracted):
        return None
    x, kernel = core.invars[:2]
    (mine,), (theirs,) = contracted
    if kernel in work.signals:
        x, kernel, mine, theirs = kernel, x, theirs, mine
    if mine != x.aval.ndim - 1 or kernel.aval.ndim != 2:
        return None
    return Like("Dense", (), kernel, (theirs, 1 - theirs), bias=bias)


def _convolution(core: Any, bias: str | None) -> Like | None:
    how = core.params
    numbers = how["dimension_numbers"]
    out, into, *window = numbers.rhs_spec
    kernel = core.invars[1]
    groups = how["feature_group_count"]
    if how["batch_group_count"] != 1:
        return None
    if any(d != 1 for d in how["lhs_dilation"]):
        return _transposed(core, bias, (*window, into, out))
    fields = {
        "strides": tuple(how["window_strides"]),
        "padding": tuple(map(tuple, how["padding"])),
        "kernel_dilation": tuple(how["rhs_dilation"]),
        "feature_group_count": groups,
    }
    depthwise = groups > 1 and kernel.aval.shape[into] == 1
    kind = "DepthwiseConv" if depthwise else "Conv"
    return Like(kind, tuple(fields.items()), kernel, (*window, into, out), bias=bias)


def _transposed(core: Any, bias: str | None, order: Layout) -> Like | None:
    """Recognise a transposed convolution: its input is spread, and then convolved."""
    how, kernel = core.params, core.invars[1].aval.shape
    spread = tuple(how["rhs_dilation"])
    sides = [d * (kernel[axis] - 1) for axis, d in zip(order, spread, strict=False)]
    cropped = tuple(
        (side - low, side - high) for side, (low, high) in zip(sides, how["padding"], strict=True)
    )
    if min(min(pair) for pair in cropped) < 0 or any(s != 1 for s in how["window_strides"]):
        return None
    fields = {
        "strides": tuple(how["lhs_dilation"]),
        "padding": cropped,
        "kernel_dilation": spread,
        "output_padding": 0,
        "feature_group_count": how["feature_group_count"],
    }
    return Like("ConvTranspose", tuple(fields.items()), core.invars[1], order, bias=bias)


GRID = np.concatenate([np.linspace(-9, 9, 181), [-0.05, 0.05, 3.3, -2.2]]).astype(np.float32)


@functools.cache
def _known_values() -> dict[str, np.ndarray]:
    return {name: np.asarray(f(jnp.asarray(GRID))) for name, f in ACTIVATIONS.items()}


def _activation(work: Work) -> str | None:
    """Return the name of the activation that elementwise equations compute."""
    if work.given or any(e.primitive.name not in ELEMENTWISE for e in work.path):
        return None
    if any(e.primitive.name == "stop_gradient" or not is_of_jax(e) for e in work.path):
        return None  # its derivative may be another function's
    shape = work.entries[0].aval.shape
    if any(v.aval.shape != shape for e in work.path for v in e.outvars):
        return None
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
            return name
    return "elementwise"


def _pool(work: Work) -> Like | None:
    """Recognise a pool over windows, or over all places."""
    computing = [e for e in work.path if e.primitive.name not in SHAPES]
    names = [e.primitive.name for e in computing]
    first = computing[0] if computing else None
    if names and all(n in ("div", "mul") for n in names[1:]) and len(names) <= 2 and first:
        kind = {"reduce_window_max": "max", "reduce_window_sum": "avg"}.get(names[0])
        if kind and work.path[0] is first:
            return _window_pool(first, kind)
        shape = first.invars[0].aval.shape
        kind = {"reduce_sum": "avg", "reduce_max": "max"}.get(names[0])
        axes = tuple(first.params.get("axes", ()))
        whole = len(shape) > 2 and axes in (
            tuple(range(1, len(shape) - 1)),
            tuple(range(2, len(shape))),
        )
        if kind and whole and (kind == "max" or len(names) == 2):
            return Like("GlobalPool", (("kind", kind), ("keepdims", False)))
    return None


def _window_pool(equation: Any, kind: str) -> Like | None:
    how = equation.params
    window, strides = tuple(how["window_dimensions"]), tuple(how["window_strides"])
    inner = [i for i, n in enumerate(window) if n > 1 or strides[i] > 1]
    rank = len(window) - 2
    axes = range(1, 1 + rank) if all(0 < i < 1 + rank for i in inner) else range(2, 2 + rank)
    if any(i not in axes for i in inner) or any(d != 1 for d in how["window_dilation"]):
        return None
    fields = {
        "kind": kind,
        "window_shape": tuple(window[i] for i in axes),
        "strides": tuple(strides[i] for i in axes),
        "padding": tuple(tuple(how["padding"][i]) for i in axes),
        "count_include_pad": True,
        "zero_pad": False,
    }
    return Like("Pool", tuple(fields.items()))


def _norm(work: Work, names: Mapping[Any, str], parameters: frozenset[str]) -> Like | None:
    """Recognise a norm: a mean taken out, a root of the variance divided by, then an affine map."""
    every = [*work.path, *work.aside]
    used = {e.primitive.name for e in every}
    if not used & {"rsqrt", "sqrt"} or "exp" in used:
        return None
    plain = ELEMENTWISE | SHAPES | {"reduce_sum"}
    if any(e.primitive.name not in plain for e in every):
        return None
    epsilon = _epsilon(every)
    scale, bias = _affine(work, names, parameters)
    fields: dict[str, Any] = {"epsilon": epsilon, "frozen": False}
    sums = [tuple(e.params["axes"]) for e in work.path if e.primitive.name == "reduce_sum"]
    if not sums:
        mean, var = _running(work, names)
        running = {"mean": mean, "var": var, "mode": "running"}
        return Like("BatchNorm", tuple(fields.items()), scale=scale, bias=bias, **running)
    reduced = next(e for e in work.path if e.primitive.name == "reduce_sum").invars[0].aval
    axes = {axis for found in sums for axis in found}
    if 0 in axes:
        return Like("BatchNorm", tuple(fields.items()), scale=scale, bias=bias, mode="batch")
    shape = work.entries[0].aval.shape
    if axes == {len(shape) - 1} and reduced.shape == shape:
        return Like("LayerNorm", tuple(fields.items()), scale=scale, bias=bias)
    kept = math.prod(n for i, n in enumerate(reduced.shape) if i not in axes)
    fields["num_groups"] = max(1, kept // shape[0])
    return Like("GroupNorm", tuple(fields.items()), scale=scale, bias=bias)


def _epsilon(equations: Sequence[Any]) -> float:
    """Return the number that is added before the root."""
    made = {v: e for e in equations for v in e.outvars}
    for equation in equations:
        if equation.primitive.name in ("rsqrt", "sqrt"):
            v = equation.invars[0]
            while is_variable(v) and v in made and made[v].primitive.name in SHAPES:
                v = made[v].invars[0]
            source = made.get(v)
            for u in source.invars if source is not None else ():
                if not is_variable(u) and np.ndim(u.val) == 0:
                    return float(u.val)
    return 0.0


def _running(work: Work, names: Mapping[Any, str]) -> tuple[str | None, str | None]:
    """Return the names of what is subtracted, and of what is under the root."""
    mean = var = None
    for equation in (*work.aside, *work.path):
        for name in _of_outside(equation, work, names):
            if equation.primitive.name == "sub":
                mean = name
            if equation.primitive.name == "add" and equation in work.aside and var is None:
                var = name
    return mean, var


def _affine(
    work: Work, names: Mapping[Any, str], parameters: frozenset[str]
) -> tuple[str | None, str | None]:
    """Return the names of what multiplies and what is added last."""
    scale = bias = None
    for equation in (*work.aside, *work.path):
        for name in _of_outside(equation, work, names):
            if name in parameters and equation.primitive.name == "mul":
                scale = name
            if name in parameters and equation.primitive.name == "add":
                bias = name
    return scale, bias


def _plain(work: Work, names: Mapping[Any, str]) -> Like | None:
    """Recognise dropout, and what only changes the shape."""
    used = {e.primitive.name for e in work.path}
    if used <= SHAPES:
        before, after = work.entries[0].aval.shape, work.exit.aval.shape
        return Like("Flatten" if len(before) > 2 and len(after) == 2 else "Reshape")
    if len(work.path) == 1 and used == {"mul"}:
        (equation,) = work.path
        found = _of_outside(equation, work, names)
        numbers = [float(v.val) for v in equation.invars if _is_number(equation, v)]
        if found:
            return Like("Scale", value=found[0])
        return Like("Scale", (("value", numbers[0]),)) if numbers else None
    bits = [e.outvars[0].aval.size for e in work.aside if e.primitive.name == "random_bits"]
    kept = [float(v.val) for e in work.path for v in e.invars if _is_number(e, v)]
    if len(bits) == 1 and len(kept) == 1 and used <= {"select_n", "div", "mul"}:
        rate = 1 - (kept[0] if "div" in used else 1 / kept[0])
        each = bits[0] == work.entries[0].aval.shape[0]
        return Like("StochasticDepth" if each else "Dropout", (("rate", rate),))
    return None


def _is_number(equation: Any, v: Any) -> bool:
    """Whether an argument is the number that an equation multiplies or divides by."""
    return equation.primitive.name in ("div", "mul") and not is_variable(v)
