"""Progress: a bar on a terminal, one line a cell elsewhere; both say how much time is left."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from convjax.lab._tables import console


class Ticker:
    """Tells how far a grid of cells has come, on stderr.

    Args:
      total: how many cells there are.
      bar: whether there may be a bar; without, there are lines on a terminal too.

    Example:
      >>> from convjax import lab
      >>> with lab.Ticker(2) as ticker:
      ...     for name in ("plain", "residual"):
      ...         ticker.begin(name)
      ...         ticker.finish(name)
    """

    def __init__(self, total: int, bar: bool = True):
        self.total = total
        self.done = 0
        self.start = self.last = time.monotonic()
        shown = console(stderr=True)
        self.bar = _bar(shown) if bar and shown.is_terminal else None
        self.task = None if self.bar is None else self.bar.add_task("", total=total, left="")

    def __enter__(self) -> "Ticker":
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def begin(self, name: str) -> None:
        """Say which cell comes now."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, description=name)

    def finish(self, name: str, remark: str = "") -> None:
        """Say that a cell is done."""
        self.done += 1
        now = time.monotonic()
        left = (now - self.start) / self.done * (self.total - self.done)
        told = f"about {left:.0f} s left" if self.done < self.total else "done"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=self.done, left=told)
            if remark:
                self.bar.console.print(f"{name}: {remark}")
        else:
            count = f"[{self.done:{len(str(self.total))}}/{self.total}]"
            took = f"{now - self.last:.1f} s, {told}"
            print(
                f"{count} {name}: {took}{'; ' + remark if remark else ''}",
                file=sys.stderr,
                flush=True,
            )
        self.last = now


def _bar(shown: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        console=shown,
        transient=True,
    )
