"""What there is to report of: the tables of experiments, and studies that have none yet."""

import ast
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from convjax import study
from convjax.lab._columns import Columns
from convjax.lab._experiment import Experiment, name_of
from convjax.lab._experiment import experiment as experiment_of
from convjax.lab._find import at, imported, name_of_file, questions

LEVELS = 2
# Failed cells of one study that are listed; more have mostly failed alike.
LISTED = 20
# What a table says of itself, where it says so.
KINDS: dict[str, type | tuple[type, ...]] = {
    "experiment": str,
    "about": str,
    "criteria": list,
    "command": str,
    "cells": int,
    "seconds": (int, float),
    "environments": list,
    "environment": dict,
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """The table of an experiment."""

    path: Path
    columns: Columns
    about: dict[str, Any]  # what the file says of the numbers
    experiment: Experiment | None  # shows them; None where this version has no such experiment
    why: str = ""  # there is none, where that is known

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.about["experiment"])

    @property
    def criteria(self) -> list[Any]:
        """The claims and their verdicts."""
        return self.about.get("criteria", [])

    @property
    def failing(self) -> list[dict[str, Any]]:
        """The claims that do not hold."""
        return [one for one in self.criteria if not one.get("holds")]

    @property
    def command(self) -> str:
        """What makes it again."""
        return self.about.get("command") or f"python -m experiments {self.name}"

    @property
    def environments(self) -> list[Any]:
        """By what it was measured; earlier versions wrote one environment."""
        alone = [self.about["environment"]] if "environment" in self.about else []
        return self.about.get("environments", alone)


class Unfinished(NamedTuple):
    """A study whose cells are not all in a table yet, or of which some failed."""

    folder: Path
    name: str  # the experiment's, or the measuring function's
    finished: int  # cells
    failed: int
    failures: list[tuple[str, str, str]]  # of the first: configuration, error, where it arose
    joined: bool  # whether there is a table, of other cells or of earlier ones


class Found(NamedTuple):
    """All that was found."""

    folder: Path
    measured: list[Measured]  # in the order in which the experiments are listed, then by path
    unfinished: list[Unfinished]  # by folder
    left_out: list[tuple[Path, str]]  # what is no table, or cannot be read, with the reason


def search(folder: Path) -> Found:
    """Return what is in a folder and in the folders inside, two levels down.

    Raises:
      ValueError: there is no such folder, or nothing is in it.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}; give the results of an experiment")
    left_out: list[tuple[Path, str]] = []
    folders = list(_folders(folder, LEVELS, left_out))
    measured: list[Measured] = []
    files = known()
    for path in (path for one in folders for path in sorted(one.glob("*.parquet"))):
        one = _measured(path, files)
        left_out.append((path, one)) if isinstance(one, str) else measured.append(one)
    order = list(files)
    measured.sort(key=lambda m: order.index(m.name) if m.name in order else len(order))
    unfinished = [one for place in folders if (one := _unfinished(place, measured))]
    if not measured and not unfinished and not left_out:
        raise ValueError(
            f"nothing to report in {str(folder)!r}: no table of an experiment and no study is "
            "there, nor two levels down; convjax run FILE.py makes one"
        )
    return Found(folder, measured, unfinished, left_out)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _measured(path: Path, files: Mapping[str, Path]) -> Measured | str:
    """Return the table of an experiment, or why there is none to report."""
    try:
        columns, about = study.read_parquet(path)
    except Exception as error:  # whatever is wrong with it, the others are reported
        return _why(error)
    if not isinstance(about, dict) or "experiment" not in about:
        return "a table, but not of an experiment"
    found, why = None, ""
    try:
        found = experiment(str(about["experiment"]), files)
    except Exception as error:  # its claims are shown, and no figure
        why = _why(error)
    made = Measured(path, columns, about, found, why)
    for what, said in _odd(made):
        return f"it says of its {what} what no experiment says: {said!r:.60}"
    return made


def _odd(made: Measured) -> Iterator[tuple[str, Any]]:
    """Yield what a table says of itself and cannot mean."""
    for name, kind in KINDS.items():
        if name in made.about and not isinstance(made.about[name], kind):
            yield name, made.about[name]
    for name, entries in (("criteria", made.criteria), ("environments", made.environments)):
        if not all(isinstance(entry, dict) for entry in entries):
            yield name, entries
    for entry in made.environments:
        hosts, cells = entry.get("hosts", []), entry.get("cells", 0)
        if not (isinstance(hosts, list) and all(isinstance(host, str) for host in hosts)):
            yield "machines", hosts
        if not isinstance(cells, int):
            yield "cells", cells


def experiment(name: str, files: Mapping[str, Path]) -> Experiment | None:
    """Return the experiment of this name, or None where none of the files asks it.

    Raises:
      Exception: whatever the file raises that asks it.
    """
    if name in files:
        return experiment_of(imported(files[name]))
    beside = Path(f"{name.replace('-', '_')}.py")
    if beside.name == str(beside) and beside.is_file():
        ast.parse(beside.read_bytes())  # a mistake in it hides what it asks
    return None


def known() -> dict[str, Path]:
    """Return the files of all questions that may be asked here: this folder's, the repository's.

    What a table says of its own file is not believed: it might have come from anywhere.
    """
    folders = [Path.cwd(), *at("experiments"), *at("convjax.lab")]
    places = [path for folder in folders for path, _ in questions(folder).values()]
    return {name_of_file(path): path for path in places}


def _folders(folder: Path, levels: int, left_out: list[tuple[Path, str]]) -> Iterator[Path]:
    try:
        places = sorted(folder.iterdir())
    except OSError as error:
        left_out.append((folder, f"a folder that cannot be read: {error.strerror}"))
        return
    yield folder
    if not levels:
        return
    # The cells of a study are thousands of files, and their table holds them all.
    cells = ("cells", "failed") if (folder / "study.json").exists() else ()
    for inside in places:
        hidden = inside.name.startswith(".") or inside.name in cells
        if inside.is_dir() and not hidden:
            yield from _folders(inside, levels - 1, left_out)


def _unfinished(folder: Path, measured: list[Measured]) -> Unfinished | None:
    try:
        of = json.loads((folder / "study.json").read_text(encoding="utf-8"))["study"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    finished, failed = (sorted((folder / d).glob("*.parquet")) for d in ("cells", "failed"))
    joined = any(one.path.parent == folder for one in measured)
    if joined and not failed:
        return None
    name, failures = name_of(str(of).partition(":")[0]), [*map(_failure, failed[:LISTED])]
    return Unfinished(folder, name, len(finished), len(failed), failures, joined)


def _failure(path: Path) -> tuple[str, str, str]:
    try:
        columns, about = study.read_parquet(path)
        config = json.dumps(about.get("config", {}), ensure_ascii=False)
        return config, str(columns["error"][0]), str(columns["traceback"][0])
    except Exception as error:  # a file that is damaged is a failure as well
        return path.name, f"{type(error).__name__}: {error}", ""
