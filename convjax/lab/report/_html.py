"""HTML as values: text is escaped where it becomes part of a page, and only there."""

import html
from collections.abc import Iterable
from typing import Any


class Html(str):
    """Text that is HTML already."""


# What has no end tag.
_VOID = ("br", "img", "meta")


def tag(name: str, /, *inside: Any, **attributes: Any) -> Html:
    """Return an element; of what stands in it ``Html`` as it is, all else as escaped text.

    An attribute may be written ``class_`` or ``data_part``; True is one without a value, None and
    False are none.
    """
    given = ((k, v) for k, v in attributes.items() if v is not None and v is not False)
    written = "".join(_attribute(key, value) for key, value in given)
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*inside)}</{name}>")


def join(*parts: Any) -> Html:
    """Return parts one after the other."""
    return Html("".join(map(_escaped, parts)))


def between(separator: str, parts: Iterable[Any]) -> Html:
    """Return parts with a separator between each two, those left out that are empty."""
    return Html(_escaped(separator).join(_escaped(part) for part in parts if part))


def _escaped(part: Any) -> str:
    if part is None:
        return ""
    return part if isinstance(part, Html) else html.escape(printable(part), quote=False)


def printable(part: Any) -> str:
    """Return text that a page can hold, whatever stands in a file's name."""
    return str(part).encode("utf-8", "backslashreplace").decode("utf-8")


def _attribute(key: str, value: Any) -> str:
    key = key.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{html.escape(printable(value))}"'
