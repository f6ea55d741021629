"""A limit to the time that one cell takes."""

import contextlib
import signal
from collections.abc import Iterator


class TimeLimitError(BaseException):
    """A cell took longer than it may; not an ``Exception``, which the cell's code may catch."""


@contextlib.contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Raise ``TimeLimitError`` in what takes longer; None is no limit.

    Code that does not come back to Python meanwhile, such as a long compilation, is only ended when
    it does.

    Raises:
      ValueError: this is not the process's main thread, where alone a signal can be heard.
    """
    if seconds is None:
        yield
        return

    def end(*_: object) -> None:
        raise TimeLimitError(said(seconds))

    try:
        before = signal.signal(signal.SIGALRM, end)
    except ValueError as error:
        raise ValueError(
            f"time_limit={seconds:g} needs the main thread of a process to measure in; leave it "
            "out, or measure with runner=study.Local()"
        ) from error
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def said(seconds: float) -> str:
    """Say why a cell was ended."""
    return f"it took longer than time_limit={seconds:g} s"
