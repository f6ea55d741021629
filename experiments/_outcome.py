"""What an experiment is, and how it ends: numbers on disk, a figure, a verdict from criteria."""

import dataclasses
import json
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from convjax import plots, study
from experiments._columns import Columns as Columns
from experiments._columns import joined as joined
from experiments._columns import stack as stack
from experiments._console import console as console


@dataclasses.dataclass(frozen=True)
class Criterion:
    """One thing that a run must show.

    Attributes:
      claim: what must hold, in words a reader understands without the code.
      measured: what was found, as text.
      expected: what it had to be, as text.
      holds: whether it was.
    """

    claim: str
    measured: str
    expected: str
    holds: bool


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One question, and the functions that answer it; each can be called by itself.

    Attributes:
      name: on the command line; the results' files are named for it.
      about: the experiment's docstring, whose first line says what is asked.
      config: the dataclass of its options; its ``out`` is the results' folder.
      cells: ``cells(config) -> cells``, what is to be measured: frozen dataclasses that hold all
        that the numbers depend on, and ``str(cell)`` says in a few words which it is. It raises a
        ValueError that names the option where an option cannot be done.
      measure: ``measure(cell) -> columns``, one row per measurement. Other processes import it.
      judge: ``judge(columns) -> criteria``, from the columns of all cells alone.
      draw: ``draw(columns) -> figure``, from the same.
      table: ``table(columns) -> Table``, the rows that a reader wants to see.
      apart: columns by which everything is judged, drawn and shown apart, such as ``("depth",)``
        of an experiment whose figure shows one depth.
      complete: ``complete(columns) -> columns``, where rows follow from several cells.
      also: ``also(columns) -> {name: figure}``, further figures.
      cost: ``cost(cell) -> seconds``, about what a cell takes one processor core, compiled anew;
        measured where the README's figures were.
      group: ``group(cell)``, the same for cells whose programs are the same.
      shows: whether a cell that is measured in this process shows progress of its own.
    """

    name: str
    about: str
    config: type[Any]
    cells: Callable[[Any], Sequence[Any]]
    measure: Callable[[Any], Columns]
    judge: Callable[[Columns], Sequence[Criterion]]
    draw: Callable[[Columns], Figure]
    table: Callable[[Columns], Table]
    apart: tuple[str, ...] = ()
    complete: Callable[[Columns], Columns] = lambda columns: columns
    also: Callable[[Columns], Mapping[str, Figure]] = lambda columns: {}
    cost: Callable[[Any], float] = lambda cell: 10.0
    group: Callable[[Any], Hashable] | None = None
    shows: bool = False


def within(
    claim: str,
    measured: float,
    expected: float,
    *,
    relative: float | None = None,
    absolute: float | None = None,
    why: str = "",
) -> Criterion:
    """Ask that a number lie near another.

    Args:
      claim: what must hold.
      measured: the number found.
      expected: the number it must be near.
      relative: how far it may be away, as a share of the expected.
      absolute: how far it may be away, in its own units; one of the two must be given.
      why: where the tolerance comes from, such as "3 s.e.".
    """
    if (relative is None) == (absolute is None):
        raise ValueError("give relative or absolute, one of the two")
    away = absolute if absolute is not None else abs(expected) * (relative or 0.0)
    tolerance = f"{relative:.0%}" if relative is not None else digits(away)
    return Criterion(
        claim,
        digits(measured),
        f"{digits(expected)} ± {tolerance}{f' ({why})' if why else ''}",
        bool(abs(measured - expected) <= away),
    )


def that(claim: str, holds: bool, measured: str, expected: str) -> Criterion:
    """Ask for anything else, in words."""
    return Criterion(claim, measured, expected, bool(holds))


def digits(value: float, count: int = 4) -> str:
    """Write a number with so many significant digits."""
    return f"{value:.{count}g}"


def measured(experiment: Experiment, config: Any) -> Columns:
    """Measure every cell in this process, and keep nothing: for tests and notebooks."""
    parts = [experiment.measure(cell) for cell in experiment.cells(config)]
    return experiment.complete(joined(parts))


def parts(experiment: Experiment, columns: Columns) -> list[tuple[str, Columns]]:
    """Return what is judged and shown apart, each with its name; "" where that is everything."""
    if not experiment.apart:
        return [("", columns)]
    found = list(study.groups(columns, experiment.apart))
    if len(found) == 1:
        return [("", columns)]
    return [(", ".join(f"{k} {v}" for k, v in values.items()), part) for values, part in found]


def judged(experiment: Experiment, columns: Columns) -> list[Criterion]:
    """Return the criteria of every part; each says which part it is of."""
    return [
        dataclasses.replace(one, claim=f"{name}: {one.claim}" if name else one.claim)
        for name, part in parts(experiment, columns)
        for one in experiment.judge(part)
    ]


def report(experiment: Experiment, config: Any, columns: Columns, about: Mapping[str, Any]) -> int:
    """Write the numbers and the figures, print the tables and the verdict; return the exit code.

    Args:
      experiment: whose they are.
      config: the options.
      columns: the numbers.
      about: what else the file shall say of them.
    """
    criteria = judged(experiment, columns)
    stem = Path(config.out) / stem_of(experiment)
    metadata = {
        "experiment": experiment.name,
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "criteria": [dataclasses.asdict(criterion) for criterion in criteria],
        **about,
    }
    study.write_parquet(stem.with_suffix(".parquet"), columns, metadata)
    shown, written = console(), [str(stem.with_suffix(".parquet"))]
    for name, part in parts(experiment, columns):
        drawn = figure_of(experiment, Path(config.out), name)
        written += [path.name for path in plots.save(experiment.draw(part), drawn)]
        if name:
            shown.print(f"{name}\n", style="bold")
        shown.print(experiment.table(part))
        shown.print()
    for name, figure in experiment.also(columns).items():
        written += [path.name for path in plots.save(figure, Path(config.out) / name)]
    held = sum(criterion.holds for criterion in criteria)
    if criteria:
        shown.print(verdict(criteria))
        said = "holds" if held == len(criteria) else "FAILS"
        shown.print(f"\nVerdict: {said} ({held} of {len(criteria)} criteria)")
    else:
        shown.print("No criteria: theory says nothing of what was asked for here.")
    shown.print(f"Written: {', '.join(written)}", soft_wrap=True)
    return 0 if held == len(criteria) else 1


def stem_of(experiment: Experiment) -> str:
    """Return how the experiment's files are called."""
    return experiment.name.replace("-", "_")


def figure_of(experiment: Experiment, folder: Path, part: str) -> Path:
    """Return where the figure of a part is written, without the ending."""
    words = "".join(f"_{one}" for one in re.findall(r"[\w.+-]+", part))
    return folder / (stem_of(experiment) + words)


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Return a table: text to the left, numbers to the right, floats with four digits.

    Args:
      title: above the table.
      columns: the heads.
      rows: values, one for each column.
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


def verdict(criteria: Sequence[Criterion]) -> Table:
    """Return the table of the criteria."""
    rows = [(c.claim, c.measured, c.expected, "holds" if c.holds else "FAILS") for c in criteria]
    return plain_table("Criteria", ("claim", "measured", "expected", "verdict"), rows)
