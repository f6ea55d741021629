"""Tables of the page: from rows, and from what the terminal shows."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from convjax.lab.report._html import Html, join, tag

# A number, with a sign or a unit, or nothing.
_NUMBER = re.compile(r"([-+]?\d[\d.,]*(e[-+]?\d+)?( ?[%\w]{1,2})?)?")


def table(
    caption: str, heads: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[bool] = ()
) -> Html:
    """Return a table that scrolls by itself where it is wider than the page.

    Cells are text or ``Html``; ``right`` says for each column whether it holds numbers.
    """
    sides = ["number" if one else None for one in right] or [None] * len(heads)
    head = [tag("th", name, scope="col", class_=s) for name, s in zip(heads, sides, strict=True)]
    body = [
        tag("tr", *(tag("td", cell, class_=s) for cell, s in zip(row, sides, strict=True)))
        for row in rows
    ]
    made = tag(
        "table",
        tag("caption", caption) if caption else None,
        tag("thead", tag("tr", *head)),
        tag("tbody", *body),
    )
    # Whoever has no mouse scrolls it with the keyboard.
    named = caption or "Table"
    return tag("div", made, class_="scroll", tabindex=0, role="region", aria_label=named)


def printed(shown: Any) -> Html:
    """Return as HTML what would be printed on the terminal: tables as tables, all else as text."""
    if isinstance(shown, Table):
        inside = [cell for column in shown.columns for cell in column.cells]
        tables = any(isinstance(cell, Table) for cell in inside)
        return join(*map(printed, inside)) if tables else _of_rich(shown)
    if isinstance(shown, Group):
        return join(*map(printed, shown.renderables))
    if isinstance(shown, str | Text):
        return tag("p", _plain(shown)) if shown else Html()
    plain = Console(width=100, markup=False, emoji=False)
    with plain.capture() as captured:
        plain.print(shown)
    return tag("div", tag("pre", captured.get()), class_="scroll", tabindex=0)


def _of_rich(made: Table) -> Html:
    heads = [_plain(column.header) for column in made.columns]
    cells = [[_plain(cell) for cell in column.cells] for column in made.columns]
    right = [
        column.justify == "right" or all(map(_NUMBER.fullmatch, ones))
        for column, ones in zip(made.columns, cells, strict=True)
    ]
    rows = list(itertools.zip_longest(*cells, fillvalue=""))
    return table(_plain(made.title or ""), heads, rows, right)


def _plain(shown: Any) -> str:
    # As on the terminal, nothing in it is markup.
    return shown.plain if isinstance(shown, Text) else str(shown)
