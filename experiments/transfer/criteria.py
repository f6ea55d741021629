"""Whether the networks learned what they were shown, and whether pretraining helped."""

import numpy as np

from convjax.lab import Columns, Criterion, digits, pick, that
from experiments.transfer.sentences import ERRORS, budgets, error, of, shifts
from experiments.transfer.trial import SCRATCH, TUNED

PRETRAINED, FITTED = 0.9, 0.95


def judge(columns: Columns) -> list[Criterion]:
    """Return whether the networks learned what they were shown, and whether that helped."""
    criteria = []
    learned = pick(columns, kind="pretrained")
    if learned["accuracy"].size:
        medians = [np.median(pick(learned, shift=n)["accuracy"]) for n in shifts(columns)]
        criteria.append(
            that(
                "pretraining has learned its classes: median accuracy on their test images",
                min(medians) >= PRETRAINED,
                ", ".join(digits(float(m), 3) for m in medians),
                f"at least {PRETRAINED}",
            )
        )
    for method in (SCRATCH, TUNED):
        fitted = [
            float(np.median(of(columns, method, shift, n, "train_accuracy")))
            for shift in shifts(columns)
            for n in budgets(columns)
        ]
        criteria.append(
            that(
                f"{method} fits its examples: median accuracy on them, the worst",
                min(fitted) >= FITTED,
                digits(min(fitted), 3),
                f"at least {FITTED}",
            )
        )
    fewest, hardest = budgets(columns)[0], shifts(columns)[-1]
    gain = of(columns, TUNED, hardest, fewest) - of(columns, SCRATCH, hardest, fewest)
    among = f", shift {hardest}" if len(shifts(columns)) > 1 else ""
    criteria.append(
        that(
            f"{fewest} examples a class{among}: fine-tuning beats training from scratch",
            bool(gain.mean() > ERRORS * error(gain)),
            f"{gain.mean():+.3f} ± {error(gain):.3f} (s.e.)",
            f"more than {ERRORS:g} s.e. above 0",
        )
    )
    return criteria
