"""Metrics for TensorBoard: what tensorboardX frames, written before the next dispatch."""

import math
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from convjax import _check
from convjax.train._observe import Pace, Row, check_begin, check_record


class TensorBoard:
    """Writes every number of a run where TensorBoard finds it; an observer.

    Training and testing are two runs in TensorBoard, ``train`` and ``test``, so that the same
    number of both stands in one chart. A layer's number has the tag ``gradient/stage2/3``: the
    quantity first. Of a resumed run TensorBoard drops what the steps repeated now wrote before.
    Events are written by the calling thread and handed to the system after every dispatch: what a
    checkpoint follows from is there, even if the process is killed.

    Args:
      folder: where the two runs' folders go.

    Raises:
      MissingPackageError: tensorboardX is not installed; this is an ImportError.
      ValueError: a folder that is a file, or lies below one.

    Example:
      >>> import tempfile
      >>> from convjax import train
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     board = train.TensorBoard(folder)
      ...     board.begin(0, 1, 128)
      ...     board.record([{"kind": "test", "step": 1, "loss": 2.5}], train.Pace(1e3, 0.0))
      ...     board.end()
      ...     sorted(path.name for path in board.folder.iterdir())
      ['test', 'train']
    """

    def __init__(self, folder: str | os.PathLike):
        try:
            import tensorboardX.proto.event_pb2  # noqa: F401 (asked now, not after compilation)
        except ImportError as error:
            raise _check.MissingPackageError(
                "TensorBoard needs tensorboardX: pip install convjax[tensorboard]"
            ) from error
        self.folder = _check.place("folder", folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"folder={str(self.folder)!r} is a file; it must be a folder")
        self._runs: dict[str, _Run] = {}

    def begin(self, first: int, stop: int, batch_size: int) -> None:
        """Open new files of events, which hide what older ones say of steps repeated."""
        check_begin(first, stop, batch_size)
        # A test of step s comes before the checkpoint of step s, a step s after it.
        self._runs = {
            "train": _Run(self.folder / "train", first),
            "test": _Run(self.folder / "test", first + 1 if first else 0),
        }

    def record(self, rows: Sequence[Row], pace: Pace) -> None:
        """Write an event for each row."""
        check_record(rows, pace)
        if not self._runs:
            raise ValueError(f"{str(self.folder)!r} is not open: call begin before record")
        for row in rows:
            values = dict(_values(row))
            if row is rows[-1] and math.isfinite(pace.images_per_second):
                values["images_per_second"] = pace.images_per_second
            if row["kind"] in self._runs:
                self._runs[row["kind"]].write(row["step"], values)
        for run in self._runs.values():
            run.hand_over()

    def end(self) -> None:
        """Close the files."""
        for run in self._runs.values():
            run.close()
        self._runs = {}


def _values(row: Row) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if name != "step" and isinstance(value, int | float):
            yield name, value
    for path, values in row.get("layers", {}).items():
        for name, value in values.items():
            yield f"{name}/{path}", value


class _Run:
    """One file of events, which hides what older files in its folder say from a step on."""

    def __init__(self, folder: Path, purge_step: int):
        from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore

        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of their names: in nanoseconds, since two files
        # of one second would come in any order, or be one.
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._file = open(folder / name, "xb")  # noqa: SIM115 (open as long as the run)
        self._append(file_version="brain.Event:2")
        self._append(step=purge_step, session_log=SessionLog(status=SessionLog.START))
        self.hand_over()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one event that holds all the values of one step."""
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore

        made = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._append(step=step, summary=Summary(value=made))

    def hand_over(self) -> None:
        """Hand what was appended to the system."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _append(self, **content: Any) -> None:
        """Append an event as a record: length, its checksum, the event, its checksum."""
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore
        from tensorboardX.record_writer import masked_crc32c

        event = Event(wall_time=time.time(), **content).SerializeToString()
        length = struct.pack("<Q", len(event))
        for part in (length, event):
            self._file.write(part + struct.pack("<I", masked_crc32c(part)))
