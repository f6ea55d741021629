"""Experiment: a question, and the functions that answer it, found in the file that asks it."""

import dataclasses
import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import ModuleType
from typing import Any

from convjax import _check, study
from convjax.lab._columns import Columns, joined
from convjax.lab._criteria import Criterion
from convjax.lab._options import CommandOptions


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One question, and the functions that answer it; each can be called by itself.

    Attributes:
      name: on the command line; the results' files are named for it.
      about: the docstring of its file, whose first line says what is asked.
      config: the dataclass of its options.
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
      group: ``group(cell)``, the same for cells whose programs are the same.
      in_full: ``in_full(argv) -> argv``, which writes out what may be left out, such as ``--name``
        before a name that stands first.
      shows: whether a cell that is measured in this process shows progress of its own.
      keeps: whether cells are kept; else they are measured in this process, anew each time.
      study: the name under which a folder keeps its cells.
    """

    name: str
    about: str
    config: Callable[..., Any]
    cells: Callable[[Any], Sequence[Any]]
    measure: Callable[[Any], Columns]
    judge: Callable[[Columns], Sequence[Criterion]]
    draw: Callable[[Columns], Any]
    table: Callable[[Columns], Any]
    apart: tuple[str, ...] = ()
    complete: Callable[[Columns], Columns] = lambda columns: columns
    also: Callable[[Columns], Mapping[str, Any]] = lambda columns: {}
    group: Callable[[Any], Hashable] | None = None
    in_full: Callable[[Sequence[str]], Sequence[str]] = list
    shows: bool = False
    keeps: bool = True
    study: str | None = None


# What a file may define, and what it must.
MUST = ("cells", "measure", "judge", "draw", "table")
MAY = ("complete", "also", "group", "in_full")


def experiment(module: ModuleType) -> Experiment:
    """Return the experiment that a module describes.

    It is named for its file. The module's docstring asks the question. It defines ``Config``, the
    dataclass of its options, and the functions ``cells``, ``measure``, ``judge``, ``draw`` and
    ``table`` of an ``Experiment``; if they are needed ``complete``, ``also``, ``group`` and
    ``in_full`` as well, and ``APART``, ``SHOWS`` and ``KEEPS``. Where ``lab.ensembles`` makes
    ``Config``, that brings all of them; what the module defines itself takes their place.

    Args:
      module: it was imported.

    Raises:
      WrongTypeError: ``Config`` is no subclass of ``lab.Options``.
      ValueError: something is missing; the message names it.

    Example:
      >>> from convjax import lab
      >>> try:
      ...     lab.experiment(lab)
      ... except ValueError as error:
      ...     print(str(error).partition("asks")[2])
       no question: it defines no Config, the options
    """
    file = inspect.getsourcefile(module)
    config: Any = getattr(module, "Config", None)
    if config is None:
        raise ValueError(f"{file!r} asks no question: it defines no Config, the options")
    _check_config(config)
    made = getattr(config, "defaults", dict)()
    given = {name: getattr(module, name) for name in (*MUST, *MAY) if hasattr(module, name)}
    functions: dict[str, Any] = made | given
    missing = [name for name in MUST if name not in functions]
    about = getattr(module, "__about__", module.__doc__) or ""
    if missing or not about.strip():
        what = f"no {' and no '.join(missing)}" if missing else "no docstring, the question"
        raise ValueError(f"{file!r} asks no question: it has {what}")
    apart = getattr(module, "APART", functions.pop("apart", ()))
    return Experiment(
        name=name_of(module.__name__),
        about=about,
        config=config,
        apart=apart,
        shows=getattr(module, "SHOWS", False),
        keeps=getattr(module, "KEEPS", True),
        study=f"{module.__name__}:measure",
        **functions,
    )


def _check_config(config: Any) -> None:
    """Refuse options that the command line could not read, or would read past."""
    right = "a frozen dataclass that subclasses lab.Options"
    if not (isinstance(config, type) and issubclass(config, CommandOptions)):
        _check.wrong_type("Config", config, right)
    if inspect.get_annotations(config) and "__dataclass_fields__" not in vars(config):
        raise ValueError(f"Config must be {right}: @dataclasses.dataclass(frozen=True) is missing")
    for field in dataclasses.fields(config):
        if field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"Config.{field.name} needs a default; it is what a plain run takes")


def name_of(module: str) -> str:
    """Return the name that a question has on the command line, of its module's."""
    return module.rpartition(".")[2].replace("_", "-")


def measure_all(experiment: Experiment, config: Any) -> Columns:
    """Measure every cell in this process, and keep nothing: for tests and notebooks.

    Args:
      experiment: whose cells.
      config: its options.

    Returns:
      The columns of all cells.

    Example:
      >>> from convjax import lab
      >>> def look(experiment):
      ...     columns = lab.measure_all(experiment, experiment.config(seeds=2))
      ...     return experiment.draw(columns)
    """
    parts = [experiment.measure(cell) for cell in experiment.cells(config)]
    return whole(experiment, joined(parts))


def whole(experiment: Experiment, columns: Columns) -> Columns:
    """Return the columns of all cells, complete.

    Raises:
      ValueError: there is no row, of which anything would hold.
    """
    if not columns or not all(map(len, columns.values())):
        raise ValueError(f"measure of {experiment.name} returned no row for any cell")
    return experiment.complete(columns)


def parts(columns: Columns, apart: Sequence[str]) -> list[tuple[str, Columns]]:
    """Return what is judged and shown apart, each with its name; "" where that is everything.

    Args:
      columns: of all cells.
      apart: names of those that part them.

    Example:
      >>> import numpy as np
      >>> from convjax import lab
      >>> [name for name, _ in lab.parts({"depth": np.array([8, 20, 8])}, ["depth"])]
      ['depth 8', 'depth 20']
    """
    if not apart:
        return [("", columns)]
    found = list(study.groups(columns, apart))
    if len(found) == 1:
        return [("", columns)]
    return [(", ".join(f"{k} {v}" for k, v in values.items()), part) for values, part in found]


def criteria(experiment: Experiment, columns: Columns) -> list[Criterion]:
    """Return the criteria of every part; each says which part it is of.

    Args:
      experiment: that judges.
      columns: of all cells.

    Example:
      >>> from convjax import lab
      >>> def holds(experiment, columns):
      ...     return all(criterion.holds for criterion in lab.criteria(experiment, columns))
    """
    return [
        dataclasses.replace(one, claim=f"{name}: {one.claim}" if name else one.claim)
        for name, part in parts(columns, experiment.apart)
        for one in _judged(experiment, part)
    ]


def _judged(experiment: Experiment, columns: Columns) -> Sequence[Criterion]:
    found: Any = experiment.judge(columns)
    several = isinstance(found, Sequence) and not isinstance(found, str)
    if not several or not all(isinstance(one, Criterion) for one in found):
        right = "it must return a list of criteria, as lab.within makes them"
        raise _check.WrongTypeError(f"judge returned {_check.shown(found)}; {right}")
    return found
