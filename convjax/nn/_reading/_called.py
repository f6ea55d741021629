"""How a network is called: as a pure function of what it holds and its input."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax.nn._applied import MODES, applied, moved, parameters_of
from convjax.nn._reading._owner import MODULE


@dataclasses.dataclass(frozen=True)
class Called:
    """A network as a pure function.

    Attributes:
      function: of values and the input.
      variables: what the network holds, by path; their values are the function's first argument.
      passed: what is passed in the call besides the input, as it is printed.
      name: the network's class.
      words: how it is called, as it is printed.
      key: what tells this call from another, of the same or of another network.
    """

    function: Callable[[list[Any], Any], Any]
    variables: dict[str, nnx.Variable]
    passed: dict[str, Any]
    name: str
    words: str
    key: tuple[Any, ...]


def called(
    net: nnx.Module,
    call: Callable[[Any, Any], Any] | None,
    train: bool | None,
    rngs: nnx.Rngs | None,
) -> Called:
    """Return a network as a pure function, called as asked or as its signature allows.

    Raises:
      ValueError: ``train`` for a network whose call has no mode, none for one that has.
    """
    passed = _passed(net, call, train, rngs)

    def run(copy: Any, x: Any, streams: nnx.Rngs | None) -> Any:
        if call is not None:
            return call(copy, x)
        return copy(x, **(passed if streams is None else {**passed, "rngs": streams}))

    variables, given = variables_of(net), rngs if "rngs" in passed else None
    function, structures = _pure(net, run, given)
    if given is not None:
        variables |= {f"rngs/{name}": v for name, v in variables_of(given).items()}
    key = (*structures, kinds_of(variables), tuple(passed.items()))
    options = "".join(f", {name}={value}" for name, value in passed.items())
    words = f"net(x{options})" if call is None else "call(net, x)"
    return Called(function, variables, passed, type(net).__name__, words, key)


def called_in(
    path: str,
    node: nnx.Module,
    train: bool,
    streams: nnx.Rngs | None,
    wrapped: dict[int, nnx.Variable],
) -> Called:
    """Return a unit of an expression as a pure function, called as the expression calls it.

    Args:
      path: the unit's, which begins the names of what it holds.
      node: the unit.
      train: the mode.
      streams: random numbers.
      wrapped: what stands for arrays that are no variables, by identity.
    """

    def run(copy: Any, x: Any, streams: nnx.Rngs | None) -> Any:
        return applied(copy, x, train, streams)

    held = variables_of(node, wrapped)
    variables = {f"{path}/{name}" if path else name: v for name, v in held.items()}
    if streams is not None:
        variables |= {f"rngs/{name}": v for name, v in variables_of(streams).items()}
    function, _ = _pure(node, run, streams, path)
    return Called(function, variables, {}, type(node).__name__, "", ())


def _pure(
    net: nnx.Module, run: Callable[[Any, Any, Any], Any], rngs: nnx.Rngs | None, path: str = ""
) -> tuple[Callable[[list[Any], Any], Any], tuple[Any, Any]]:
    """Return what is run of a network, as a pure function of values; and both structures."""
    graphdef, state = nnx.split(net)
    structure = jax.tree.structure(state)
    own = structure.num_leaves
    streams, found = (None, None) if rngs is None else nnx.split(rngs)
    random = jax.tree.structure(found)

    def function(values: list[Any], x: Any) -> Any:
        copy: Any = nnx.merge(graphdef, jax.tree.unflatten(structure, values[:own]), copy=True)
        given = None
        if streams is not None:
            given = nnx.merge(streams, jax.tree.unflatten(random, values[own:]), copy=True)
        with scoped_modules(copy, path):
            return run(copy, x, given)

    return function, (graphdef, streams)


def kinds_of(variables: dict[str, nnx.Variable]) -> tuple[Any, ...]:
    """Return shapes and dtypes of values."""
    return tuple((v.get_value().shape, v.get_value().dtype) for v in variables.values())


def variables_of(
    net: Any, wrapped: dict[int, nnx.Variable] | None = None
) -> dict[str, nnx.Variable]:
    """Return what a network holds in the order of the state's leaves, by its first path."""
    wrapped = {} if wrapped is None else wrapped
    held: dict[tuple[str, ...], Any] = {}
    for path, value in nnx.iter_graph(net):
        if isinstance(value, nnx.Variable | jax.Array | np.ndarray):
            held.setdefault(tuple(map(str, path)), value)
    found = {}
    for path, _ in nnx.to_flat_state(nnx.state(net)):
        value = held[tuple(map(str, path))]
        # An array that is an attribute itself is no parameter.
        if not isinstance(value, nnx.Variable):
            value = wrapped.setdefault(id(value), nnx.Variable(jnp.asarray(value)))
        found["/".join(map(str, path))] = value
    return found


def takes_mode(net: Any) -> bool:
    """Return whether a module's call takes a mode, under one of the usual names.

    Args:
      net: the module.

    Returns:
      Whether it is called with ``train``, ``training``, ``is_training``, ``deterministic``,
      ``inference`` or ``use_running_average``.

    Example:
      >>> from flax import nnx
      >>> from convjax import nn
      >>> nn.takes_mode(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
      True
    """
    return bool(set(parameters_of(net)) & set(MODES))


def _passed(net: Any, call: Any, train: bool | None, rngs: Any) -> dict[str, Any]:
    if call is not None:
        return {}
    accepted = parameters_of(net)
    modes = [name for name in accepted if name in MODES]
    if modes and train is None:
        raise ValueError(
            f"train=None, and {type(net).__name__} is called with {modes[0]!r}; give "
            "train=True or train=False, or call=lambda net, x: …"
        )
    if train is not None and not modes:
        raise ValueError(
            f"train={train}: the call of {type(net).__name__} takes no mode; leave train out (NNX: "
            "net.train() or net.eval() before), or give call=lambda net, x: …"
        )
    found: dict[str, Any] = {name: MODES[name] == train for name in modes}
    found |= moved(net, train)
    if "rngs" in accepted and rngs is not None:
        found["rngs"] = "given"
    return found


_PATHS: ContextVar[dict[int, str]] = ContextVar("paths")


@contextlib.contextmanager
def scoped_modules(net: nnx.Module, around: str = "") -> Iterator[None]:
    """Have every module's call stand in a scope that is named for its path."""
    before = (around,) if around else ()
    every = {id(m): (m, "/".join((*before, *map(str, p)))) for p, m in nnx.iter_modules(net)}
    named = {key: (module, path) for key, (module, path) in every.items() if path}
    token = _PATHS.set({key: path for key, (_, path) in named.items()})
    kinds = [(m, type(m)) for m, _ in named.values()]
    try:
        for module, kind in kinds:
            if "__call__" in dir(kind):
                module.__class__ = _with_scope(kind)
        yield
    finally:
        for module, kind in kinds:
            module.__class__ = kind
        _PATHS.reset(token)


@functools.cache
def _with_scope(kind: type) -> type:
    @functools.wraps(kind.__call__)  # pyright: ignore[reportAttributeAccessIssue]
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        path = _PATHS.get({}).get(id(self))
        with contextlib.nullcontext() if path is None else jax.named_scope(MODULE + path):
            return kind.__call__(self, *arguments, **options)  # pyright: ignore

    return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
