"""What a room shows of itself: its public names, with a line each."""

import textwrap
from types import FunctionType, ModuleType
from typing import Any

from convjax import _interrupt

# This is what convjax imports first, and what follows takes seconds.
_interrupt.end_while_importing()


def show(names: dict[str, Any]) -> None:
    """Give a module its ``__all__`` and ``__dir__``, and list its names in its docstring.

    What the docstring said before stays in ``__about__``. It is called with ``globals()`` at the
    end of a room's ``__init__``, which holds re-exports and nothing else. A module that is more
    than that has an ``__all__`` of its own.
    """
    public = sorted(names["__all__"] if "__all__" in names else _public(names))
    names["__all__"] = public

    def listed() -> list[str]:
        # Rooms that are imported by name, such as `convjax.train`, come later.
        later = [name for name in _public(names) if isinstance(names[name], ModuleType)]
        return sorted({*public, *later, *(name for name in names if name.startswith("__"))})

    names["__dir__"] = listed
    names["__about__"] = names["__doc__"]
    entries = "\n".join(_entry(name, names[name]) for name in public)
    names["__doc__"] = f"{names['__doc__'].rstrip()}\n\nPublic names:\n{entries}\n"


def _public(names: dict[str, Any]) -> list[str]:
    """Return the names without an underscore; of modules, those inside this one alone."""
    return [
        name
        for name, value in names.items()
        if not name.startswith("_")
        if not isinstance(value, ModuleType) or value.__name__ == f"{names['__name__']}.{name}"
    ]


def _entry(name: str, value: Any) -> str:
    if isinstance(value, FunctionType | type | ModuleType):
        line = (value.__doc__ or "").split("\n")[0]
    else:
        line = _contents(value)
    return textwrap.fill(
        f"{name}: {line}", 76, initial_indent="  ", subsequent_indent="    ", break_long_words=False
    )


def _contents(value: Any) -> str:
    """Say what a constant holds: the names of a table, the entries of a tuple."""
    if isinstance(value, tuple | dict):
        return ", ".join(map(str, value))
    return str(value).replace("collections.abc.", "").replace("typing.", "")
