"""A result as a person reads it: a table of 80 columns, or one of HTML in a notebook."""

import dataclasses
import html
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from convjax import _check

WIDTH = 80
ROWS = 48
AGAIN = 40
"""After so many lines a long table repeats its head."""
NAME = 20
"""A unit's name is shortened to no less than this."""

# Of their children none sees the whole signal.
PARTING = ("Residual", "Parallel")


@dataclasses.dataclass(frozen=True)
class Table:
    """What a table shows; every cell is text.

    Attributes:
      heads: the columns' names.
      rows: the cells of each row.
      left: how many columns, from the first on, are aligned to the left.
      spare: columns that are left out where there is no room, the most important first.
      main: which rows stay where there are too many; empty where all are alike.
      kept: numbers of rows that are always shown.
      rest: what the rows are that are not ``main``.
      above: sentences over the table.
      below: sentences under it.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    spare: Sequence[str] = ()
    main: Sequence[bool] = ()
    kept: Iterable[int] = ()
    rest: str = "units inside branches"
    above: Sequence[str] = ()
    below: Sequence[str] = ()


class Readable:
    """A result that is printed as a table, in a terminal and in a notebook."""

    def _as_table(self) -> Table:
        raise NotImplementedError

    def text(self, *, width: int | None = WIDTH, rows: int | None = ROWS) -> str:
        """Return the table to be read, as ``print`` shows it; it says what it leaves out.

        Args:
          width: columns of text at most; None for as many as it takes.
          rows: rows at most; None for all.

        Raises:
          ValueError: a width below 40, or fewer than four rows.
        """
        return as_text(self._as_table(), width, rows)

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return as_html(self._as_table())


def as_text(table: Table, width: int | None = WIDTH, rows: int | None = ROWS) -> str:
    """Return a table as lines, and say under it what was left out."""
    width = 10**6 if width is None else _check.integer("width", width, 40)
    chosen, fewer = _chosen(table, None if rows is None else _check.integer("rows", rows, 4))
    shown = [table.rows[i] for i in chosen if i is not None]
    lines = [line for sentence in table.above for line in _wrapped(sentence, width)]
    lines += [""] if lines and shown else []
    used, name = _fitting(table, shown, width)
    if shown:
        lines += _lines(table, chosen, used, name)
    notes = list(table.below) + fewer
    if len(used) < len(table.heads):
        gone = [head for i, head in enumerate(table.heads) if i not in used]
        notes.append(f"left out for width: {', '.join(gone)}; text(width=None) shows all columns")
    return "\n".join([*lines, *(line for note in notes for line in _wrapped(note, width))])


def as_html(table: Table, rows: int | None = ROWS) -> str:
    """Return a table for a notebook: all columns, the rows as in the text."""
    chosen, fewer = _chosen(table, rows)
    lines = ["<div>", *(f"<p>{html.escape(sentence)}</p>" for sentence in table.above)]
    if table.rows:
        lines += [
            "<table>",
            f"<thead>{_html_row(table.heads, 'th', table.left)}</thead>",
            "<tbody>",
        ]
        for i in chosen:
            cells = ["…"] if i is None else table.rows[i]
            lines.append(_html_row(cells, "td", table.left))
        lines += ["</tbody>", "</table>"]
    lines += [f"<p>{html.escape(sentence)}</p>" for sentence in [*table.below, *fewer]]
    return "\n".join([*lines, "</div>"])


def known(value: Any) -> bool:
    """Whether an array's numbers are there: not while JAX traces, nor once they were donated."""
    if isinstance(value, jax.Array):
        return (
            not isinstance(value, Tracer) and value.is_fully_addressable and not value.is_deleted()
        )
    return isinstance(value, np.ndarray | np.generic | int | float)


def size(log: float) -> str:
    """Write exp(log) with three digits, also where no float holds it."""
    if math.isnan(log):
        return ""
    if math.isinf(log) or abs(log) < 700:
        return f"{math.exp(log) if log < 700 else math.inf:.3g}"
    power = math.floor(log / math.log(10))
    return f"{math.exp(log - power * math.log(10)):.2f}e{power:+d}"


def whole(path: str) -> str:
    """Return a path as a table shows it; the root's is empty."""
    return path or "(the whole)"


def on_trunk(paths: Sequence[str], kinds: Sequence[str]) -> list[bool]:
    """Return which units the whole signal passes: those inside no residual and no parallel."""
    parting = {path for path, kind in zip(paths, kinds, strict=True) if kind in PARTING}
    parting |= {path.rpartition("/")[0] for path in paths if path.rpartition("/")[2] == "branch"}
    return [not any(above in parting for above in _above(path)) for path in paths]


def _above(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition("/")[0]
        yield path


def _chosen(table: Table, most: int | None) -> tuple[list[int | None], list[str]]:
    """Return the numbers of the rows to be shown, None for a gap, and what is to be said of it."""
    every = range(len(table.rows))
    if most is None or len(every) <= most:
        return list(every), []
    kept = {*table.kept}
    main = [i for i in every if i in kept or not table.main or table.main[i]]
    rest = [table.rest] if 4 <= len(main) < len(every) else []
    main = main if rest else list(every)
    shown = {*main}
    if len(main) > most:
        rest.append("the middle")
        shown = {*main[: most // 2], *main[len(main) - most // 2 :], *kept}
    chosen: list[int | None] = []
    for i in main:
        if i in shown:
            chosen.append(i)
        elif chosen[-1] is not None:
            chosen.append(None)
    count = f"{len(shown)} of {len(every)} rows"
    return chosen, [f"{count}, without {' and '.join(rest)}; text(rows=None) shows all"]


def _fitting(table: Table, rows: Sequence[Sequence[str]], width: int) -> tuple[list[int], int]:
    """Return which columns there is room for, and how wide the first may be."""
    wide = [max(len(head), *(len(row[i]) for row in rows), 0) for i, head in enumerate(table.heads)]
    spare = [table.heads.index(head) for head in table.spare]
    used = {i for i in range(1, len(wide)) if i not in spare}
    room = width - sum(wide[i] + 2 for i in used)
    name = min(wide[0], max(room, NAME))
    room -= name
    for i in spare:
        if wide[i] + 2 <= room:
            used.add(i)
            room -= wide[i] + 2
    return [0, *sorted(used)], name


def _lines(table: Table, chosen: list[int | None], used: list[int], name: int) -> Iterator[str]:
    """Yield head and rows, columns padded to one width."""
    named = {
        i: [shortened(table.rows[i][0], name), *table.rows[i][1:]] for i in chosen if i is not None
    }
    wide = [
        max(len(row[i]) for row in [table.heads, *named.values()]) for i in range(len(table.heads))
    ]

    def line(row: Sequence[str]) -> str:
        padded = (f"{row[i]:{'<' if i < table.left else '>'}{wide[i]}}" for i in used)
        return "  ".join(padded).rstrip()

    for count, i in enumerate(chosen):
        if count % AGAIN == 0 and (count == 0 or len(chosen) - count > AGAIN // 4):
            yield line(table.heads)
        yield "…" if i is None else line(named[i])


def shortened(path: str, most: int) -> str:
    """Return a path without some of its inner parts, where it is too long."""
    if len(path) <= most:
        return path
    parts = path.split("/")
    for gone in range(1, len(parts) - 1):
        tries = [
            "/".join([*parts[:i], "…", *parts[i + gone :]]) for i in range(1, len(parts) - gone)
        ]
        fit = [one for one in tries if len(one) <= most]
        if fit:
            return max(fit, key=len)
    return f"{path[: (most - 1) // 2]}…{path[len(path) - most // 2 :]}"


def _wrapped(sentence: str, width: int) -> list[str]:
    return textwrap.wrap(
        sentence, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _html_row(cells: Sequence[str], tag: str, left: int) -> str:
    written = (
        f'<{tag} style="text-align: {"left" if i < left else "right"}">{html.escape(cell)}</{tag}>'
        for i, cell in enumerate(cells)
    )
    return f"<tr>{''.join(written)}</tr>"
