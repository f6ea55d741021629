"""results: what the cells of a study measured, as columns; and what they were measured by."""

import collections
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convjax import _check
from convjax.study._cells import check_keys, damaged, entries, joined, whole
from convjax.study._files import check_place
from convjax.study._parquet import arrow, as_columns, read_metadata, read_table
from convjax.study._run import keyed, name_of
from convjax.study._store import check_study, read_name


def results(folder: str | os.PathLike, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return what cells measured, end to end.

    Args:
      folder: of the study.
      keys: of finished cells, as ``study.run`` returns them; in this order.

    Returns:
      Their columns, those alone that the function returned.

    Raises:
      WrongTypeError: an argument of a wrong type.
      MissingFileError: a cell without a result.
      ValueError: a file that is damaged, or cells of different columns.

    Example:
      >>> import tempfile, numpy as np
      >>> from convjax import study
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     ran = study.run(lambda c: {"x": np.arange(c["n"])}, [{"n": 2}], folder, version="1")
      ...     study.results(folder, ran.keys)["x"].tolist()
      [0, 1]
    """
    folder, keys = _check.path("folder", folder), check_keys(keys)
    arrow()
    tables = [_result(folder, one, read_table) for one in keys]
    for one, table in zip(keys, tables, strict=True):
        if set(table.column_names) != set(tables[0].column_names):
            raise ValueError(
                f"the cells {keys[0]} and {one} measured different columns, "
                f"{_listed(tables[0].column_names)} and {_listed(table.column_names)}; "
                "study.load takes them together"
            )
    return as_columns(joined(tables)) if tables else {}


def about(folder: str | os.PathLike, keys: Sequence[str]) -> dict[str, Any]:
    """Return what finished cells were measured by.

    Args:
      folder: of the study.
      keys: of finished cells.

    Returns:
      What JSON can hold: ``"cells"``, how many; ``"seconds"`` that they took in all;
      ``"environments"``, one dictionary as of ``study.environment`` for each that differs in more
      than the time, with ``"cells"`` and ``"hosts"``.

    Raises:
      WrongTypeError: an argument of a wrong type.
      MissingFileError: a cell without a result.
      ValueError: a file that is damaged.

    Example:
      >>> import tempfile, numpy as np
      >>> from convjax import study
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     ran = study.run(lambda c: {"x": np.arange(c["n"])}, [{"n": 2}], folder, version="1")
      ...     sorted(study.about(folder, ran.keys))
      ['cells', 'environments', 'seconds']
    """
    folder, keys = _check.path("folder", folder), check_keys(keys)
    arrow()
    found: dict[str, dict[str, Any]] = {}
    hosts: dict[str, set[str]] = collections.defaultdict(set)
    seconds = 0.0
    for one in keys:
        said = _result(folder, one, read_metadata)
        seconds += said["seconds"]
        here = str({name: value for name, value in said["environment"].items() if name != "time"})
        found.setdefault(here, {**said["environment"], "cells": 0})["cells"] += 1
        hosts[here].add(said["host"])
    environments = [{**one, "hosts": sorted(hosts[here])} for here, one in found.items()]
    return {"cells": len(keys), "seconds": seconds, "environments": environments}


def states(
    function: Callable[[Any], Any],
    configs: Sequence[Any],
    folder: str | os.PathLike,
    version: str | None = None,
    *,
    name: str | None = None,
) -> list[str]:
    """Return how each cell stands, refuse what ``study.run`` would refuse, and write nothing.

    Args:
      function: that measures.
      configs: the cells.
      folder: of the study; it need not be there.
      version: as of ``study.run``.
      name: as of ``study.run``.

    Returns:
      For each cell "finished", "failed" or "to do". A cell whose file is damaged is to do again.

    Raises:
      WrongTypeError: an argument of a wrong type.
      MissingPackageError: pyarrow is not installed.
      ValueError: no cell, one cell twice, a folder of another study, or one that this process may
        not write to.

    Example:
      >>> from convjax import study
      >>> study.states(print, [{"depth": 8}, {"depth": 20}], "nowhere", version="1")
      ['to do', 'to do']
    """
    folder = _check.path("folder", folder)
    arrow()
    names = [f"{one}.parquet" for one in keyed(function, configs, version)]
    check_place(folder)
    check_study(folder, read_name(folder), name_of(function, name))
    cells, failed = entries(folder / "cells"), entries(folder / "failed")

    def stands(name: str) -> str:
        if name in cells and not damaged(folder / "cells" / name):
            return "finished"
        if name in failed and not damaged(folder / "failed" / name):
            return "failed"
        return "to do"

    return [stands(name) for name in names]


def _result(folder: str | os.PathLike, one: str, read: Callable[[Path], Any]) -> Any:
    try:
        return whole(Path(folder) / "cells" / f"{one}.parquet", read)
    except FileNotFoundError:
        raise _check.MissingFileError(
            f"the study in {str(folder)!r} has no result of the cell {one}"
        ) from None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)) or "none"
