"""Tables as Parquet files."""

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convjax import _check
from convjax.study._files import put

KEY = b"convjax"
# The file's own digest, beside what is said of it; hashed with zeros in its place.
DIGEST = b"convjax.sha256"
_BLANK = b"0" * 64
_SEAL = re.compile(re.escape(DIGEST) + rb".{1,8}?([0-9a-f]{64})", re.DOTALL)


def write_parquet(
    path: str | os.PathLike, columns: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> None:
    """Write a table; whatever happens, the file is either the old one or the new one, whole.

    Args:
      path: the file.
      columns: equally long columns of numbers, truth values or text.
      metadata: what JSON can hold; kept in the file under the key ``convjax``.

    Raises:
      WrongTypeError: an argument of a wrong type, metadata that JSON cannot hold among them.
      MissingFileError: the folder is not there.
      MissingPackageError: pyarrow is not installed.
      ValueError: columns of different lengths, or that no table can hold; a folder as the file.

    Example:
      >>> import tempfile, numpy as np
      >>> from convjax import study
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     study.write_parquet(f"{folder}/a.parquet", {"l": np.arange(3)}, {"seed": 0})
      ...     columns, metadata = study.read_parquet(f"{folder}/a.parquet")
      >>> columns["l"].tolist(), metadata
      ([0, 1, 2], {'seed': 0})
    """
    path = _check.path("path", path)
    _check.instance("metadata", metadata, Mapping, "a dictionary that JSON can hold")
    content = encode(columns, metadata)
    _check.existing_folder("the folder of path", path.parent)
    if path.is_dir():
        raise ValueError(f"path={str(path)!r} is a folder; it must be a file")
    put(path, content, again=True)


def arrow() -> Any:
    """Return pyarrow.

    Raises:
      MissingPackageError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise _check.MissingPackageError(
            "tables need pyarrow, which is missing: pip install 'convjax[lab]'"
        ) from error
    return pyarrow


def encode(columns: Mapping[str, Any], metadata: Mapping[str, Any]) -> bytes:
    """Return the file that ``write_parquet`` writes."""
    pa = arrow()
    _check.instance("columns", columns, Mapping, "arrays by name")
    _check.strings("the names of columns", list(columns))
    try:
        said = json.dumps(metadata).encode()
    except (TypeError, ValueError, RecursionError) as error:
        words = f"a dictionary that JSON can hold ({error})"
        _check.wrong_type("metadata", metadata, words)
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    for name, array in arrays.items():
        if not array.ndim:
            raise ValueError(f"column {name!r} must be an array, not the single value {array}")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns must be equally long, not {lengths}")
    table = pa.table({name: _arrow(name, array) for name, array in arrays.items()})
    file = io.BytesIO()
    # Arrow's own schema and the statistics would be most of a small file, and say nothing more.
    with pa.parquet.ParquetWriter(
        file, table.schema, store_schema=False, write_statistics=False
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY: said, DIGEST: _BLANK})
    return _sealed(file.getvalue())


def _sealed(content: bytes) -> bytes:
    """Put in the place of the blank digest that of the file as it is with the blank."""
    place = content.rindex(DIGEST) + content[content.rindex(DIGEST) :].index(_BLANK)
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[:place] + digest + content[place + len(_BLANK) :]


def check_whole(content: bytes) -> None:
    """Refuse a file of which one bit is not as it was written.

    Files of other programs, and of convjax before 0.7, have no digest, and are taken as they are.

    Raises:
      ValueError: the file is damaged.
    """
    if not (content.startswith(b"PAR1") and content.endswith(b"PAR1")):
        raise ValueError("the file is damaged: it is not whole")
    # What is said of a table stands at its end, behind all that it holds.
    found = _SEAL.search(content, max(content.rfind(DIGEST), 0))
    if found is None:
        return
    blank = content[: found.start(1)] + _BLANK + content[found.end(1) :]
    if hashlib.sha256(blank).hexdigest().encode() != found[1]:
        raise ValueError("the file is damaged: it is not, to the bit, what was written")


def _arrow(name: str, array: np.ndarray) -> Any:
    """Return a column of Arrow's: of whole numbers, floats, truth values or text, 64 bits wide."""
    import pyarrow as pa

    wide = {"b": pa.bool_(), "i": pa.int64(), "u": pa.int64(), "f": pa.float64(), "U": pa.string()}
    try:
        if array.ndim > 1 or array.dtype.kind not in wide:
            return pa.array(array.tolist())
        return pa.array(array, wide[array.dtype.kind])
    except (pa.ArrowException, OverflowError, TypeError, UnicodeError) as error:
        why = " ".join(str(error).split())
        given = _check.shown(array)
        raise ValueError(f"column {name!r}={given} fits no table: {why}") from error


def read_parquet(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the columns and the metadata of a table.

    Args:
      path: the file, as ``write_parquet`` wrote it.

    Returns:
      The columns as arrays, and the metadata.

    Raises:
      WrongTypeError: no path.
      MissingFileError: there is no such file.
      MissingPackageError: pyarrow is not installed.
      ValueError: it is damaged, to a single bit, or no Parquet file.

    Example:
      >>> from convjax import study
      >>> study.read_parquet("missing.parquet")
      Traceback (most recent call last):
      convjax._check.MissingFileError: path='missing.parquet' does not exist
    """
    path = _check.existing_file("path", path)
    arrow()
    try:
        table = read_table(path)
        return as_columns(table), json.loads((table.schema.metadata or {}).get(KEY, b"{}"))
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged file makes its reader raise
        why = " ".join(str(error).split())
        raise ValueError(f"path={str(path)!r} cannot be read as a table: {why}") from error


def read_table(path: str | os.PathLike) -> Any:
    """Return a file as a table of Arrow's; for small ones several times as fast as its own way."""
    return _opened(path).read(use_threads=False)


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """Return the metadata of a table, and read nothing else."""
    return json.loads((_opened(path).metadata.metadata or {}).get(KEY, b"{}"))


def as_columns(table: Any) -> dict[str, np.ndarray]:
    """Return a table of Arrow's as columns: ``write_parquet``'s, back."""
    return {name: _numpy(table[name]) for name in table.column_names}


def _opened(path: str | os.PathLike) -> Any:
    pa = arrow()
    content = Path(path).read_bytes()
    # Before anything else looks at it: what a damaged file makes a reader do is anyone's guess.
    check_whole(content)
    return pa.parquet.ParquetFile(pa.BufferReader(content), pre_buffer=False)


def _numpy(column: Any) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_string(column.type) and not column.null_count:
        return np.asarray(column.to_pylist(), str)
    if pa.types.is_primitive(column.type) and not column.null_count:
        return np.array(column.to_numpy())
    return np.asarray(column.to_pylist())
