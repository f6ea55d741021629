"""What course texts say of transfer learning, and what the numbers of a run say of that."""

import itertools
from collections.abc import Callable

import numpy as np

from convjax import lab
from convjax.lab import Columns, pick
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
    return lab.array(rows, name, "seed")


def gain(columns: Columns, one: str, other: str, shift: int, budget: int) -> np.ndarray:
    """Return the accuracy of one way less that of another, by seed."""
    return of(columns, one, shift, budget) - of(columns, other, shift, budget)


def per_layer(columns: Columns, method: str, shift: int, budget: int, name: str) -> np.ndarray:
    """Return one number for each seed and layer."""
    rows = pick(columns, kind="layer", method=method, shift=shift, budget=budget)
    return lab.array(rows, name, "seed", "position")


def error(values: np.ndarray) -> float:
    """Return the standard error of the mean."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def sentences(columns: Columns) -> list[Claim]:
    """Return the sentences, each with its evidence."""
    conditions = list(itertools.product(shifts(columns), budgets(columns)))

    def each(number: Callable[..., np.ndarray], least: float = 0.0) -> list[Evidence]:
        return [evidence(_named(columns, *one), number(*one), least) for one in conditions]

    def later_less_earlier(*at: int) -> np.ndarray:
        went = per_layer(columns, TUNED, *at, name="log_movement")[:, :-1]
        half = went.shape[1] // 2
        return went[:, -half:].mean(1) - went[:, :half].mean(1)

    said = (
        (
            "Transfer learning needs fewer examples: fine-tuning beats training from scratch.",
            each(lambda *at: gain(columns, TUNED, SCRATCH, *at)),
            "test accuracy of the one less that of the other",
        ),
        (
            "Frozen features of a pretrained network beat training from scratch.",
            each(lambda *at: gain(columns, FROZEN, SCRATCH, *at)),
            "likewise",
        ),
        (
            "Fine-tuning beats frozen features.",
            each(lambda *at: gain(columns, TUNED, FROZEN, *at)),
            "likewise",
        ),
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
    ends = {
        shift: [gain(columns, TUNED, SCRATCH, shift, n) for n in (fewest, most)]
        for shift in shifts(columns)
    }
    return [
        evidence(_named(columns, shift, f"{fewest} vs {most}"), few - many)
        for shift, (few, many) in ends.items()
    ]
