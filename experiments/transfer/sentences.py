"""What course texts say of transfer learning, and what the numbers of a run say of that."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from convjax import lab
from convjax.lab import Columns, pick
from convjax.lab.rules import AGAINST, FOR, NEITHER, Claim, Evidence
from experiments.transfer.trial import FROZEN, METHODS, SCRATCH, STAGED, TUNED

ERRORS = 2.0
"""Standard errors beyond which a number speaks."""
LEAST = float(np.log(1.1))
"""Least difference of a logarithm that speaks: a tenth."""
ENOUGH = 0.02
"""Accuracy that counts as none, where something is called enough."""

SAID = {
    "a": "Transfer learning needs fewer examples: fine-tuning beats training from scratch.",
    "b": "Frozen features of a pretrained network beat training from scratch.",
    "c": "Fine-tuning beats frozen features.",
    "d": "The fewer the examples, the more fine-tuning gains over training from scratch.",
    "e": "Fine-tuning changes the late layers more than the early, general ones.",
    "f": "For very few examples frozen features and a new classifier are enough.",
    "g": "Early layers need smaller rates: rates that fall from stage to stage beat a single one.",
}
RULES = {
    "a": "test accuracy of the one less that of the other",
    **dict.fromkeys("bc", "likewise"),
    "d": "the gain with the fewest examples less that with the most",
    "e": "mean ln |dW|/|W| of the later half of the layers less that of the earlier, "
    "classifier aside",
    "f": "0.02 less the test accuracy that fine-tuning adds with the fewest examples",
    "g": "as a",
}


def budgets(columns: Columns) -> list[int]:
    """Return the numbers of examples, rising."""
    return np.unique(pick(columns, kind="accuracy")["budget"]).tolist()


def shifts(columns: Columns) -> list[int]:
    """Return the shifts, rising."""
    return np.unique(pick(columns, kind="accuracy")["shift"]).tolist()


def methods(columns: Columns) -> list[str]:
    """Return the ways that were gone."""
    return [method for method in METHODS if np.any(columns["method"] == method)]


def accuracies(columns: Columns, name: str = "accuracy") -> dict[str, np.ndarray]:
    """Return by way one number for each shift, number of examples, and seed."""
    rows = {way: pick(columns, kind="accuracy", method=way) for way in methods(columns)}
    return {way: lab.array(found, name, "shift", "budget", "seed") for way, found in rows.items()}


def layers(columns: Columns, method: str, name: str) -> np.ndarray:
    """Return one number for each shift, number of examples, seed and layer."""
    rows = pick(columns, kind="layer", method=method)
    return lab.array(rows, name, "shift", "budget", "seed", "position")


def error(values: np.ndarray) -> np.ndarray:
    """Return the standard error of the mean over seeds, the last axis."""
    return np.std(values, axis=-1, ddof=1) / np.sqrt(values.shape[-1])


def sentences(columns: Columns) -> list[Claim]:
    """Return the sentences, each with its evidence."""
    of, counts = accuracies(columns), budgets(columns)
    went = layers(columns, TUNED, "log_movement")[..., :-1]
    half = went.shape[-1] // 2
    gain, fewest, most = of[TUNED] - of[SCRATCH], counts[0], counts[-1]
    fading = gain[:, :1] - gain[:, -1:] if most > fewest else gain[:, :0]

    def each(
        values: np.ndarray, names: Sequence[Any] = counts, least: float = 0.0
    ) -> list[Evidence]:
        among = [f"shift {shift}, " if len(values) > 1 else "" for shift in shifts(columns)]
        return [
            evidence(f"{where}{name} a class", seeds, least)
            for where, row in zip(among, values, strict=True)
            for name, seeds in zip(names, row, strict=False)
        ]

    late = went[..., -half:].mean(-1) - went[..., :half].mean(-1)
    found = {
        "a": each(gain),
        "b": each(of[FROZEN] - of[SCRATCH]),
        "c": each(of[TUNED] - of[FROZEN]),
        "d": each(fading, [f"{fewest} vs {most}"]),
        "e": each(late, least=LEAST),
        "f": each(ENOUGH - (of[TUNED] - of[FROZEN])[:, :1]),
    }
    if STAGED in of:
        found["g"] = each(of[STAGED] - of[TUNED])
    return [Claim(letter, SAID[letter], given, RULES[letter]) for letter, given in found.items()]


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
    wide = float(error(support))
    shown = f"{support.mean():+.3f} ± {wide:.3f}"
    return OfSeeds(condition, support, shown, margin=max(ERRORS * wide, least))
