"""What course texts say of transfer learning, and what the numbers of a run say of that."""

import itertools
from collections.abc import Callable

import numpy as np

from convjax.lab import Columns, array, pick
from convjax.lab.rules import AGAINST, FOR, NEITHER, Claim, Evidence
from experiments.transfer.trial import FROZEN, SCRATCH, TUNED

ERRORS = 2.0
"""Standard errors beyond which a number speaks."""
LEAST = float(np.log(1.1))
"""Least difference of a logarithm that speaks: a tenth."""


def budgets(columns: Columns) -> list[int]:
    """Return the numbers of examples, rising."""
    return np.unique(pick(columns, kind="accuracy")["budget"]).tolist()


def shifts(columns: Columns) -> list[int]:
    """Return the shifts, rising."""
    return np.unique(pick(columns, kind="accuracy")["shift"]).tolist()


def of(
    columns: Columns, method: str, shift: int, budget: int, name: str = "accuracy"
) -> np.ndarray:
    """Return one number for each seed, in the order of the seeds."""
    rows = pick(columns, kind="accuracy", method=method, shift=shift, budget=budget)
    return array(rows, name, "seed")


def per_layer(columns: Columns, method: str, shift: int, budget: int, name: str) -> np.ndarray:
    """Return one number for each seed and layer."""
    rows = pick(columns, kind="layer", method=method, shift=shift, budget=budget)
    return array(rows, name, "seed", "position")


def error(values: np.ndarray) -> float:
    """Return the standard error of the mean."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def sentences(columns: Columns) -> list[Claim]:
    """Return the sentences, each with its evidence."""

    def each(number: Callable[..., np.ndarray], least: float = 0.0) -> list[Evidence]:
        conditions = itertools.product(shifts(columns), budgets(columns))
        return [evidence(_named(columns, *one), number(*one), least) for one in conditions]

    def better(one: str, other: str) -> list[Evidence]:
        return each(lambda *at: of(columns, one, *at) - of(columns, other, *at))

    def went(method: str, shift: int, budget: int) -> np.ndarray:
        return per_layer(columns, method, shift, budget, "log_movement")[:, :-1]

    def later_less_earlier(*at: int) -> np.ndarray:
        tuned = went(TUNED, *at)
        half = tuned.shape[1] // 2
        return tuned[:, -half:].mean(1) - tuned[:, :half].mean(1)

    said = (
        (
            "Transfer learning needs fewer examples: fine-tuning beats training from scratch.",
            better(TUNED, SCRATCH),
            "test accuracy of the one less that of the other",
        ),
        (
            "Frozen features of a pretrained network beat training from scratch.",
            better(FROZEN, SCRATCH),
            "likewise",
        ),
        ("Fine-tuning beats frozen features.", better(TUNED, FROZEN), "likewise"),
        (
            "The fewer the examples, the more fine-tuning gains over training from scratch.",
            _fading(columns),
            "the gain with the fewest examples less that with the most",
        ),
        (
            "Fine-tuning changes the late layers more than the early, general ones.",
            each(later_less_earlier, LEAST),
            "mean ln |dW|/|W| of the later half of the layers less that of the earlier, "
            "classifier aside",
        ),
    )
    return [Claim(letter, *one) for letter, one in zip("abcde", said, strict=True)]


class OfSeeds(Evidence):
    """A number of which there is one for each seed: its mean speaks, if most seeds are with it."""

    @property
    def side(self) -> str:
        """For, against or neither."""
        mean = self.support.mean()
        agree = np.mean(np.sign(self.support) == np.sign(mean))
        if not abs(mean) > self.margin or agree <= 0.5:
            return NEITHER
        return FOR if mean > 0 else AGAINST


def evidence(condition: str, support: np.ndarray, least: float = 0.0) -> Evidence:
    """Return what a number says whose mean must be beyond its errors, and beyond the least."""
    wide = error(support)
    shown = f"{support.mean():+.3f} ± {wide:.3f}"
    return OfSeeds(condition, support, shown, margin=max(ERRORS * wide, least))


def _named(columns: Columns, shift: int, budget: int | str) -> str:
    among = f"shift {shift}, " if len(shifts(columns)) > 1 else ""
    return f"{among}{budget} a class"


def _fading(columns: Columns) -> list[Evidence]:
    fewest, most = budgets(columns)[0], budgets(columns)[-1]
    if fewest == most:
        return []
    found = []
    for shift in shifts(columns):
        gains = [
            of(columns, TUNED, shift, n) - of(columns, SCRATCH, shift, n) for n in (fewest, most)
        ]
        name = _named(columns, shift, f"{fewest} vs {most}")
        found.append(evidence(name, gains[0] - gains[1]))
    return found
