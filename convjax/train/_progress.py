"""How far a run has come: a bar on a terminal, a line now and then elsewhere."""

import math
import sys
import time
from collections.abc import Sequence

from convjax import _check
from convjax.train._observe import Pace, Row, check_begin, check_record

REDRAWS_PER_SECOND = 10
SHARE = 0.01  # of the time, at most, goes into drawing the bar
SECONDS_BETWEEN_LINES = 10.0
LINES_SHARE = 0.05  # lines come ever further apart, by this share of the time gone by


class ProgressBar:
    """Tells on stderr how far a run has come, how well it does and how long it will take.

    Loss and accuracy are means over the last dispatch; the test accuracy is the last one known.
    On a terminal this is a bar, drawn at most ten times a second and for at most 1 % of the time;
    elsewhere a line now and then, ever further apart: some hundred in half a day.

    Args:
      name: stands before it; none by default.

    Raises:
      MissingPackageError: on a terminal, rich is not installed; this is an ImportError.

    Example:
      >>> from convjax import train
      >>> bar = train.ProgressBar("ResNet-20")
      >>> bar.begin(0, 100, 128)
      >>> bar.record([{"kind": "train", "step": 0, "loss": 2.5}], train.Pace(1e3, 12.0))
      >>> bar.end()
    """

    def __init__(self, name: str = ""):
        _check.instance("name", name, str, "a string")
        self._draw = _Bar(name) if sys.stderr.isatty() else _Lines(name)
        self._stop = self._done = 0
        self._rows: Sequence[Row] = ()
        self._pace = Pace(math.nan, math.nan)
        self._tested: float | None = None

    def begin(self, first: int, stop: int, batch_size: int) -> None:
        """Start the bar."""
        check_begin(first, stop, batch_size)
        self._stop, self._done, self._rows, self._tested = stop, first, (), None
        self._draw.begin(first, stop)

    def record(self, rows: Sequence[Row], pace: Pace) -> None:
        """Note how far the run is, and draw it if it is time to."""
        check_record(rows, pace)
        if rows and rows[-1]["kind"] == "train":
            self._done = rows[-1]["step"] + 1
            self._rows, self._pace = rows, pace
        for row in rows:
            if row["kind"] == "test":
                self._tested = row.get("accuracy")
        if self._draw.is_due(time.monotonic()):
            self._draw.show(self._done, self._stop, self._told())

    def end(self) -> None:
        """Show the last state and stop the bar."""
        self._draw.end(self._done, self._stop, self._told())

    def _told(self) -> str:
        parts = []
        if losses := _numbers(self._rows, "loss"):
            parts.append(f"loss {_mean(losses):.4g}")
        if right := _numbers(self._rows, "accuracy"):
            parts.append(f"accuracy {_mean(right):.1%}")
        if self._tested is not None:
            parts.append(f"test {self._tested:.1%}")
        if math.isfinite(self._pace.images_per_second):
            parts.append(f"{self._pace.images_per_second:,.0f} images/s")
        if self._done < self._stop and math.isfinite(self._pace.seconds_left):
            parts.append(f"{_duration(self._pace.seconds_left)} left")
        return ", ".join(parts)


class _Bar:
    """A bar of rich's, drawn by this thread alone, so that it cannot take more than its share."""

    def __init__(self, name: str):
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
            from rich.table import Column
        except ImportError as error:
            raise _check.MissingPackageError(
                "ProgressBar needs rich on a terminal: pip install 'convjax[lab]'"
            ) from error
        self._progress = Progress(
            *([TextColumn("{task.description}", markup=False)] if name else []),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            # On a narrow terminal this column takes two lines, and the others stay whole.
            TextColumn("{task.fields[told]}", markup=False, table_column=Column()),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task = self._progress.add_task(name, told="")
        self._next = 0.0

    def begin(self, first: int, stop: int) -> None:
        self._progress.reset(self._task, total=stop, completed=first, told="")
        self._progress.start()
        self._next = 0.0

    def is_due(self, now: float) -> bool:
        return now >= self._next

    def show(self, done: int, stop: int, told: str) -> None:
        start = time.monotonic()
        self._progress.update(self._task, completed=done, told=told)
        self._progress.refresh()
        now = time.monotonic()
        self._next = now + max(1 / REDRAWS_PER_SECOND, (now - start) / SHARE)

    def end(self, done: int, stop: int, told: str) -> None:
        self.show(done, stop, told)
        self._progress.stop()


class _Lines:
    """Lines for what is not a terminal, the first at once."""

    def __init__(self, name: str):
        self._before = f"{name}: " if name else ""
        self._start = self._next = 0.0
        self._last = ""

    def begin(self, first: int, stop: int) -> None:
        self._start, self._next, self._last = time.monotonic(), 0.0, ""

    def is_due(self, now: float) -> bool:
        return now >= self._next

    def show(self, done: int, stop: int, told: str) -> None:
        line = f"{self._before}step {done:{len(str(stop))}}/{stop}" + (told and f": {told}")
        if line != self._last:
            print(line, file=sys.stderr, flush=True)
        now = time.monotonic()
        apart = max(SECONDS_BETWEEN_LINES, LINES_SHARE * (now - self._start))
        self._next, self._last = now + apart, line

    def end(self, done: int, stop: int, told: str) -> None:
        self.show(done, stop, told)


def _numbers(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if row["kind"] == "train" and name in row]


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def _duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
