"""What watches a run: the protocol that ``fit`` calls, and how fast the run goes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from convjax import _check

Row = Mapping[str, Any]


class Pace(NamedTuple):
    """How fast a run goes: images a second, and the seconds that are left at that speed."""

    images_per_second: float
    seconds_left: float


@runtime_checkable
class Observer(Protocol):
    """What ``fit`` tells of a run while it runs; an observer never influences it.

    A row is a dict that JSON can hold. A row of training is ``{"kind": "train", "step": s,
    "loss": …, "accuracy": …, …}``, where ``s`` is the number of steps taken before (0 is at
    initialization); at watched steps it has ``"layers": {path: {"gradient": …, …}}`` as well. A row
    of testing is ``{"kind": "test", "step": steps taken, "loss": …, "accuracy": …}``.
    """

    def begin(self, first: int, stop: int, batch_size: int) -> None:
        """Hear that steps ``first``, …, ``stop - 1`` come now, each on ``batch_size`` examples."""

    def record(self, rows: Sequence[Row], pace: Pace) -> None:
        """Hear of one dispatch: its rows in order, and how fast the run goes."""

    def end(self) -> None:
        """Hear that no more comes, be it that the run is done or that it failed."""


def check_begin(first: Any, stop: Any, batch_size: Any) -> None:
    """Refuse what no run begins with."""
    _check.integer("first", first, 0)
    _check.integer("stop", stop, 0)
    _check.integer("batch_size", batch_size, 1)


def check_record(rows: Any, pace: Any) -> None:
    """Refuse what no dispatch records."""
    check_rows(rows)
    _check.instance("pace", pace, Pace, "a train.Pace")


def check_rows(rows: Any) -> None:
    """Refuse what is no sequence of rows."""
    right = "a sequence of rows, as train.read_rows returns them"
    if isinstance(rows, str | bytes) or not isinstance(rows, Sequence):
        _check.wrong_type("rows", rows, right)
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            _check.wrong_type(f"rows[{i}]", row, "a row: a mapping with 'kind' and 'step'")
        if missing := {"kind", "step"} - row.keys():
            raise ValueError(f"rows[{i}]={_check.shown(row)} lacks {min(missing)!r}")
        _check.integer(f"rows[{i}]['step']", row["step"])
