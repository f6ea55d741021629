"""The files of a study's cells, read; and their tables, put together."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from convjax import _check
from convjax.study._parquet import KEY, check_whole, read_table


def entries(folder: Path) -> set[str]:
    """Return the names of the files in a folder, those alone that are not being written."""
    try:
        return {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    except FileNotFoundError:
        return set()


def keys_of(folder: Path) -> list[str]:
    """Return the keys of all cells; every file counts, so that none is overlooked in silence."""
    names = entries(folder / "cells") | entries(folder / "failed")
    return sorted(name.removesuffix(".parquet") for name in names)


def check_keys(keys: Any) -> tuple[str, ...]:
    """Return the keys of cells as a tuple."""
    found = _check.strings("keys", keys)
    for i, one in enumerate(found):
        if "\0" in one or "/" in one:
            raise ValueError(f"keys[{i}]={_check.shown(one)} is not the key of a cell")
    return found


def damaged(path: Path) -> bool:
    """Tell whether a file is there and is not, to the bit, what was written."""
    try:
        check_whole(path.read_bytes())
    except FileNotFoundError:
        return False
    except (ValueError, OSError):
        return True
    return False


def cell(folder: Path, key: str) -> tuple[Any, dict[str, Any]]:
    """Return what a cell measured and what is said of it, with the error if it failed.

    Raises:
      MissingFileError: no such cell.
      ValueError: a file that is none.
    """
    # The row of a failure goes as soon as the cell's result is there.
    for place in ("cells", "failed", "cells"):
        path = folder / place / f"{key}.parquet"
        try:
            table = whole(path, read_table)
        except FileNotFoundError:
            continue
        said = json.loads((table.schema.metadata or {}).get(KEY, b"{}"))
        if said.get("cell") != key:
            raise ValueError(f"{str(path)!r} is no cell of this study; take it out of the folder")
        table = table.replace_schema_metadata(None)
        return table, said | (table.to_pylist()[0] if place == "failed" else {})
    if (path := folder / "cells" / key).exists():
        raise ValueError(f"{str(path)!r} is no cell of this study; take it out of the folder")
    raise _check.MissingFileError(f"the study in {str(folder)!r} has no cell {key!r}")


def whole(path: Path, read: Callable[[Path], Any]) -> Any:
    """Read a file, or say in one sentence that it is damaged."""
    try:
        return read(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged file makes its reader raise
        why = " ".join(str(error).split())
        raise ValueError(
            f"{str(path)!r} cannot be read as a cell ({why}); run the study again: what is damaged "
            "is put aside, and its cell measured again"
        ) from error


def joined(tables: Sequence[Any]) -> Any:
    """Return tables of Arrow's end to end; columns without a common type become text."""
    import pyarrow as pa

    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        types: dict[str, set[Any]] = {}
        for one in {table.schema for table in tables}:
            for field in one:
                types.setdefault(field.name, set()).add(field.type)
        text = {name for name, those in types.items() if not common(those)}
        tables = [_with_text(table, text) for table in tables]
        table = pa.concat_tables(tables, promote_options="permissive")
    return table.combine_chunks()


def common(types: set[Any]) -> bool:
    """Tell whether one type holds what these do."""
    import pyarrow as pa

    schemas = [pa.schema([("", one)]) for one in types]
    try:
        return bool(pa.unify_schemas(schemas, promote_options="permissive"))
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return False


def as_text(values: Sequence[Any]) -> Any:
    """Return values as a column of text: text as it is, anything else as JSON writes it."""
    import pyarrow as pa

    written = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
    return pa.array(written, pa.string())


def _with_text(table: Any, names: set[str]) -> Any:
    for i, name in enumerate(table.column_names):
        if name in names:
            table = table.set_column(i, name, as_text(table[name].to_pylist()))
    return table
