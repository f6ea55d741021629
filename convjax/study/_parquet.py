"""Tables as Parquet files."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convjax._check import existing_file
from convjax.study._files import put

KEY = b"convjax"


def write_parquet(
    path: str | os.PathLike, columns: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> None:
    """Write a table; whatever happens, the file is either the old one or the new one, whole.

    Args:
      path: the file.
      columns: equally long columns of numbers, truth values or text.
      metadata: what JSON can hold; kept in the file under the key ``convjax``.

    Raises:
      ValueError: columns of different lengths.

    Example:
      >>> import tempfile, numpy as np
      >>> from convjax import study
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     study.write_parquet(f"{folder}/a.parquet", {"l": np.arange(3)}, {"seed": 0})
      ...     columns, metadata = study.read_parquet(f"{folder}/a.parquet")
      >>> columns["l"].tolist(), metadata
      ([0, 1, 2], {'seed': 0})
    """
    put(Path(path), encode(columns, metadata), again=True)


def encode(columns: Mapping[str, Any], metadata: Mapping[str, Any]) -> bytes:
    """Return the file that ``write_parquet`` writes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {name: np.asarray(column) for name, column in columns.items()}
    for name, array in arrays.items():
        if not array.ndim:
            raise ValueError(f"column {name!r} must be an array, not the single value {array}")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns must be equally long, not {lengths}")
    table = pa.table({name: _arrow(array) for name, array in arrays.items()})
    file = io.BytesIO()
    # Arrow's own schema and the statistics would be most of a small file, and say nothing more.
    with pq.ParquetWriter(file, table.schema, store_schema=False, write_statistics=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY: json.dumps(metadata).encode()})
    return file.getvalue()


def _arrow(array: np.ndarray) -> Any:
    """Return a column of Arrow's: of whole numbers, floats, truth values or text, 64 bits wide."""
    import pyarrow as pa

    wide = {"b": pa.bool_(), "i": pa.int64(), "u": pa.int64(), "f": pa.float64(), "U": pa.string()}
    if array.ndim > 1 or array.dtype.kind not in wide:
        return pa.array(array.tolist())
    return pa.array(array, wide[array.dtype.kind])


def read_parquet(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the columns and the metadata of a table.

    Args:
      path: the file, as ``write_parquet`` wrote it.

    Returns:
      The columns as arrays, and the metadata.

    Raises:
      FileNotFoundError: no such file; and a ValueError.

    Example:
      >>> from convjax import study
      >>> study.read_parquet("missing.parquet")
      Traceback (most recent call last):
      convjax._check.MissingFileError: path='missing.parquet' does not exist
    """
    table = read_table(existing_file("path", path))
    return as_columns(table), json.loads((table.schema.metadata or {}).get(KEY, b"{}"))


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.ParquetFile(pa.BufferReader(Path(path).read_bytes()), pre_buffer=False)


def _numpy(column: Any) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_string(column.type) and not column.null_count:
        return np.asarray(column.to_pylist(), str)
    if pa.types.is_primitive(column.type) and not column.null_count:
        return np.array(column.to_numpy())
    return np.asarray(column.to_pylist())
