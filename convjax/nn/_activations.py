"""The activations by name, and functions of JAX's that a network can be pickled with."""

import functools
import importlib
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def exact_gelu(x):
    """Multiply x by the normal distribution function at x."""
    return jax.nn.gelu(x, approximate=False)


def linear(x):
    """Return x."""
    return x


# "gelu" is the approximation by tanh; the function itself, x Phi(x), is "exact_gelu".
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": jax.nn.gelu,
    "exact_gelu": exact_gelu,
    "silu": jax.nn.silu,
    "hard_swish": jax.nn.hard_swish,
    "mish": jax.nn.mish,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "tanh": jnp.tanh,
    "linear": linear,
}


class Found:
    """A function that is pickled and copied by the name that it is found by.

    What ``jax.jit`` and ``jax.custom_jvp`` return can be neither pickled nor copied to an equal.
    """

    def __init__(self, module: str, name: str):
        self.module = module
        self.__name__ = name
        self.function = _function(module, name)
        if self.function is None:
            raise ValueError(f"function={name!r} of a network is not found in {module or 'nn'}")

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*arguments, **options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Found) and other.function is self.function

    def __hash__(self) -> int:
        return hash(self.function)

    def __repr__(self) -> str:
        return f"<{self.module}.{self.__name__}>" if self.module else f"<{self.__name__}>"

    def __reduce__(self):
        return Found, (self.module, self.__name__)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Found":
        return self


class Fixed(functools.partial):
    """A function with numbers or words for some arguments; equal to another one of the same."""

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Fixed) and self.func == other.func
        return same and (self.args, self.keywords) == (other.args, other.keywords)  # pyright: ignore

    def __hash__(self) -> int:
        return hash(self.func)


def keepable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function as a network keeps it: by its name, where it could not be copied."""
    if isinstance(function, types.FunctionType | Found | Fixed):
        return function
    if isinstance(function, functools.partial):
        given = (*function.args, *function.keywords.values())
        plain = all(isinstance(value, bool | int | float | str | None) for value in given)
        kind = Fixed if plain else functools.partial
        return kind(keepable(function.func), *function.args, **function.keywords)
    known = next((name for name, own in ACTIVATIONS.items() if own is function), None)
    places = [("", known), (getattr(function, "__module__", ""), getattr(function, "__name__", ""))]
    for module, name in places:
        if name and _function(module, name) is function:
            return Found(module, name)
    return function


def _function(module: str, name: str) -> Any:
    """Return what has this name in a module, or among the activations where that is empty."""
    if not module:
        return ACTIVATIONS.get(name)
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
