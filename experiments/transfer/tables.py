"""Accuracies, and the sentences of course texts with their verdicts."""

import numpy as np
from rich.table import Table

from convjax import lab
from convjax.lab import Columns, digits, pick
from convjax.lab.rules import AGAINST, FOR, NEITHER, ONLY
from experiments.transfer.sentences import budgets, of, sentences, shifts
from experiments.transfer.trial import METHODS, SCRATCH, TUNED


def table(columns: Columns) -> Table:
    """Return the accuracies, and under them the sentences with their verdicts."""
    both = Table.grid(padding=(0, 0, 1, 0))
    both.add_row(accuracies(columns))
    both.add_row(verdicts(columns))
    return both


def accuracies(columns: Columns) -> Table:
    """Return test accuracies, one row for each shift and number of examples."""
    rows = []
    for shift in shifts(columns):
        for budget in budgets(columns):
            found = [of(columns, method, shift, budget) for method in METHODS]
            cells = [f"{one.mean():.3f} ± {one.std(ddof=1):.3f}" for one in found]
            rows.append((f"{shift}", budget, *cells, worth(columns, shift, budget)))
    heads = ("shift", "examples a class", *METHODS, "as good from scratch")
    seeds = len(np.unique(pick(columns, kind="accuracy")["seed"]))
    title = f"Test accuracy, mean ± standard deviation over {seeds} seeds"
    return lab.plain_table(title, heads, rows)


def worth(columns: Columns, shift: int, budget: int) -> str:
    """Say how many examples from scratch are as good as ``budget`` in fine-tuning."""
    counts = budgets(columns)
    means = [float(of(columns, SCRATCH, shift, n).mean()) for n in counts]
    reached = float(of(columns, TUNED, shift, budget).mean())
    if reached < means[0]:
        return f"below {counts[0]}"
    if reached > max(means):
        return f"above {counts[-1]}"
    # The accuracy of the best budget up to here, so that the way back is one.
    best = np.maximum.accumulate(means)
    return digits(float(np.exp(np.interp(reached, best, np.log(counts)))), 2)


def verdicts(columns: Columns) -> Table:
    """Return the sentences, each with what was measured and its verdict."""
    heads = ("", "sentence", "verdict", "mean over seeds ± s.e.", "number")
    rows = []
    for claim in sentences(columns):
        sides = [e.side for e in claim.evidence]
        shown = [f"{e.condition}: {e.shown} {MARKS[e.side]}" for e in claim.evidence]
        verdict = claim.verdict
        if verdict.startswith(ONLY):
            verdict = f"holds in {sides.count(FOR)} of {len(sides)}"
        rows.append((claim.number, claim.text, verdict, "\n".join(shown), claim.rule))
    made = lab.plain_table("What course texts say, and what this run says of it", heads, rows)
    made.show_lines, made.columns[3].no_wrap = True, True
    return made


MARKS = {FOR: "for", AGAINST: "against", NEITHER: "-"}
