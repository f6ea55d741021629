"""Which rule of an interpreter a node obeys: none of a class whose forward pass it replaces."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from flax import nnx

LEAVES: list[Any] = []
"""The functions whose rules say what a leaf is: where one knows a type, it stays a leaf."""


def by_type(default: Callable[..., Any]) -> Any:
    """Dispatch on the type of the first argument, as ``functools.singledispatch`` does, but safely.

    A subclass inherits the rule of its class unless it replaces a method: it then computes
    something else, and gets the rule of what is not known.
    """
    single = functools.singledispatch(default)

    def dispatch(kind: type) -> Callable[..., Any]:
        known = (ancestor for ancestor in kind.__mro__ if ancestor in single.registry)
        ancestor = next(known, object)
        kept = ancestor is kind or not _replaces(kind, ancestor)
        return single.registry[ancestor if kept else object]

    @functools.wraps(default)
    def call(node: Any, *args: Any, **options: Any) -> Any:
        return dispatch(type(node))(node, *args, **options)

    vars(call).update(register=single.register, registry=single.registry, dispatch=dispatch)
    return call


def of_leaves(function: Any) -> Any:
    """Have a function that dispatches on types count as one that knows leaves."""
    LEAVES.append(function)
    return function


def is_known(kind: type) -> bool:
    """Whether some rule is registered that says what leaves of a type are."""
    return any(rule.dispatch(kind) is not rule.dispatch(object) for rule in LEAVES)


def follows(node: Any, kind: type) -> bool:
    """Whether a node is of a class and computes what that class computes."""
    return isinstance(node, kind) and not _replaces(type(node), kind)


def registered(*functions: Any) -> tuple[Any, ...]:
    """Return all that is registered, to be part of the key of what was compiled with it."""
    return tuple(item for function in functions for item in function.registry.items())


def _replaces(kind: type, ancestor: type) -> bool:
    """Whether a subclass has methods of its own in place of its ancestor's."""
    owner = _owner(ancestor, "__call__")
    if owner is None or vars(owner).get("_abstract"):
        return False  # an abstract class: whatever its subclasses compute, the rule is meant for it
    for between in kind.__mro__[: kind.__mro__.index(ancestor)]:
        if vars(between).get("_alike"):
            continue  # it says itself that rules hold for it
        for name, value in vars(between).items():
            method = inspect.isfunction(value) or isinstance(value, property)
            plain = not name.startswith("__") or name == "__call__"
            if method and plain and _owner(ancestor, name) is not None:
                return True
    return False


def _owner(kind: type, name: str) -> type | None:
    """Return the class that defines an attribute, of those that a user writes."""
    known = (c for c in kind.__mro__ if name in vars(c) and c not in nnx.Module.__mro__)
    return next(known, None)
