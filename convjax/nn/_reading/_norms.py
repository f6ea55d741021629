"""Which norm some equations compute: a mean taken out, a root mean square divided by, a map."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convjax._trace import is_variable
from convjax.nn._reading._like import Like, of_outside
from convjax.nn._reading._segment import Work
from convjax.nn._reading._structure import ELEMENTWISE, SHAPES, SUMS_OVER


def norm(
    work: Work, names: Mapping[Any, str], parameters: frozenset[str], *, first: bool
) -> Like | None:
    """Recognise a norm: a mean taken out, a root of the variance divided by, then an affine map.

    Args:
      work: the equations.
      names: what the segment calls the values that come from outside.
      parameters: those of the names that are learned.
      first: whether images have their channels behind the batch.
    """
    every = [*work.path, *work.aside]
    used = {e.primitive.name for e in every}
    if not used & {"rsqrt", "sqrt"} or used - (ELEMENTWISE | SHAPES | SUMS_OVER):
        return None
    if used & {"exp", "log", "custom_jvp_call", "custom_vjp_call", "stop_gradient"}:
        return None
    scale, bias = _affine(work, names, parameters)
    fields: dict[str, Any] = {"epsilon": _epsilon(every), "frozen": False}
    sums = [e for e in work.path if e.primitive.name in SUMS_OVER]
    if not sums:
        statistics = _statistics(work)
        if statistics is None:
            return None
        mean, var = _running(work, names)
        running = {"mean": mean, "var": var, "mode": "running", "statistics": statistics}
        return Like("BatchNorm", tuple(fields.items()), scale=scale, bias=bias, **running)
    if not all(_is_mean(e, work) for e in sums):
        return None
    centred = _is_centred(work)
    shape = work.entries[0].aval.shape
    reduced = sums[0].invars[0].aval.shape
    axes = {axis for e in sums for axis in e.params["axes"]}
    channel = 1 if first and len(shape) > 2 else len(shape) - 1
    kind = ""
    if 0 in axes:
        kind = "BatchNorm" if centred else ""
    elif axes == {channel} and reduced == shape:
        kind = "LayerNorm" if centred else "RMSNorm"
    elif centred:
        kept = math.prod(n for i, n in enumerate(reduced) if i not in axes) // shape[0]
        places = {i for i in range(1, len(shape)) if i != channel}
        whole = reduced != shape or places <= axes
        if whole and kept and shape[channel] % kept == 0:
            kind, fields["num_groups"] = "GroupNorm", kept
    mode = "batch" if kind == "BatchNorm" else ""
    return Like(kind, tuple(fields.items()), scale=scale, bias=bias, mode=mode) if kind else None


def _is_mean(reduction: Any, work: Work) -> bool:
    """Whether a sum is divided by how many terms it has, next or after further sums."""
    terms = reduction.invars[0].aval.size // max(1, reduction.outvars[0].aval.size)
    waiting = [reduction.outvars[0]]
    while waiting:
        v = waiting.pop()
        for e in work.path:
            if not any(u is v for u in e.invars):
                continue
            name = e.primitive.name
            if name in SHAPES:
                waiting += e.outvars
            elif name in SUMS_OVER:
                terms *= e.invars[0].aval.size // max(1, e.outvars[0].aval.size)
                waiting += e.outvars
            elif name in ("div", "mul"):
                by = [work.number(u) for u in e.invars if u is not v]
                if by and by[0] and np.isclose(by[0], terms if name == "div" else 1 / terms):
                    return True
    return False


def _is_centred(work: Work) -> bool:
    """Whether a mean is taken out of the entries themselves."""
    statistics: set[Any] = set()
    for e in work.path:
        signals = [v for v in e.invars if is_variable(v) and v in work.signals]
        of_statistics = [v in statistics for v in signals]
        if e.primitive.name in SUMS_OVER or all(of_statistics):
            statistics |= set(e.outvars)
        elif e.primitive.name == "sub" and any(of_statistics):
            return True
    return False


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
        for name in of_outside(equation, work, names):
            if equation.primitive.name == "sub":
                mean = name
            if equation.primitive.name == "add" and equation in work.aside and var is None:
                var = name
    return mean, var


def _statistics(work: Work) -> tuple[Any, Any] | None:
    """Return the variables that are subtracted, and that are under the root, off the path."""
    roots = [e for e in work.aside if e.primitive.name in ("rsqrt", "sqrt")]
    taken = [e.invars[1] for e in work.path if e.primitive.name == "sub"]
    taken = [v for v in taken if is_variable(v) and v not in work.signals]
    if len(roots) != 1 or len(taken) != 1:
        return None
    under = roots[0].invars[0]
    while is_variable(under) and under in work.made_aside:
        source = work.made_aside[under]
        if source.primitive.name not in SHAPES:
            break
        under = source.invars[0]
    if under not in work.made_aside or work.made_aside[under].primitive.name != "add":
        return None
    terms = [v for v in work.made_aside[under].invars if work.number(v) is None]
    return (taken[0], terms[0]) if len(terms) == 1 else None


def _affine(
    work: Work, names: Mapping[Any, str], parameters: frozenset[str]
) -> tuple[str | None, str | None]:
    """Return the names of what multiplies and what is added last."""
    scale = bias = None
    for equation in (*work.aside, *work.path):
        for name in of_outside(equation, work, names):
            if name in parameters and equation.primitive.name == "mul":
                scale = name
            if name in parameters and equation.primitive.name == "add":
                bias = name
    return scale, bias
