"""Whether a module's program joins values that both come from its input, as a residual's sum does.

It is read from the program that JAX traces. A function of JAX with one such argument (softplus,
roll, a variance) counts as one operation, and so does the subtraction of a mean.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from convjax import nn
from convjax._trace import carried, is_variable, subprograms

_SUMS = ("add", "add_any", "sub", "scatter-add", "scatter_add")
_SAME = ("slice", "reshape", "squeeze", "expand_dims", "rev", "transpose", "convert_element_type")
_ATOMIC = ("scatter", "reduce", "select_and", "arg", "sort")
_MIXES = ("dot", "conv", "cum", "sort", "gather", "scatter", "rev", "transpose", "fft", "solve")


def joins(run: Callable[[jax.Array], Any], x: Any) -> str:
    """Return what a function of one array does with two values that depend on it; or ""."""
    closed: Any = jax.make_jaxpr(run)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    reading = _Reading([])
    reading.outputs(closed.jaxpr, [True])
    return reading.found[0] if reading.found else ""


def elementwise(run: Callable[[jax.Array], Any], x: Any) -> bool:
    """Whether no entry of the output depends on another entry's place, as far as can be told."""
    closed: Any = jax.make_jaxpr(run)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    return all(_keeps_places(eqn, x.shape) for eqn in _equations(closed.jaxpr))


def own_module(node: Any) -> bool:
    """Whether somebody else wrote what a node computes."""
    if isinstance(node, nn.Activation):
        return nn.ACTIVATIONS.get(node.name) is not node.function
    return not type(node).__module__.startswith("convjax.")


@dataclasses.dataclass
class _Reading:
    """One walk over a program: ``found`` says what it joins."""

    found: list[str]

    def outputs(self, jaxpr: Any, given: Sequence[bool]) -> list[bool]:
        """Return which outputs depend on the given inputs."""
        depends = {v for v, flag in zip(jaxpr.invars, given, strict=True) if flag}
        narrow: set[Any] = set()
        root: dict[Any, Any] = {}
        for eqn in jaxpr.eqns:
            own = [v for v in eqn.invars if is_variable(v) and v in depends]
            if not own:
                continue
            flags = [is_variable(v) and v in depends for v in eqn.invars]
            outputs = self._inside(eqn, flags) if _subs(eqn) else [True] * len(eqn.outvars)
            if not _subs(eqn):
                self._join(eqn.primitive.name, own, narrow, root)
            depends |= {v for v, flag in zip(eqn.outvars, outputs, strict=True) if flag}
            if eqn.primitive.name in _SAME and len(own) == 1:
                root[eqn.outvars[0]] = root.get(own[0], own[0])
            if all(v in narrow for v in own) or eqn.primitive.name.startswith("reduce_"):
                narrow |= set(eqn.outvars)
        return [is_variable(v) and v in depends for v in jaxpr.outvars]

    def _join(self, name: str, own: list[Any], narrow: set[Any], root: dict[Any, Any]) -> None:
        if len(own) < 2:
            return
        if name in _SUMS and not (name == "sub" and any(v in narrow for v in own)):
            self.found.append("adds")
        if name in ("concatenate", "stack") and len({root.get(v, v) for v in own}) > 1:
            self.found.append("concatenates")

    def _inside(self, eqn: Any, flags: list[bool]) -> list[bool]:
        """Read what an equation calls; a loop until what depends no longer grows."""
        if sum(flags) == 1 and _of_jax(eqn):
            return [True] * len(eqn.outvars)
        subs = _subs(eqn)
        if eqn.primitive.name == "scan":
            return self._loop(subs[0], flags, *carried(eqn.params))
        if eqn.primitive.name == "while":
            skip = eqn.params["cond_nconsts"]
            count = len(flags) - skip - eqn.params["body_nconsts"]
            body = eqn.params["body_jaxpr"].jaxpr
            return self._loop(body, flags[skip:], eqn.params["body_nconsts"], count)
        for sub in subs:
            few = len(sub.invars) <= len(flags)
            self.outputs(
                sub, flags[len(flags) - len(sub.invars) :] if few else [True] * len(sub.invars)
            )
        return [True] * len(eqn.outvars)

    def _loop(self, body: Any, flags: list[bool], consts: int, count: int) -> list[bool]:
        """Read a loop's body until what is carried depends on nothing more."""
        end = consts + count
        while True:
            found = self.outputs(body, flags)
            after = [a or b for a, b in zip(flags[consts:end], found, strict=False)]
            if after == flags[consts:end]:
                return found
            flags = [*flags[:consts], *after, *flags[end:]]


def _subs(eqn: Any) -> list[Any]:
    """Return the programs that an equation calls, but those that only combine two numbers."""
    return [] if eqn.primitive.name.startswith(_ATOMIC) else subprograms(eqn)


def _of_jax(eqn: Any) -> bool:
    """Whether JAX itself wrote the function that an equation calls."""
    sources = [str(getattr(sub.debug_info, "func_src_info", "")) for sub in _subs(eqn)]
    return all("/jax/_src/" in source.replace("\\", "/") for source in sources)


def _equations(jaxpr: Any) -> list[Any]:
    found = []
    for eqn in jaxpr.eqns:
        subs = _subs(eqn)
        found += [e for sub in subs for e in _equations(sub)] if subs else [eqn]
    return found


def _keeps_places(eqn: Any, shape: tuple[int, ...]) -> bool:
    shapes = {getattr(v.aval, "shape", ()) for v in (*eqn.invars, *eqn.outvars)}
    name = eqn.primitive.name
    one = all(part == shape or all(n == 1 for n in part) for part in shapes)
    return one and not any(name.startswith(mix) or f"_{mix}" in name for mix in _MIXES)
