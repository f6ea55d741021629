"""The one way in which an unknown name is refused: with the nearest right ones."""

import difflib
from collections.abc import Iterable
from typing import NoReturn


def refuse(argument: str, value: object, known: Iterable[str]) -> NoReturn:
    """Raise a ValueError that names the argument, the value and the nearest known names."""
    known = sorted(known)
    near = difflib.get_close_matches(str(value), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"{argument}={value!r} is not known; {hint}choose from {', '.join(known)}")
