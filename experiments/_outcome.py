"""What an experiment is, and how it ends: numbers on disk, a figure, a verdict from criteria."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from convjax import plots, study
from experiments import _cli

Columns = dict[str, np.ndarray]


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
      measure: ``measure(config) -> columns``, one row per measurement. It raises a ValueError that
        names the option where an option cannot be done, before it measures anything.
      judge: ``judge(columns) -> criteria``, from the columns alone.
      draw: ``draw(columns) -> figure``, from the columns alone.
      table: ``table(columns) -> Table``, the rows that a reader wants to see.
    """

    name: str
    about: str
    config: type[_cli.Options]
    measure: Callable[[Any], Columns]
    judge: Callable[[Columns], Sequence[Criterion]]
    draw: Callable[[Columns], Figure]
    table: Callable[[Columns], Table]


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


def run(experiment: Experiment, argv: Sequence[str]) -> int:
    """Run an experiment from the command line.

    Returns:
      0 where every criterion holds, 1 where one does not, 130 where the user stopped it.
    """
    config = _cli.parse(
        experiment.config,
        argv,
        name=experiment.name,
        about=experiment.about.partition("\n")[0],
    )
    _cli.use_platform(config.platform)
    with _cli.refusing():
        study.check_writable(config.out)
        try:
            columns = experiment.measure(config)
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted: nothing was kept", highlight=False)
            return 130
    return report(experiment, config, columns)


def report(experiment: Experiment, config: _cli.Options, columns: Columns) -> int:
    """Write the numbers and the figure, print the table and the verdict; return the exit code."""
    criteria = list(experiment.judge(columns))
    stem = Path(config.out) / experiment.name.replace("-", "_")
    metadata = {
        "experiment": experiment.name,
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "environment": study.environment(),
        "criteria": [dataclasses.asdict(criterion) for criterion in criteria],
    }
    study.write_parquet(stem.with_suffix(".parquet"), columns, metadata)
    png, svg = plots.save(experiment.draw(columns), stem)
    shown = console()
    shown.print(experiment.table(columns))
    shown.print()
    shown.print(verdict(criteria))
    held = sum(criterion.holds for criterion in criteria)
    shown.print(
        f"\nVerdict: {'holds' if held == len(criteria) else 'FAILS'} "
        f"({held} of {len(criteria)} criteria)"
    )
    shown.print(f"Written: {stem.with_suffix('.parquet')}, {png}, {svg.name}", soft_wrap=True)
    return 0 if held == len(criteria) else 1


def console() -> Console:
    """Return a console, wide enough for the tables where it is no terminal."""
    shown = Console(highlight=False)
    return shown if shown.is_terminal else Console(highlight=False, width=110)


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


def stack(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Return rows of equal keys as columns."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
