"""What watches a run: the protocol that ``fit`` calls, and how fast the run goes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

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
    birth); at watched steps it has ``"layers": {path: {"gradient": …, …}}`` as well. A row of
    testing is ``{"kind": "test", "step": steps taken, "loss": …, "accuracy": …}``.
    """

    def begin(self, first: int, stop: int, batch_size: int) -> None:
        """Hear that steps ``first``, …, ``stop - 1`` come now, each on ``batch_size`` examples."""

    def record(self, rows: Sequence[Row], pace: Pace) -> None:
        """Hear of one dispatch: its rows in order, and how fast the run goes."""

    def end(self) -> None:
        """Hear that no more comes, be it that the run is done or that it failed."""
