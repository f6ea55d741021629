"""What is printed: tables that fit a terminal, on a console that takes no text for markup."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from convjax.lab._criteria import Criterion, digits


def console(width: int = 110, *, stderr: bool = False) -> Console:
    """Return a console that takes no text for markup.

    Args:
      width: in columns where it is no terminal, wide enough for the tables.
      stderr: whether it writes there.

    Example:
      >>> from convjax import lab
      >>> lab.console().print("[/data] and :smile: as they are")
      [/data] and :smile: as they are
    """
    # A user's path or message may hold "[/data]" or ":smile:", which are markup elsewhere.
    plain = partial(Console, stderr=stderr, highlight=False, markup=False, emoji=False)
    return shown if (shown := plain()).is_terminal else plain(width=width)


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Return a table: text to the left, numbers to the right, floats with four digits.

    Args:
      title: above the table.
      columns: the heads.
      rows: values, one for each column.

    Example:
      >>> from convjax import lab
      >>> table = lab.plain_table("Gain", ("layer", "gain"), [("conv", 1 / 3)])
      >>> [list(column.cells) for column in table.columns]
      [['conv'], ['0.3333']]
    """
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for i, head in enumerate(columns):
        text = all(isinstance(row[i], str) for row in rows)
        made.add_column(head, justify="left" if text else "right")
    for row in rows:
        made.add_row(*(digits(v) if isinstance(v, float) else str(v) for v in row))
    return made


def formatted_table(
    title: str, rows: Sequence[Any], *columns: tuple[str, str | Callable[[Any], str]]
) -> Table:
    """Return a table of declared columns: a head, and which attribute of a row stands below it.

    A column of nothing but numbers stands to the right.

    Args:
      title: above the table.
      rows: any objects; where an attribute is None, the cell is empty.
      *columns: heads, each with an attribute and its format, such as ``"growth.mean:.3f"``, or with
        a function that returns the cell of a row.

    Example:
      >>> import numpy as np
      >>> from convjax import lab
      >>> row = lab.Mean("conv", np.array([1.0, 1.1]), 1.0)
      >>> table = lab.formatted_table("Gain", [row], ("layer", "kind"), ("off by", "off:+.1%"))
      >>> [list(column.cells) for column in table.columns]
      [['conv'], ['+5.0%']]
    """
    heads = [head for head, _ in columns]
    made = plain_table(title, heads, [[_cell(row, told) for _, told in columns] for row in rows])
    for column in made.columns:
        if all(re.fullmatch(r"[-+.\d]*(e[-+]\d+)?%?", str(cell)) for cell in column.cells):
            column.justify = "right"
    return made


def _cell(value: Any, told: str | Callable[[Any], str]) -> str:
    if not isinstance(told, str):
        return told(value)
    path, _, form = told.partition(":")
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    return "" if value is None else format(value, form)


def verdict(criteria: Sequence[Criterion]) -> Table:
    """Return the table of the criteria."""
    rows = [(c.claim, c.measured, c.expected, "holds" if c.holds else "FAILS") for c in criteria]
    return plain_table("Criteria", ("claim", "measured", "expected", "verdict"), rows)
