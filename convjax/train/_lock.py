"""A folder belongs to one run at a time: by a lock that ends with the process that holds it."""

import contextlib
import errno
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from convjax.train._host import least

BUSY = (errno.EACCES, errno.EAGAIN)  # which of the two depends on the system

# Such locks do not keep a process from itself: this does.
_HELD: set[Path] = set()
_GUARD = threading.Lock()

if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's locks
    os.register_at_fork(after_in_child=_HELD.clear)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, of which the first process of a run takes care for all of them.

    Raises:
      ValueError: another run holds it; the message names its process.
    """
    file, holder = _taken(folder) if jax.process_index() == 0 else (None, "")
    if not least(not holder):
        raise ValueError(
            f"folder={str(folder)!r} is in use{holder and f' by {holder}'}; wait until that run "
            "has ended, or choose another folder"
        )
    try:
        yield
    finally:
        with _GUARD:
            if file is not None:
                file.close()
                _HELD.discard(folder.resolve())


def _taken(folder: Path) -> tuple[Any, str]:
    """Return the file that is locked, or None, and who else has locked it, or ""."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return None, ""
    path = folder / "lock"
    with _GUARD:
        if folder.resolve() in _HELD:
            return None, f"another call in this process, {os.getpid()}"
        file = open(path, "a+b")  # noqa: SIM115 (open as long as the run)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read(200).decode(errors="replace").strip()
            file.close()
            if error.errno in BUSY:
                return None, holder or "another process"
            warnings.warn(
                f"folder={str(folder)!r} is on a file system without locks ({error.strerror}): "
                "see to it that no second run uses it",
                stacklevel=5,
            )
            return None, ""
        _HELD.add(folder.resolve())
        with contextlib.suppress(OSError):  # the words are lost on a full disk, the lock is not
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            file.flush()
        return file, ""
