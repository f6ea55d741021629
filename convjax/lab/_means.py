"""The mean over many networks of one kind against theory, and the worst of several."""

import dataclasses
import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from convjax.lab._criteria import Criterion, Number, within, within_errors
from convjax.lab._ensemble import name_of

Row = TypeVar("Row")


@dataclasses.dataclass(frozen=True)
class Mean:
    """The mean over many networks of one kind, its standard error, and what theory says.

    Attributes:
      kind: of network.
      values: a row for each network: one number, or one for each place.
      expected: what the mean should be, everywhere or at each place; None where theory is silent.
    """

    kind: Any
    values: np.ndarray
    expected: Any

    @property
    def name(self) -> str:
        """What the kind of network is called."""
        return name_of(self.kind)

    @property
    def mean(self) -> Any:
        """The arithmetic mean."""
        return self.values.mean(0)

    @property
    def typical(self) -> Any:
        """The geometric mean."""
        return np.exp(np.log(self.values).mean(0))

    @property
    def deviation(self) -> Any:
        """The standard deviation over networks."""
        return self.values.std(0, ddof=1)

    @property
    def error(self) -> Any:
        """The standard error of the mean."""
        return self.deviation / len(self.values) ** 0.5

    @property
    def off(self) -> Any:
        """How far the mean is away from theory's, as a share of that."""
        return None if self.expected is None else self.mean / self.expected - 1

    @property
    def away(self) -> Any:
        """How many standard errors the mean is away from theory's."""
        return (self.mean - self.expected) / np.maximum(self.error, 1e-300)

    def at(self, places: Any) -> "Mean":
        """Return the mean at one place or several."""
        expected = self.expected
        if expected is not None:
            expected = np.broadcast_to(expected, self.values.shape[1:])[places]
        return Mean(self.kind, self.values[:, places], expected)


def worst(
    claim: str | Callable[[Any], str],
    means: Iterable[Mean],
    *,
    relative: Number | None = None,
    errors: Number | None = None,
) -> list[Criterion]:
    """Hold means against theory, at the one that is farthest from it.

    Args:
      claim: what must hold; or a function that says it of the kind of network that is the worst.
      means: of several kinds, each at one place.
      relative: how far a mean may be away, as a share of theory's.
      errors: how many standard errors it may be away; one of the two must be given.

    Returns:
      One criterion, that says of how many it is the worst; none where there are no means.

    Example:
      >>> import numpy as np
      >>> from convjax import lab
      >>> means = [lab.Mean(depth, np.array([0.9, 1.3]), 1.0) for depth in (2, 4)]
      >>> lab.worst(lambda depth: f"gain, {depth} layers", means, relative=0.1)[0].claim
      'gain, 2 layers (worst of 2)'
    """
    rows = list(means)
    if not rows:
        return []
    row = max(rows, key=lambda row: _far(row, errors is not None))
    said = claim if isinstance(claim, str) else claim(row.kind)
    said += f" (worst of {len(rows)})" if len(rows) > 1 else ""
    mean, expected = float(row.mean), float(row.expected)
    if errors is not None:
        return [within_errors(said, mean, expected, float(row.error), errors=errors)]
    return [within(said, mean, expected, relative=relative)]


def _far(row: Mean, errors: bool) -> float:
    """Return how far a mean is from theory's; what is not finite is the farthest."""
    far = row.away if errors else row.off
    known = np.isfinite([row.mean, row.expected, far, row.error if errors else 0.0]).all()
    return float(abs(far)) if known else np.inf


def grouped(rows: Iterable[Row], attribute: str) -> dict[Any, list[Row]]:
    """Return rows by the value of an attribute, in the order in which values first appear.

    Args:
      rows: any objects.
      attribute: with dots where it is an attribute of an attribute, such as ``"kind.depth"``.

    Example:
      >>> from convjax import lab
      >>> lab.grouped([3, 4j, 5], "imag")
      {0: [3, 5], 4.0: [4j]}
    """
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(operator.attrgetter(attribute)(row), []).append(row)
    return found
