"""Whether the networks learned what they were shown, and whether pretraining helped."""

import numpy as np

from convjax import lab
from convjax.lab import Columns, Criterion, digits, pick, that
from experiments.transfer.sentences import ERRORS, accuracies, budgets, error, shifts
from experiments.transfer.trial import SCRATCH, TUNED

PRETRAINED, FITTED = 0.9, 0.95


def judge(columns: Columns) -> list[Criterion]:
    """Return whether the networks learned what they were shown, and whether that helped."""
    criteria, of = [], accuracies(columns)
    learned = pick(columns, kind="pretrained")
    if learned["accuracy"].size:
        medians = np.median(lab.array(learned, "accuracy", "shift", "seed"), axis=1)
        text = "pretraining has learned its classes: median accuracy on their test images"
        shown = ", ".join(digits(median, 3) for median in medians)
        criteria.append(that(text, min(medians) >= PRETRAINED, shown, f"at least {PRETRAINED}"))
    for method in (SCRATCH, TUNED):
        worst = np.median(accuracies(columns, "train_accuracy")[method], axis=-1).min()
        text = f"{method} fits its examples: median accuracy on them, the worst"
        criteria.append(that(text, worst >= FITTED, digits(worst, 3), f"at least {FITTED}"))
    among = f", shift {shifts(columns)[-1]}" if len(shifts(columns)) > 1 else ""
    text = f"{budgets(columns)[0]} examples a class{among}: fine-tuning beats training from scratch"
    gain = (of[TUNED] - of[SCRATCH])[-1, 0]
    shown, beats = (
        f"{gain.mean():+.3f} ± {error(gain):.3f} (s.e.)",
        gain.mean() > ERRORS * error(gain),
    )
    return [*criteria, that(text, beats, shown, f"more than {ERRORS:g} s.e. above 0")]
