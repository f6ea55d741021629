"""How a unit is called in a mode: by what its call takes, which is looked up once for a type."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from flax import nnx

from convjax.nn._reading._function import Function

MODES = {"train": True, "training": True, "is_training": True, "deterministic": False}
MODES |= {"use_running_average": False, "inference": False}
"""What a call may name its mode, and its value in training."""

SET = ("deterministic", "use_running_average")
"""Attributes in which modules of NNX keep their mode."""


def applied(
    node: nnx.Module,
    x: Any,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
    call: Callable[..., Any] | None = None,
) -> Any:
    """Return what a unit or a network makes of ``x`` in a mode, whatever its call names the mode.

    A mode is passed as ``train``, ``training``, ``is_training``, ``deterministic``, ``inference``
    or ``use_running_average``, and random numbers as ``rngs``, where the call takes them. What NNX
    modules inside keep of the mode as attributes is set for the length of the call, as by
    ``node.train()`` and ``node.eval()``.

    Args:
      node: a node of ``convjax.nn``, any module that can be called with one array, an
        ``nn.Function``, or a ``nnx.bridge.ToNNX``.
      x: the input.
      train: whether norms use the batch's statistics and dropout drops.
      rngs: source of random numbers.
      call: how it is called, if not as its signature says: ``call(node, x)``, which is passed the
        mode and ``rngs`` where it takes them by name, as in ``call(node, x, train)``.

    Returns:
      The output.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from convjax import nn
      >>> norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
      >>> bool(jnp.isclose(nn.applied(norm, jnp.ones((2, 3))), 1).all())
      True
    """
    how = _how(type(node)) if call is None else _taken(_named(call))
    if call is None and isinstance(node, Function | nnx.bridge.ToNNX):
        how = _taken(parameters_of(node))
    passed: dict[str, Any] = {n: train if value else not train for n, value in how.modes}
    if how.rngs == "always" or (how.rngs and rngs is not None):
        passed["rngs"] = rngs
    passed |= {} if call else moved(node, train)
    run: Any = node if call is None else functools.partial(call, node)
    # Our own nodes have no mode but that of the call.
    if how.modes and type(node).__module__.startswith("convjax."):
        return run(x, **passed)
    with in_mode(node, train):
        return run(x, **passed)


class _How(NamedTuple):
    """What the call of a type takes.

    Attributes:
      modes: what it names the mode, and the value in training.
      rngs: ``"always"`` where it must be given, ``"may"`` where it may, else empty.
      missing: the first parameter besides the input that has no default and no known meaning.
    """

    modes: tuple[tuple[str, bool], ...]
    rngs: str
    missing: str


@functools.cache
def _how(kind: type) -> _How:
    found = parameters(kind)
    modes, rngs, _ = _taken(found)
    # What takes any option hands it on: to a node, which takes these; Flax's own to anything.
    handed_on = any(p.kind is p.VAR_KEYWORD for p in found.values())
    if handed_on and not getattr(kind.__call__, "__module__", "").startswith("flax."):
        modes, rngs = modes or (("train", True),), "always"
    plain = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [n for n, p in found.items() if p.default is p.empty and p.kind not in plain]
    missing = [name for name in needed[1:] if name not in MODES and name != "rngs"]
    return _How(modes, rngs, missing[0] if missing else "")


def _taken(found: Mapping[str, inspect.Parameter]) -> _How:
    """Return which of what a call takes by name says the mode, and random numbers."""
    modes = tuple((name, MODES[name]) for name in found if name in MODES)
    if "rngs" not in found:
        return _How(modes, "", "")
    needed = found["rngs"].default is inspect.Parameter.empty
    return _How(modes, "always" if needed else "may", "")


def _named(function: Any) -> dict[str, inspect.Parameter]:
    """Return what a function takes, by name."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def parameters_of(node: Any) -> dict[str, inspect.Parameter]:
    """Return what one module's call takes by name."""
    if isinstance(node, Function):
        return dict(list(_named(node.apply).items())[2:])
    if isinstance(node, nnx.bridge.ToNNX):  # its own call takes anything, and hands it on
        own = {} if node.to_nnx__rngs is not None else {"rngs": _named(node)["rngs"]}
        return _named(node.to_nnx__module) | own
    return _named(node)


def moved(node: Any, train: bool | None) -> dict[str, Any]:
    """Return what a network of Linen's is told so that it may move its statistics in training."""
    if not (train and isinstance(node, nnx.bridge.ToNNX)):
        return {}
    held = (v for _, v in nnx.iter_graph(node) if isinstance(v, nnx.Variable))
    kinds = {type(v) for v in held if not isinstance(v, nnx.Param | nnx.RngState)}
    names = sorted(nnx.variable_name_from_type(kind) for kind in kinds)
    return {"mutable": tuple(names)} if names else {}


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Return what the call of a type takes besides the instance, by name."""
    try:
        found = inspect.signature(kind.__call__).parameters  # pyright: ignore
    except (AttributeError, TypeError, ValueError):
        return {}
    return dict(list(found.items())[1:])


def check_call(argument: str, node: nnx.Module) -> None:
    """Refuse a module that cannot be called with one array."""
    name = type(node).__name__
    if not callable(node):
        raise ValueError(f"{argument}={name} cannot be called; give a module with a __call__")
    if missing := _how(type(node)).missing:
        raise ValueError(
            f"{argument}={name} cannot be called with one array, since its __call__ needs "
            f"{missing!r} as well; call it in a class of your own that takes x alone"
        )


@contextlib.contextmanager
def in_mode(node: nnx.Module, train: bool) -> Iterator[None]:
    """Have the modules of NNX in a module be in a mode."""
    before = []
    for _, module in nnx.iter_modules(node):
        held = vars(module)
        before += [(held, name, held[name]) for name in SET if name in held]
    try:
        for held, name, _ in before:
            held[name] = not train
        yield
    finally:
        for held, name, value in before:
            held[name] = value
