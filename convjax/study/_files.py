"""Files that are there whole or not at all."""

import contextlib
import errno
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from convjax import _check

# What file systems answer that have no second names for files, such as those of cameras and clouds.
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


def check_writable(folder: str | os.PathLike) -> Path:
    """Make a folder if it is not there, and write a file in it and remove it, before hours of work.

    Args:
      folder: where results shall go.

    Returns:
      The folder.

    Raises:
      WrongTypeError: no path.
      ValueError: it cannot be made or written to; the message says why.

    Example:
      >>> import tempfile
      >>> from convjax import study
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     study.check_writable(f"{folder}/results").name
      'results'
    """
    folder = _check.path("folder", folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"probe")
    except FileExistsError as error:
        raise ValueError(f"{str(folder)!r} is a file; choose a folder") from error
    except OSError as error:
        raise ValueError(f"cannot write into {str(folder)!r}: {error.strerror}") from error
    return folder


def check_place(folder: Path) -> None:
    """Refuse a folder in which nothing can be written, as far as that is known without writing.

    Raises:
      ValueError: it, or the folder that it would be made in, is a file or not to be written to.
    """
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not place.is_dir():
        raise ValueError(f"{str(place)!r} is a file; choose a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write into {str(place)!r}: {os.strerror(errno.EACCES)}")


def put(path: Path, content: bytes, *, again: bool = False) -> bool:
    """Write a file whole or not at all, and not over another; return whether it was written.

    Args:
      path: the file.
      content: all of it.
      again: whether it takes the place of one that is there.

    Raises:
      OSError: the disk is full, or gone; the file is what it was then.
    """
    with _beside(path) as beside:
        with open(beside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if again:
            os.replace(beside, path)
            return True
        return _named(beside, path)


def partial(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield what was being written when a process was killed, each with the name it was to have."""
    for path in folder.glob(".*.partial"):
        yield path, path.name[1:].rsplit(".", 2)[0]


def sync(folder: Path) -> None:
    """Have the folder's entries on the disk too, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _named(beside: Path, path: Path) -> bool:
    """Give a file its name, unless there is one of that name."""
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            return False
        os.replace(beside, path)
    return True


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield beside
    finally:
        beside.unlink(missing_ok=True)
