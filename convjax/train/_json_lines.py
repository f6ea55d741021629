"""Metrics as JSON lines: whole lines on the disk, and none of steps that a resumed run repeats."""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from convjax import _check
from convjax.train._observe import Pace, Row, check_begin, check_record

# What JSON has no numbers for; these words are those of Protocol Buffers' JSON form.
WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class JsonLines:
    """Keeps the rows of a run as JSON, one a line; an observer.

    Numbers come back to the bit; what is not finite is written as ``"NaN"``, ``"Infinity"`` or
    ``"-Infinity"``, since JSON has no number for it, and comes back as one. The last row of a
    dispatch says under ``time`` when it was written (seconds since 1970) and, where known, the
    images a second: of two runs that agree, this key alone differs.

    Before a resumed run goes on, ``begin`` removes the rows that it will write again and a line
    that was cut short; the file is then replaced as a whole, so a process that is killed leaves
    either the old one or the new one. Rows are handed to the system after every dispatch, and so
    outlive the process; ``flush`` returns when they are on the disk and outlive the machine.

    Args:
      path: the file; its folder is made.

    Raises:
      ValueError: a folder, a pipe, or a path below a file; in ``begin``, a file that holds
        something else than rows.

    Example:
      >>> import tempfile
      >>> from convjax import train
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     lines = train.JsonLines(f"{folder}/metrics.jsonl")
      ...     lines.begin(0, 1, 128)
      ...     lines.record([{"kind": "train", "step": 0, "loss": 2.5}], train.Pace(1e3, 0.0))
      ...     lines.end()
      ...     rows = train.read_rows(lines.path)
      >>> rows[0]["loss"], rows[0]["time"]["images_per_second"]
      (2.5, 1000.0)
    """

    def __init__(self, path: str | os.PathLike):
        self.path = _check.place("path", path)
        if self.path.exists() and not self.path.is_file():  # a folder, a pipe, a device
            raise ValueError(f"path={str(path)!r} is there already and is no regular file")
        self._file: BinaryIO | None = None

    def begin(self, first: int, stop: int, batch_size: int) -> None:
        """Keep what lies before step ``first``, and open the file."""
        check_begin(first, stop, batch_size)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            _keep_before(first, self.path)
        self._file = open(self.path, "ab")  # noqa: SIM115 (open as long as the run)

    def record(self, rows: Sequence[Row], pace: Pace) -> None:
        """Append whole lines, and hand them to the system."""
        check_record(rows, pace)
        if self._file is None:
            raise ValueError(f"{str(self.path)!r} is not open: call begin before record")
        if not rows:
            return
        timed = {"at": round(time.time(), 3)}
        if math.isfinite(pace.images_per_second):
            timed["images_per_second"] = pace.images_per_second
        lines = [*map(_line, rows[:-1]), _line({**rows[-1], "time": timed})]
        with _named(self.path):
            self._file.write("".join(lines).encode())
            self._file.flush()

    def flush(self) -> None:
        """Return when all that was recorded is on the disk."""
        if self._file is not None:
            with _named(self.path):
                os.fsync(self._file.fileno())

    def end(self) -> None:
        """Bring everything to the disk and close the file."""
        if self._file is not None:
            file, self._file = self._file, None
            with _named(self.path), file:
                os.fsync(file.fileno())


def read_rows(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Return the rows that ``JsonLines`` wrote, also while it still writes.

    Args:
      path: the file; a line cut short at its end is passed over.

    Returns:
      One dict for each row, in the order of writing.

    Raises:
      MissingFileError: no such file; this is a FileNotFoundError.
      ValueError: a line that is not a row; the message says which.

    Example:
      >>> from convjax import train
      >>> train.read_rows("missing.jsonl")
      Traceback (most recent call last):
      convjax._check.MissingFileError: path='missing.jsonl' does not exist
    """
    return [_from_json(row) for _, row in _lines(_check.existing_file("path", path))]


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have what the system says of a file, such as that its disk is full, name the file."""
    try:
        yield
    except OSError as error:
        said = f"{error.strerror}: rows of metrics cannot be written"
        raise OSError(error.errno, said, str(path)) from error


def _keep_before(first: int, path: Path) -> None:
    """Remove what a run from step ``first`` writes again, and a line cut short."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        with open(beside, "wb") as file:
            for line, row in _lines(path):
                # A test of step s comes before the checkpoint of step s, a step s after it. At
                # step 0 nothing has been kept that could follow from a checkpoint.
                if first and row["step"] < first + (row["kind"] == "test"):
                    file.write(line)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield every whole line and what it says; a file of something else is refused."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            row = _row(line)
            if row is not None:
                yield line if line.endswith(b"\n") else line + b"\n", row
            elif line.endswith(b"\n") or not _cut_short(line):
                raise ValueError(
                    f"{str(path)!r}, line {number}, is not a row of metrics: {line[:60]!r}; move "
                    "the file away, or give a folder of its own to the run"
                )


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # of the text's encoding as well
        return None
    known = isinstance(row, dict) and isinstance(row.get("kind"), str)
    return row if known and type(row.get("step")) is int else None


def _cut_short(line: bytes) -> bool:
    """Tell whether a last line may be the beginning of a row; lost blocks read as zeros."""
    rest = line.rstrip(b"\0")
    return not rest or rest == b"{" or rest.startswith(b'{"')


def _line(row: Row) -> str:
    try:
        return json.dumps(row, allow_nan=False, default=_plain) + "\n"
    except ValueError:
        return json.dumps(_to_json(row), allow_nan=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    _check.wrong_type("a row's entry", value, "what JSON can hold")


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _to_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _from_json(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_from_json(inner) for inner in value]
    return WORDS.get(value, value) if isinstance(value, str) else value
