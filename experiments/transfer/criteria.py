"""Whether the networks learned what they were shown, and whether pretraining helped."""

import numpy as np

from convjax.lab import Columns, Criterion, digits, pick, that
from experiments.transfer.sentences import ERRORS, budgets, error, gain, of, shifts
from experiments.transfer.trial import SCRATCH, TUNED

PRETRAINED, FITTED = 0.9, 0.95


def judge(columns: Columns) -> list[Criterion]:
    """Return whether the networks learned what they were shown, and whether that helped."""
    criteria = []
    every, learned = shifts(columns), pick(columns, kind="pretrained")
    if learned["accuracy"].size:
        medians = [float(np.median(pick(learned, shift=n)["accuracy"])) for n in every]
        criteria.append(
            that(
                "pretraining has learned its classes: median accuracy on their test images",
                min(medians) >= PRETRAINED,
                ", ".join(digits(median, 3) for median in medians),
                f"at least {PRETRAINED}",
            )
        )
    for method in (SCRATCH, TUNED):
        worst = min(
            float(np.median(of(columns, method, shift, n, "train_accuracy")))
            for shift in every
            for n in budgets(columns)
        )
        criteria.append(
            that(
                f"{method} fits its examples: median accuracy on them, the worst",
                worst >= FITTED,
                digits(worst, 3),
                f"at least {FITTED}",
            )
        )
    fewest, hardest = budgets(columns)[0], every[-1]
    gained = gain(columns, TUNED, SCRATCH, hardest, fewest)
    among = f", shift {hardest}" if len(every) > 1 else ""
    criteria.append(
        that(
            f"{fewest} examples a class{among}: fine-tuning beats training from scratch",
            gained.mean() > ERRORS * error(gained),
            f"{gained.mean():+.3f} ± {error(gained):.3f} (s.e.)",
            f"more than {ERRORS:g} s.e. above 0",
        )
    )
    return criteria
