"""Store: the folder of a study, in which nothing is lost, done twice or written by halves."""

import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from convjax.study._parquet import check_writable

FORMAT = 1
_BITS = 62  # offsets in a file are of 63 bits
# Cells that this process works on, by folder: locks do not keep a process from itself.
_HELD: set[tuple[str, str]] = set()


class Store:
    """The folder of a study.

    ``study.json`` says of which; ``cells/KEY.parquet`` is a result, ``failed/KEY.parquet`` the row
    of one that failed. ``claims`` is an empty file whose bytes are locked: who works on a cell
    holds the byte that its key names. The system gives it back when the process ends, however that
    ends, so that no claim outlives its holder.

    Args:
      folder: made if it is not there.
      of: what is measured; a folder keeps cells of one function.

    Raises:
      ValueError: a folder of another study, or one that cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike, of: str):
        self.folder = check_writable(folder).resolve()
        self.cells, self.failed = self.folder / "cells", self.folder / "failed"
        self._introduce(of)
        for one in (self.cells, self.failed):
            one.mkdir(exist_ok=True)
        self._claims = open(self.folder / "claims", "ab")  # noqa: SIM115
        self._mine: set[tuple[str, str]] = set()

    def _introduce(self, of: str) -> None:
        named = self.folder / "study.json"
        found = read_name(self.folder)
        if found is None:
            put(named, json.dumps({"format": FORMAT, "study": of}).encode())
            found = read_name(self.folder)
        if found != of:
            raise ValueError(
                f"{str(self.folder)!r} holds the study {found!r}, not {of!r}; choose another folder"
            )

    def finished(self, key: str) -> bool:
        """Tell whether a cell has its result."""
        return (self.cells / f"{key}.parquet").exists()

    def has_failed(self, key: str) -> bool:
        """Tell whether a cell has failed, and has not been done since."""
        return (self.failed / f"{key}.parquet").exists() and not self.finished(key)

    def claim(self, key: str) -> bool:
        """Take a cell, unless another has it; ``release`` gives it back, and so does the end."""
        place = (str(self.folder), key)
        if place in _HELD:
            return False
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(key))
        except (BlockingIOError, PermissionError):  # which of the two depends on the system
            return False
        _HELD.add(place)
        self._mine.add(place)
        return True

    def release(self, key: str) -> None:
        """Give a claimed cell back."""
        fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, _byte(key))
        _HELD.discard((str(self.folder), key))
        self._mine.discard((str(self.folder), key))

    def keep(self, key: str, table: bytes) -> bool:
        """Keep a result, unless there is one; return whether it was kept.

        Raises:
          OSError: the disk is full, or gone; nothing of the result is there then.
        """
        kept = put(self.cells / f"{key}.parquet", table)
        with contextlib.suppress(FileNotFoundError):
            (self.failed / f"{key}.parquet").unlink()
        return kept

    def keep_failure(self, key: str, table: bytes) -> None:
        """Keep the row of a failure, in the place of an earlier one."""
        put(self.failed / f"{key}.parquet", table, again=True)

    def close(self) -> None:
        """Give all claims back."""
        _HELD.difference_update(self._mine)
        self._claims.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_name(folder: Path) -> str | None:
    """Return which study a folder holds; None if it holds none.

    Raises:
      ValueError: ``study.json`` is not a study's, or that of a later version.
    """
    named = folder / "study.json"
    try:
        entries = json.loads(named.read_text(encoding="utf-8"))
        if entries["format"] > FORMAT:
            raise ValueError(f"{str(named)!r} was written by a later version of convjax")
        return str(entries["study"])
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{str(named)!r} is not what a study writes; is it damaged?") from error


def put(path: Path, content: bytes, *, again: bool = False) -> bool:
    """Write a file whole or not at all, and not over another; return whether it was written.

    Args:
      path: the file.
      content: all of it.
      again: whether it takes the place of one that is there.
    """
    with _beside(path) as beside:
        with open(beside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            if again:
                os.replace(beside, path)
            else:
                os.link(beside, path)
        except FileExistsError:
            return False
    _sync(path.parent)
    return True


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Have the folder's entries on the disk too, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _byte(key: str) -> int:
    return int(key, 16) & ((1 << _BITS) - 1)
