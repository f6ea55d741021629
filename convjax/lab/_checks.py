"""Refusals that experiments share: lists that are empty or repeat, numbers that are too small."""

import difflib
from collections.abc import Iterable
from typing import Any

from convjax import _check


def check_several(config: Any, *options: str) -> None:
    """Refuse lists that are empty or name a value twice.

    Args:
      config: the options.
      *options: names of those to look at.

    Raises:
      ValueError: it names the option.

    Example:
      >>> import types
      >>> from convjax import lab
      >>> lab.check_several(types.SimpleNamespace(depths=(8, 20)), "depths")
    """
    for option in options:
        values = getattr(config, option)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{option}={list(values)} must hold at least one value, none twice")


def check_least(config: Any, **least: int | float) -> None:
    """Refuse options below the least that they may be, and lists that are empty or repeat.

    Args:
      config: the options; those that are None are passed over.
      **least: by option, the least.

    Raises:
      ValueError: it names the option.

    Example:
      >>> import types
      >>> from convjax import lab
      >>> lab.check_least(types.SimpleNamespace(depths=(8, 20), seeds=2), depths=1, seeds=2)
    """
    for option, bound in least.items():
        value = getattr(config, option)
        if value is not None and _least(config, option) < bound:
            raise ValueError(f"{option}={value} must be at least {bound}")


def check_known(config: Any, **known: Iterable[str]) -> None:
    """Refuse names that are not known, and lists that are empty or repeat.

    Args:
      config: the options.
      **known: by option, a list of names, the names that there are.

    Raises:
      ValueError: it names the option and the nearest right names.

    Example:
      >>> import types
      >>> from convjax import lab
      >>> lab.check_known(types.SimpleNamespace(inits=("he",)), inits=("he", "lecun"))
    """
    for option, names in known.items():
        check_several(config, option)
        for name in getattr(config, option):
            if name not in (names := list(names)):
                raise ValueError(unknown(f"{option}:", name, names))


def check_positive(config: Any, *options: str) -> None:
    """Refuse numbers that are not greater than 0, and lists that are empty or repeat.

    Args:
      config: the options.
      *options: names of those to look at.

    Raises:
      ValueError: it names the option.

    Example:
      >>> import types
      >>> from convjax import lab
      >>> lab.check_positive(types.SimpleNamespace(learning_rate=0.1), "learning_rate")
    """
    for option in options:
        if _least(config, option) <= 0:
            raise ValueError(f"{option}={getattr(config, option)} must be greater than 0")


def _least(config: Any, option: str) -> float:
    value = getattr(config, option)
    if not isinstance(value, tuple | list):
        return _check.number(option, value)
    check_several(config, option)
    return min(_check.number(option, one) for one in value)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence that refuses a name, with the nearest right ones.

    Args:
      what: the name is the name of.
      name: that is not known.
      known: names.

    Example:
      >>> from convjax import lab
      >>> lab.unknown("network", "reznet", ["resnet", "vgg"])
      "network 'reznet' is not known; did you mean 'resnet'? Choose from resnet, vgg."
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, near))}? Choose" if near else "choose"
    return f"{what} {name!r} is not known; {hint} from {', '.join(known)}."
