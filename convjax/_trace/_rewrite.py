"""A program with some of its equations replaced, in loops, branches and rules of derivatives too.

What is not replaced stays the very object that it was: scopes, shardings, donation, effects.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core, linear_util

from convjax._trace._program import is_variable, scoped, varying_as

MadeBy = Callable[[Any], Any]
"""Returns the equation of the same program that makes a variable, or None."""
Rule = Callable[[Any, MadeBy], Callable[..., jax.Array] | None]
"""Takes an equation of one result; returns a function of its operands, or None to leave it."""


def evaluate(rule: Rule, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what a function returns, computed by its program after a rule has rewritten it.

    Arrays among the leaves of arguments and results belong to the program; all else is constant.
    Where ``jax.disable_jit`` asks for Python's own steps, the function itself is called.
    """
    if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        return function(*arguments, **options)
    given, tree = jax.tree.flatten((arguments, options))
    where = [i for i, leaf in enumerate(given) if is_array(leaf)]
    constant: list[Any] = []

    def flat(*values: Any) -> list[Any]:
        leaves = list(given)
        for i, value in zip(where, values, strict=True):
            leaves[i] = value
        inner_arguments, inner_options = jax.tree.unflatten(tree, leaves)
        results, out_tree = jax.tree.flatten(function(*inner_arguments, **inner_options))
        arrays = [is_array(leaf) for leaf in results]
        others = [None if known else leaf for leaf, known in zip(results, arrays, strict=True)]
        constant[:] = [out_tree, arrays, others]
        return [leaf for leaf, known in zip(results, arrays, strict=True) if known]

    program = rewrite(jax.make_jaxpr(flat)(*(given[i] for i in where)), rule)
    computed = iter(core.jaxpr_as_fun(program)(*(given[i] for i in where)))
    out_tree, arrays, others = constant
    pairs = zip(others, arrays, strict=True)
    return jax.tree.unflatten(out_tree, [next(computed) if known else v for v, known in pairs])


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array, of NumPy or JAX, or a reference to one, and no constant."""
    if isinstance(leaf, np.ndarray):
        return leaf.dtype.kind not in "OSUMmV" and not isinstance(leaf, np.ma.MaskedArray)
    return isinstance(leaf, jax.Array | jax.Ref)


def rewrite(program: Any, rule: Rule) -> Any:
    """Return a closed program in which each equation that the rule knows is computed otherwise."""
    return _Rewriting(rule).program(program)


class _Rewriting:
    """One pass over a program; what several equations share is rewritten once, and still shared."""

    def __init__(self, rule: Rule):
        self.rule = rule
        self.seen: dict[int, tuple[Any, Any]] = {}

    def program(self, program: Any) -> Any:
        """Return a program, open or closed, rewritten; itself where no equation is replaced."""
        if id(program) not in self.seen:
            inner = getattr(program, "jaxpr", program)
            made = {v: e for e in inner.eqns for v in e.outvars}
            equations = []
            for equation in inner.eqns:
                equations += self.equation(equation, made.get)
            same = len(equations) == len(inner.eqns) and all(map(_is, equations, inner.eqns))
            result = program if same else _with_equations(program, equations)
            self.seen[id(program)] = program, result  # kept, so that its number stays its own
        return self.seen[id(program)][1]

    def equation(self, equation: Any, made_by: MadeBy) -> list[Any]:
        """Return what stands in place of an equation, as often as not itself."""
        if len(equation.outvars) == 1 and (compute := self.rule(equation, made_by)) is not None:
            return _spliced(equation, compute) or [equation]
        parameters = {name: self.value(value) for name, value in equation.params.items()}
        if all(parameters[name] is value for name, value in equation.params.items()):
            return [equation]
        if equation.primitive.name.startswith("custom_"):
            self.rules(parameters)
        return [equation.replace(params=parameters)]

    def value(self, value: Any) -> Any:
        """Return a parameter with the programs in it rewritten."""
        if isinstance(value, tuple | list):
            parts = [self.value(part) for part in value]
            if all(map(_is, parts, value)):
                return value
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        return self.program(value) if isinstance(value, core.Jaxpr | core.ClosedJaxpr) else value

    def rules(self, parameters: dict[str, Any]) -> None:
        """Rewrite the rules of derivatives, which are programs only when they are asked for."""
        for name in ("jvp_jaxpr_fun", "fwd_jaxpr_thunk"):
            if (rule := parameters.get(name)) is not None:
                parameters[name] = _wrapped(rule, self._first_rewritten(rule))
        if (rule := parameters.get("bwd")) is not None:
            run = rule.call_wrapped
            backward = lambda *values: evaluate(self.rule, run, *values)  # noqa: E731
            parameters["bwd"] = _wrapped(rule, backward)

    def _first_rewritten(self, rule: Any) -> Callable[..., Any]:
        def derived(*known: Any) -> Any:
            program, *others = rule.call_wrapped(*known)
            return self.program(program), *others

        return derived


def _wrapped(rule: Any, function: Callable[..., Any]) -> Any:
    return linear_util.wrap_init(function, debug_info=rule.debug_info)


def _is(a: Any, b: Any) -> bool:
    return a is b


def _with_equations(program: Any, equations: list[Any]) -> Any:
    inner = getattr(program, "jaxpr", program)
    replaced = inner.replace(eqns=equations)
    # A program with its constants was one of two objects until JAX 0.11, and is one since.
    return replaced if inner is program else program.replace(jaxpr=replaced)


def _spliced(equation: Any, compute: Callable[..., jax.Array]) -> list[Any]:
    """Return the equations of a function of the operands that give an equation's result."""
    with scoped(equation), equation.ctx.manager, varying_as(equation):
        traced = jax.make_jaxpr(compute)(*(v.aval for v in equation.invars))
    inner, (result,), (wanted,) = traced.jaxpr, traced.jaxpr.outvars, equation.outvars
    made = {v for e in inner.eqns for v in e.outvars}
    types = (result.aval, wanted.aval)
    alike = len({(aval.shape, aval.dtype, aval.weak_type) for aval in types}) == 1
    if traced.consts or not is_variable(result) or result not in made or not alike:
        return []
    outer = dict(zip(inner.invars, equation.invars, strict=True)) | {result: wanted}
    named = lambda v: outer.get(v, v) if is_variable(v) else v  # noqa: E731
    return [
        e.replace(invars=[named(v) for v in e.invars], outvars=[named(v) for v in e.outvars])
        for e in inner.eqns
    ]


def jit_options(function: Any) -> tuple[Any, dict[str, Any]] | None:
    """Return a jitted function, and what it is jitted by outside it; None if it is not jitted.

    Static and donated arguments are told in both places. Options of the compiler are known outside
    alone: JAX refuses a jitted function that has them inside another one.
    """
    told = getattr(function, "_jit_info", None)
    if told is None:
        return None
    names = ("static_argnums", "static_argnames", "donate_argnums", "donate_argnames")
    options = {name: getattr(told, name) for name in (*names, "keep_unused", "inline")}
    if told.compiler_options_kvs:
        spread = {
            name: jax.tree.unflatten(getattr(told, f"{name}_treedef"), leaves)
            for name in ("in_shardings", "out_shardings")
            if (leaves := getattr(told, f"{name}_leaves"))
        }
        function = jax.jit(function.__wrapped__, **spread, **options)
        options["compiler_options"] = dict(told.compiler_options_kvs)
    return function, options
