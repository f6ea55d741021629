"""load: every cell of a study in one tidy table."""

import collections
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from convjax import _check
from convjax.study._cells import as_text, cell, check_keys, common, joined, keys_of
from convjax.study._parquet import arrow
from convjax.study._store import read_name

# What every cell has beside its configuration and what it measured: the columns before, and behind.
_FIRST = {"cell": "string", "version": "string"}
_LAST = {"seconds": "double", "host": "string", "error": "string", "traceback": "string"}


def load(folder: str | os.PathLike, keys: Sequence[str] | None = None) -> Any:
    """Return the cells of a study as one tidy table, whatever version of the code measured them.

    Args:
      folder: of the study.
      keys: which cells, in this order; without them all, in the order of their keys.

    Returns:
      A ``pyarrow.Table``, which ``polars.from_arrow`` takes and ``to_pandas`` hands on. A finished
      cell has the rows that it measured. A failed one has one row, with its configuration and the
      error, and nothing measured. The columns are

      - ``cell``, its key, and ``version``, of the code that measured it;
      - the fields of the configuration, those of dataclasses inside it by their own names; where
        two have one name, by the path to them, such as ``first.width``;
      - what was measured, which stands in the place of a field of the same name;
      - ``seconds`` that the cell took, and ``host``, where; ``error`` and ``traceback``, null
        where it is finished.

      A field or column that is called like one of these six has an underscore behind its name.
      What a cell lacks that another has is null. Where whole numbers meet floats the column is of
      floats; where types have nothing in common, such as numbers and text, it is text.

    Raises:
      WrongTypeError: an argument of a wrong type.
      MissingFileError: a folder that is not there or no study, or has not the cells asked for.
      MissingPackageError: pyarrow is not installed.
      ValueError: no cell at all; a file among the cells that is damaged, or no cell.

    Example:
      >>> import tempfile, numpy as np
      >>> from convjax import study
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     ran = study.run(lambda c: {"x": np.arange(c["n"])}, [{"n": 2}], folder, version="1")
      ...     table = study.load(folder)
      >>> table.select(["n", "x", "error"]).to_pylist()
      [{'n': 2, 'x': 0, 'error': None}, {'n': 2, 'x': 1, 'error': None}]
    """
    folder, pa = _check.path("folder", folder), arrow()
    if read_name(folder) is None:
        why = "it has no study.json" if folder.is_dir() else "there is no such folder"
        raise _check.MissingFileError(f"folder={str(folder)!r} is not the folder of a study: {why}")
    keys = keys_of(folder) if keys is None else check_keys(keys)
    if not keys:
        raise ValueError(f"there is no cell to load from the study in {str(folder)!r}")
    cells = [cell(folder, one) for one in keys]
    said = [about for _, about in cells]
    failed = np.array(["error" in about for about in said])
    tables = [table for table, about in cells if "error" not in about]
    rows = [1 if "error" in about else table.num_rows for table, about in cells]
    which = pa.array(np.repeat(np.arange(len(cells)), rows))

    def told(name: str, kind: str) -> Any:
        return pa.array([about.get(name) for about in said], kind).take(which)

    columns = {name: told(name, kind) for name, kind in _FIRST.items()}
    columns |= {name: column.take(which) for name, column in _fields(said).items()}
    having = collections.Counter(name for table in tables for name in table.column_names)
    for name, column in _measured(tables, np.repeat(failed, rows)).items():
        free = _free(name)
        field = columns.get(free) if having[name] < len(cells) else None
        columns[free] = column if field is None else _filled(column, field)
    return pa.table(columns | {name: told(name, kind) for name, kind in _LAST.items()})


def _fields(said: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the fields of the configurations, a value for each cell."""
    configs = [_flat(one["config"]) for one in said]
    names = dict.fromkeys(name for config in configs for name in config)
    return {name: _column([config.get(name) for config in configs]) for name in names}


def _flat(config: Any) -> dict[str, Any]:
    """Return a configuration's values by the last part of their paths, or the whole if need be."""
    leaves = dict(_leaves(config, ())) if isinstance(config, dict) else {("config",): config}
    count = collections.Counter(path[-1] for path in leaves)
    return {
        _free(path[-1] if count[path[-1]] == 1 else ".".join(path)): value
        for path, value in leaves.items()
    }


def _leaves(config: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _free(name: str) -> str:
    return f"{name}_" if name in _FIRST or name in _LAST else name


def _column(values: list[Any]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return as_text(values)


def _measured(tables: Sequence[Any], failed: np.ndarray) -> dict[str, Any]:
    """Return what was measured, null in the rows that are ``failed``."""
    import pyarrow as pa

    if not tables:
        return {}
    table = joined(tables)
    if failed.any():
        table = table.take(pa.array(np.cumsum(~failed) - 1, mask=failed))
    return {name: table[name] for name in table.column_names}


def _filled(measured: Any, field: Any) -> Any:
    """Return a measured column with the configuration's field where it is null, if that fits."""
    import pyarrow as pa
    from pyarrow.compute import call_function

    if not common({measured.type, field.type}):
        return measured
    both = joined([pa.table({"": measured}), pa.table({"": field})])[""]
    return call_function("coalesce", [both[: len(measured)], both[len(measured) :]])
