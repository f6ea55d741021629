"""Locks: who works on which cell; they end with the process that holds them."""

import errno
import hashlib
import os
import threading
from pathlib import Path

from convjax._check import MissingPackageError

_BITS = 62  # offsets in a file are of 63 bits
_BUSY = (errno.EACCES, errno.EAGAIN)  # which of the two depends on the system

# Closing any descriptor of a file gives all of a process's locks on it back. So there is one for
# each folder, however many stores the process has open there.
_OPEN: dict[Path, "Locks"] = {}
_GUARD = threading.Lock()


class Locks:
    """Locks on single bytes of a file, which stays empty; a cell's is the one its key names.

    The system gives them back when the process ends, however that ends, so that no lock outlives
    its holder. Locks do not keep a process from itself: ``held`` does.

    Args:
      path: the file; it is made if it is not there.

    Attributes:
      held: keys of the cells that this process has.
      users: how many stores of this process share these locks.

    Raises:
      ImportError: a system without such locks.
      ValueError: a file system without them.
    """

    def __init__(self, path: Path):
        try:
            import fcntl
        except ImportError as error:
            raise MissingPackageError(
                "a study's folder needs the file locks of POSIX, which this system does not have; "
                "on Windows, run it in WSL"
            ) from error
        self._fcntl = fcntl
        self._path = path
        self._file = open(path, "ab")  # noqa: SIM115
        self.held: set[str] = set()
        self.users = 0
        try:
            self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, 1 << _BITS)
            self._lock(fcntl.LOCK_UN, 1 << _BITS)
        except OSError as error:
            self._file.close()
            raise ValueError(
                f"{str(path.parent)!r} is on a file system without locks ({error.strerror}); "
                "choose a folder on another"
            ) from error

    def take(self, key: str) -> bool:
        """Take a cell, unless somebody has it."""
        with _GUARD:
            if key in self.held:
                return False
            if not self._lock(self._fcntl.LOCK_EX | self._fcntl.LOCK_NB, _byte(key)):
                return False
            self.held.add(key)
            return True

    def give(self, key: str) -> None:
        """Give a cell back."""
        with _GUARD:
            if key in self.held:
                self._lock(self._fcntl.LOCK_UN, _byte(key))
                self.held.discard(key)

    def _lock(self, how: int, byte: int) -> bool:
        try:
            self._fcntl.lockf(self._file, how, 1, byte)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def _close(self) -> None:
        self._file.close()


def opened(folder: Path) -> Locks:
    """Return the locks of a folder, the same for all who ask in this process; ``close`` them."""
    with _GUARD:
        if folder not in _OPEN:
            _OPEN[folder] = Locks(folder / "locks")
        _OPEN[folder].users += 1
        return _OPEN[folder]


def close(folder: Path) -> None:
    """Close the locks of a folder, if nobody else in this process has them open."""
    with _GUARD:
        _OPEN[folder].users -= 1
        if not _OPEN[folder].users:
            _OPEN.pop(folder)._close()


def _forget() -> None:
    """A forked process has none of its parent's locks."""
    for locks in _OPEN.values():
        locks.held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _byte(key: str) -> int:
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") & ((1 << _BITS) - 1)
