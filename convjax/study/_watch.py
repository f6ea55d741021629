"""Who is told how a study comes along."""

import sys
import time
from typing import Any, Protocol, runtime_checkable

from convjax import _check
from convjax.study._job import Done

FIRST = 10.0  # seconds without a word where it is no terminal
APART = 30.0  # seconds between two lines there
REDRAWN = 0.2  # seconds between two looks of the line on a terminal
LISTED = 10  # failures that are told one by one


@runtime_checkable
class Watch(Protocol):
    """Who is told how a study comes along: ``Progress``, or ``Silent``, who does not care."""

    def begin(self, total: int, finished: int, failed: int) -> None:
        """Tell how many cells there are, how many had a result, how many had failed."""

    def finish(self, config: Any, done: Done) -> None:
        """Tell what became of a cell, as soon as it is kept."""


class Silent:
    """Says nothing."""

    def begin(self, total: int, finished: int, failed: int) -> None:
        """Say nothing."""

    def finish(self, config: Any, done: Done) -> None:
        """Say nothing."""


class Progress:
    """Tells how far a study has come: a line that changes on a terminal, a line now and then else.

    What takes a few seconds is not spoken of, failures apart: each is told as it comes, up to ten.

    Args:
      stream: a text file, where to; None is standard error.

    Raises:
      WrongTypeError: what is no text file.

    Example:
      >>> import sys, numpy as np
      >>> from convjax import study
      >>> told = study.Progress(sys.stdout)
      >>> told.begin(total=2, finished=0, failed=0)
      >>> told.finish({"depth": 8}, study.Done("key", None, error="ValueError: too deep"))
      {'depth': 8} FAILED: ValueError: too deep
    """

    def __init__(self, stream: Any = None):
        if stream is not None and not callable(getattr(stream, "write", None)):
            _check.wrong_type("stream", stream, "a text file to write to, or None")
        self._stream = stream

    def begin(self, total: int, finished: int, failed: int) -> None:
        """Take note of how it stands."""
        self._total, self._there = total, finished + failed
        self._left = total - self._there
        self._measured = self._failed = 0
        self._start = time.monotonic()
        self._next = self._start + (1.0 if self._is_terminal() else FIRST)
        self._spoken = False

    def finish(self, config: Any, done: Done) -> None:
        """Say it, if it is time to."""
        self._measured += 1
        if done.error:
            self._failed += 1
            if self._failed <= LISTED:
                self._line(f"{config} FAILED: {done.error}")
        now, over = time.monotonic(), self._measured == self._left
        if now < self._next and not (over and self._spoken):
            return
        self._spoken = True
        self._next = now + (REDRAWN if self._is_terminal() else APART)
        if self._is_terminal() and not over:
            self._write(f"\r\x1b[K{self._told(now)}")
        else:
            self._line(self._told(now))

    def _told(self, now: float) -> str:
        took = now - self._start
        left = took / self._measured * (self._left - self._measured)
        parts = [f"{self._there + self._measured} of {self._total} cells"]
        parts += [f"{self._failed} failed"] if self._failed else []
        over = self._measured == self._left
        parts.append(f"in {_duration(took)}" if over else f"about {_duration(left)} left")
        return ", ".join(parts)

    def _line(self, text: str) -> None:
        self._write(f"\r\x1b[K{text}\n" if self._is_terminal() else f"{text}\n")

    def _write(self, text: str) -> None:
        stream = self._stream or sys.stderr
        stream.write(text)
        stream.flush()

    def _is_terminal(self) -> bool:
        return (self._stream or sys.stderr).isatty()


def _duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
