"""The program that JAX traces of a function: flat, with each equation's scope, and evaluated."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax._src import checkify, source_info_util
from jax._src import config as jax_config
from jax._src import core as jax_core
from jax.extend import core


def words(text: str) -> frozenset[str]:
    """Return the words of a text, such as names of primitives."""
    return frozenset(text.split())


ACTIVATIONS = words(
    "relu relu6 gelu silu swish elu leaky_relu softplus hard_swish hard_silu selu celu mish "
    "log_sigmoid squareplus soft_sign hard_sigmoid hard_tanh sparse_plus sparse_sigmoid "
    "glu softmax log_softmax logsumexp standardize"
)
"""Functions of ``jax.nn`` that stay whole where a program calls them by name."""

_CALLS = words("jit pjit closed_call core_call remat remat2 checkpoint")


PLAIN: dict[str, Callable[..., Any]] = {}
"""By the name of a primitive that is not JAX's, a function of JAX that computes the same."""

WRITTEN_OUT: set[str] = set()
"""Names of functions with a derivative of their own that are read as if it were not."""


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Equations in order, and the variables that they begin and end with.

    Attributes:
      equations: none calls another program, but loops, branches and custom rules of derivatives.
      inputs: a variable for each leaf of the function's arguments.
      outputs: variables or literals, for each leaf of the result.
      constants: values of the variables that no argument stands for.
    """

    equations: tuple[Any, ...]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    constants: dict[Any, Any]


def trace(function: Callable[..., Any], *arguments: Any) -> Program:
    """Return the program of a function, with what it calls written out.

    Args:
      function: of arrays or pytrees of them.
      *arguments: arrays, or what has their shape and dtype.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    flat = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars]
    written = jax.make_jaxpr(lambda *values: _written_out(closed, closed.consts, values))(*flat)
    return _program(written)


def body(equation: Any) -> Program:
    """Return the program that a loop repeats, with what it calls written out."""
    inner = equation.params["jaxpr"]
    flat = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in inner.jaxpr.invars]
    return _program(
        jax.make_jaxpr(lambda *values: _written_out(inner, inner.consts, values))(*flat)
    )


def _program(closed: Any) -> Program:
    jaxpr = closed.jaxpr
    constants = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    return Program(tuple(jaxpr.eqns), tuple(jaxpr.invars), tuple(jaxpr.outvars), constants)


def _written_out(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Evaluate a program, with what it calls in place of the call."""
    jaxpr = jaxpr.jaxpr if hasattr(jaxpr, "jaxpr") else jaxpr
    values = dict(zip(jaxpr.constvars, constants, strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))
    for equation in jaxpr.eqns:
        given = [v.val if not is_variable(v) else values[v] for v in equation.invars]
        with scoped(equation):
            if _is_call(equation):
                inner = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
                results = _written_out(inner, getattr(inner, "consts", ()), given)
            elif equation.primitive.name in PLAIN:
                results = [PLAIN[equation.primitive.name](*given, **equation.params)]
            else:
                results = bind(equation, given)
        values.update(zip(equation.outvars, results, strict=True))
    return [v.val if not is_variable(v) else values[v] for v in jaxpr.outvars]


def _is_call(equation: Any) -> bool:
    if equation.primitive.name == "custom_jvp_call":
        return name_of(equation) in WRITTEN_OUT
    if equation.primitive.name not in _CALLS:
        return False
    arrays = [v for v in equation.invars if is_variable(v)]
    return name_of(equation) not in ACTIVATIONS or len(arrays) != 1


def scoped(equation: Any) -> Any:
    """Return the context in which what is bound has the scopes of an equation, and outer ones."""
    stack = source_info_util.current_name_stack() + equation.source_info.name_stack
    return source_info_util.user_context(equation.source_info.traceback, name_stack=stack)


@contextlib.contextmanager
def varying_as(equation: Any) -> Iterator[None]:
    """Trace what varies along the axes of a ``shard_map`` as an equation's operands do."""
    varying = frozenset[str]().union(*(v.aval.manual_axis_type.varying for v in equation.invars))
    sizes = equation.ctx.cur_abstract_mesh.shape if varying else {}
    axes = [(name, sizes[name]) for name in sorted(varying)]
    with jax_core.extend_axis_env_nd(axes), jax_config._check_vma(bool(varying)):
        yield


def tell_nan(primitive: core.Primitive) -> None:
    """Let `jax.experimental.checkify` find NaN in what a primitive gives, as in what JAX's give."""
    checkify.error_checks[primitive] = functools.partial(checkify.nan_error_check, primitive)


def bind(equation: Any, values: Sequence[Any]) -> list[Any]:
    """Return the results of one equation on other values."""
    # A pair of functions and parameters until JAX 0.10, the parameters alone since.
    found = equation.primitive.get_bind_params(equation.params)
    functions, parameters = found if isinstance(found, tuple) else ((), found)
    results = equation.primitive.bind(*functions, *values, **parameters)
    return list(results) if equation.primitive.multiple_results else [results]


def from_zeros(program: Program, output: Any) -> int:
    """Return a whole number that a program makes of zeros, and of no other input."""
    if not is_variable(output):
        return int(output.val)
    values: dict[Any, Any] = {v: 0 for v in program.inputs if v.aval.shape == ()}
    wanted, needed = {output}, []
    for equation in reversed(program.equations):
        if wanted & set(equation.outvars):
            needed.append(equation)
            wanted |= {v for v in equation.invars if is_variable(v)}
    for equation in reversed(needed):
        given = [values[v] if is_variable(v) else v.val for v in equation.invars]
        given = [jnp.asarray(g, v.aval.dtype) for g, v in zip(given, equation.invars, strict=True)]
        values.update(zip(equation.outvars, bind(equation, given), strict=True))
    return int(values[output])


def name_of(equation: Any) -> str:
    """Return the name of the function that an equation calls, or of its primitive."""
    if equation.primitive.name.startswith("custom_"):
        for inner in subprograms(equation):
            return str(inner.debug_info.func_name)
    called = equation.params.get("name", "")
    return called if called and isinstance(called, str) else equation.primitive.name


def scopes(equation: Any) -> tuple[str, ...]:
    """Return the names of the scopes that an equation stands in, transformations left out."""
    stack = getattr(equation.source_info.name_stack, "stack", ())
    return tuple(entry.name for entry in stack if isinstance(entry, source_info_util.Scope))


def axes() -> tuple[tuple[Any, int], ...]:
    """Return the names and lengths of the mapped axes around what is traced now."""
    return tuple(jax_core.get_axis_env().axis_sizes.items())


def is_variable(v: Any) -> bool:
    """Whether an equation's argument is a variable, and no literal."""
    return not isinstance(v, core.Literal)


def carried(parameters: dict[str, Any]) -> tuple[int, int]:
    """Return how many constants, and how many carried values, a scan has."""
    if "num_consts" in parameters:
        return parameters["num_consts"], parameters["num_carry"]
    constants, carry, _ = parameters["ft_in"].unpack()
    return len(list(constants)), len(list(carry))


def is_of_jax(equation: Any) -> bool:
    """Whether no rule of derivatives but JAX's own stands in an equation."""
    if not equation.primitive.name.startswith("custom_"):
        return all(is_of_jax(e) for program in subprograms(equation) for e in program.eqns)
    return all("/jax/_src/" in source.replace("\\", "/") for source in sources(equation))


def sources(equation: Any) -> tuple[str, ...]:
    """Return where the functions stand that an equation calls."""
    found = [getattr(p.debug_info, "func_src_info", "") for p in subprograms(equation)]
    return tuple(map(str, found))


def subprograms(equation: Any) -> list[Any]:
    """Return the programs that an equation's parameters hold."""
    found = []
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns") and hasattr(inner, "invars"):
                found.append(inner)
    return found


def on_numbers(equations: Sequence[Any], values: dict[Any, Any], exit: Any) -> Any:
    """Return what elementwise equations make of numbers in place of arrays, shapes left aside.

    Args:
      equations: elementwise, or such that only change the shape of single numbers.
      values: numbers, of one shape, by the variables that the equations begin with.
      exit: the variable that they end in.
    """
    (shape,) = {jnp.shape(value) for value in values.values()}

    def of(v: Any) -> Any:
        return jnp.broadcast_to(values[v] if is_variable(v) else jnp.asarray(v.val), shape)

    for equation in equations:
        given = [of(v) for v in equation.invars]
        inner = subprograms(equation)
        if inner:
            inside = dict(zip(inner[0].invars, given, strict=True))
            results = [on_numbers(inner[0].eqns, dict(inside), v) for v in inner[0].outvars]
        elif equation.primitive.name in ("broadcast_in_dim", "reshape", "squeeze", "expand_dims"):
            results = given[:1]
        else:
            results = bind(equation, given)
        values.update(zip(equation.outvars, results, strict=True))
    return of(exit)
