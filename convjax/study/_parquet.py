"""Tables on disk, as Parquet, replaced whole or not at all."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

KEY = b"convjax"


def check_writable(folder: str | os.PathLike) -> Path:
    """Make a folder if it is not there, and write a file in it and remove it, before hours of work.

    Args:
      folder: where results shall go.

    Returns:
      The folder.

    Raises:
      ValueError: it cannot be made or written to; the message says why.

    Example:
      >>> import tempfile
      >>> from convjax import study
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     study.check_writable(f"{folder}/results").name
      'results'
    """
    folder = Path(folder)
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"probe")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write into {str(folder)!r}: {error.strerror}") from error
    return folder


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
    with _replacing(Path(path)) as file:
        encode(columns, metadata, file)


def encode(columns: Mapping[str, np.ndarray], metadata: Mapping[str, Any], file: Any) -> None:
    """Write a table into a file that is open; otherwise as ``write_parquet``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns must be equally long, not {lengths}")
    table = pa.table({name: pa.array(np.asarray(c).tolist()) for name, c in columns.items()})
    table = table.replace_schema_metadata({KEY: json.dumps(metadata).encode()})
    pq.write_table(table, file)


def read_parquet(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the columns and the metadata of a table.

    Args:
      path: the file, as ``write_parquet`` wrote it.

    Returns:
      The columns as arrays, and the metadata.

    Example:
      >>> from convjax import study
      >>> study.read_parquet("missing.parquet")
      Traceback (most recent call last):
      FileNotFoundError: missing.parquet
    """
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    columns = {name: np.asarray(table[name].to_pylist()) for name in table.column_names}
    return columns, json.loads((table.schema.metadata or {}).get(KEY, b"{}"))


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """Open a file beside ``path`` that takes its place once it is wholly on the disk."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
