"""Waterfall: the picture of a run while it runs."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from convjax import _check
from convjax.plots._columns import check_words
from convjax.plots._waterfall import Grid, figure_of

SHARE = 0.01  # of the time, at most, goes into drawing
FIRST_COST = 0.5  # seconds, a guess until the first picture


class Waterfall:
    """Keeps ``plots.waterfall`` of a run as a PNG, redrawn while it trains; an observer.

    The picture is drawn by the calling thread, at most once in ``every`` seconds and for at most
    1 % of the time, and always at the end. The file is replaced as a whole: a viewer never sees
    half a picture. As long as no step was watched there is no file.

    Args:
      path: of the PNG; its folder is made.
      every: seconds between two pictures, at least.
      rows: what an earlier part of a resumed run has recorded, as ``train.read_rows`` returns it;
        of it, ``begin`` keeps what lies before the first step.
      quantity: which number, as in ``plots.waterfall``.
      match: which paths, as there.
      title: above everything, as there.

    Raises:
      ValueError: an argument of the wrong type, a negative time, or a path below a file.

    Example:
      >>> import tempfile
      >>> from convjax import plots, train
      >>> layers = {"stem": {"gradient": 0.5}, "head": {"gradient": 2.0}}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     picture = plots.Waterfall(f"{folder}/waterfall.png")
      ...     picture.begin(0, 1, 128)
      ...     row = {"kind": "train", "step": 0, "loss": 2.5, "layers": layers}
      ...     picture.record([row], train.Pace(1e3, 0.0))
      ...     picture.end()
      ...     picture.path.read_bytes()[1:4]
      b'PNG'
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        every: int | float = 30,
        rows: Iterable[Mapping[str, Any]] = (),
        quantity: str = "gradient",
        match: str | None = None,
        title: str | None = None,
    ):
        self.path = _check.place("path", path)
        if self.path.is_dir():
            raise ValueError(f"path={str(self.path)!r} is a folder; give the file's path")
        self._every = _check.number("every", every, least=0)
        self._earlier = _rows(rows)
        check_words(quantity, match, title)
        self._how: Any = {"quantity": quantity, "match": match, "title": title}
        self._forget()

    def begin(self, first: int, stop: int, batch_size: int) -> None:
        """Take what was recorded before, and wait for what comes."""
        self._forget()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._keep([row for row in self._earlier if row["step"] < first])
        self._next = time.monotonic() + max(self._every, FIRST_COST / SHARE)

    def record(self, rows: Sequence[Mapping[str, Any]], pace: Any) -> None:
        """Keep what is drawn of the rows, and draw it if it is time to."""
        self._keep(rows)
        if time.monotonic() >= self._next:
            self._draw()

    def end(self) -> None:
        """Draw the last picture."""
        self._draw()

    def _forget(self) -> None:
        self._steps: list[int] = []
        self._places: dict[str, int] = {}
        self._values: list[np.ndarray] = []
        self._losses: tuple[list[int], list[float]] = ([], [])
        self._next = np.inf

    def _keep(self, rows: Iterable[Mapping[str, Any]]) -> None:
        quantity = self._how["quantity"]
        for row in rows:
            if row["kind"] != "train":
                continue
            if "loss" in row:
                self._losses[0].append(row["step"])
                self._losses[1].append(row["loss"])
            found = {p: v[quantity] for p, v in row.get("layers", {}).items() if quantity in v}
            if not found:
                continue
            for path in found:
                self._places.setdefault(path, len(self._places))
            values = np.full(len(self._places), np.nan)
            number = np.array(list(found.values()), float)
            places = [self._places[path] for path in found]
            values[places] = np.where(np.isfinite(number), number, np.inf)
            self._steps.append(row["step"])
            self._values.append(values)

    def _draw(self) -> None:
        if not self._steps:
            return
        start = time.monotonic()
        values = np.full((len(self._steps), len(self._places)), np.nan)
        for line, seen in zip(values, self._values, strict=True):
            line[: len(seen)] = seen
        steps, losses = self._losses
        told = {"step": np.array(steps, int), "loss": np.array(losses, float)}
        grid = Grid(np.array(self._steps), list(self._places), values)
        figure = figure_of(grid, told if steps else None, **self._how)
        beside = self.path.with_name(f".{self.path.name}.partial")
        try:
            figure.savefig(beside, format="png", dpi=150)
            os.replace(beside, self.path)
        finally:
            beside.unlink(missing_ok=True)
        now = time.monotonic()
        self._next = now + max(self._every, (now - start) / SHARE)


def _rows(rows: Any) -> list[Mapping[str, Any]]:
    expected = "rows, as train.read_rows returns them"
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        _check.wrong_type("rows", rows, expected)
    found = list(rows)
    for i, row in enumerate(found):
        if not isinstance(row, Mapping) or not {"kind", "step"} <= set(row):
            _check.wrong_type(f"rows[{i}]", row, expected)
    return found
