"""Store: the folder of a study, in which nothing is lost, done twice or written by halves."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from convjax.study import _locks
from convjax.study._cells import damaged, whole
from convjax.study._files import check_writable, partial, put, sync
from convjax.study._identity import plain
from convjax.study._parquet import read_metadata, read_parquet

FORMAT = 1


class Store:
    """The folder of a study.

    ``study.json`` says of which; ``cells/KEY.parquet`` is a result, ``failed/KEY.parquet`` the row
    of one that failed; who works on a cell has its lock on the file ``locks``. What is being
    written has a name of its own, ``.KEY.parquet.….partial``; where a process is killed meanwhile,
    the next run removes it. ``damaged`` holds files of cells in which a bit has changed since.

    Args:
      folder: made if it is not there.
      of: what is measured; a folder keeps cells of one function.

    Raises:
      ValueError: a folder of another study, one that cannot be written to, or without locks.
      ImportError: a system without file locks.
    """

    def __init__(self, folder: str | os.PathLike, of: str):
        self.folder = check_writable(folder).resolve()
        self.cells, self.failed = self.folder / "cells", self.folder / "failed"
        self._introduce(of)
        with self._speaking():
            for one in (self.cells, self.failed):
                one.mkdir(exist_ok=True)
            self._locks = _locks.opened(self.folder)
        self._mine: set[str] = set()

    def _introduce(self, of: str) -> None:
        named = self.folder / "study.json"
        found = read_name(self.folder)
        if found is None:
            with self._speaking():
                put(named, json.dumps({"format": FORMAT, "study": of}).encode())
            found = read_name(self.folder)
        check_study(self.folder, found, of)

    def finished(self, key: str) -> bool:
        """Tell whether a cell has its result."""
        return (self.cells / f"{key}.parquet").exists()

    def has_failed(self, key: str) -> bool:
        """Tell whether a cell has failed, and has not been done since."""
        return (self.failed / f"{key}.parquet").exists() and not self.finished(key)

    def error(self, key: str) -> str:
        """Return why a cell failed; empty if it did not, or has been done since."""
        if self.finished(key):
            return ""
        try:
            columns, _ = whole(self.failed / f"{key}.parquet", read_parquet)
            return str(columns["error"][0])
        except FileNotFoundError:
            return ""

    def lock(self, key: str) -> bool:
        """Take a cell, unless another has it; ``release`` gives it back, and so does the end."""
        taken = self._locks.take(key)
        if taken:
            self._mine.add(key)
        return taken

    def release(self, key: str) -> None:
        """Give a locked cell back."""
        if key in self._mine:
            self._mine.discard(key)
            self._locks.give(key)

    def keep(self, key: str, table: bytes) -> bool:
        """Keep a result, unless there is one; return whether it was kept.

        Raises:
          ValueError: the disk is full, or gone; nothing of the result is there then.
        """
        with self._speaking():
            kept = put(self.cells / f"{key}.parquet", table)
            (self.failed / f"{key}.parquet").unlink(missing_ok=True)
        return kept

    def keep_failure(self, key: str, table: bytes) -> None:
        """Keep the row of a failure, in the place of an earlier one.

        Raises:
          ValueError: as ``keep``.
        """
        with self._speaking():
            put(self.failed / f"{key}.parquet", table, again=True)

    def retire(self, cells: Mapping[str, Any]) -> None:
        """Remove failures of other code with the configuration of a cell that has an answer now."""
        paths = [p for p in self.failed.glob("[!.]*.parquet") if p.stem not in cells]
        if not paths:
            return
        over = [c for key, c in cells.items() if self.finished(key) or self.has_failed(key)]
        answered = {json.dumps(plain(config), sort_keys=True) for config in over}
        for path in paths:
            with contextlib.suppress(ValueError, KeyError, FileNotFoundError):  # damaged; gone
                said = whole(path, read_metadata)
                if json.dumps(said["config"], sort_keys=True) in answered:
                    path.unlink()

    def tidy(self) -> None:
        """Remove what was half written by processes that are gone: their locks can be had."""
        for folder in (self.cells, self.failed):
            for path, name in partial(folder):
                key = name.removesuffix(".parquet")
                if self.lock(key):
                    path.unlink(missing_ok=True)
                    self.release(key)

    def put_aside(self, keys: Iterable[str]) -> list[Path]:
        """Move the files of cells that are damaged into the folder ``damaged``; return them."""
        found = []
        for key in keys:
            for place in (self.cells, self.failed):
                path = place / f"{key}.parquet"
                if damaged(path) and self.lock(key):
                    if damaged(path):  # still, now that nobody else does the same
                        with self._speaking():
                            (self.folder / "damaged").mkdir(exist_ok=True)
                            os.replace(path, self.folder / "damaged" / path.name)
                        found.append(path)
                    self.release(key)
        return found

    def close(self) -> None:
        """Give all locks back."""
        for key in list(self._mine):
            self.release(key)
        _locks.close(self.folder)
        for one in (self.cells, self.failed):
            sync(one)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turn what the system refuses to write into one sentence."""
        try:
            yield
        except OSError as error:
            raise ValueError(
                f"cannot write into {str(self.folder)!r}: {error.strerror}; "
                "what was measured before is kept there"
            ) from error


def check_study(folder: Path, found: str | None, of: str) -> None:
    """Refuse a folder that holds the study of another function.

    Raises:
      ValueError: it does.
    """
    if found not in (None, of):
        raise ValueError(
            f"{str(folder)!r} holds results of {found!r}, not of {of!r}; choose another folder"
        )


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
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{str(named)!r} is not what a study writes; is it damaged?") from error
