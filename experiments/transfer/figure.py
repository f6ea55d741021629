"""What transfer shows: accuracies by examples, layers, and the sentences with their verdicts."""

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import lab, plots
from convjax.lab import Columns
from convjax.lab.rules import AGAINST, FOR, NEITHER, ONLY
from experiments.transfer.sentences import (
    ERRORS,
    budgets,
    error,
    of,
    per_layer,
    sentences,
    shifts,
)
from experiments.transfer.trial import METHODS, SCRATCH, TUNED

MARKS = {FOR: "for", AGAINST: "against", NEITHER: "-"}


def draw(columns: Columns) -> Figure:
    """Draw accuracies by examples; by layer, signal, gradients and the way of the weights."""
    every, most = shifts(columns), budgets(columns)[-1]

    def by_layer(title: str, label: str, name: str) -> plots.Panel:
        series = [_by_layer(columns, method, every[-1], most, name) for method in METHODS]
        return plots.Panel(title, "layer", f"{label} (all seeds)", series, yscale="log")

    accuracies = [
        plots.Panel(
            _placed(shift),
            "examples a class",
            "test accuracy (± 2 s.e.)",
            [_by_budget(columns, method, shift) for method in METHODS],
        )
        for shift in every
    ]
    where = f", {_placed(every[-1])}" if len(every) > 1 else ""
    return plots.panels(
        f"Transfer to new classes in three ways; below, by layer: {most} examples a class{where}",
        [
            *accuracies,
            by_layer("first step: output of a layer", "norm", "activation_log_norm"),
            by_layer("first step: gradient of it", "norm", "gradient_log_norm"),
            by_layer("first step: gradient of its weights", "norm", "parameter_gradient_log_norm"),
            by_layer("in the end: how far they went", "|dW| / |W|", "log_movement"),
        ],
    )


def _placed(shift: int) -> str:
    return f"images up to {shift} pixels off the centre" if shift else "images as they are"


def _by_budget(columns: Columns, method: str, shift: int) -> plots.Series:
    counts = budgets(columns)
    found = np.array([of(columns, method, shift, n) for n in counts])
    mean, wide = found.mean(1), ERRORS * np.array([error(one) for one in found])
    return plots.Series(method, counts, mean, low=mean - wide, high=mean + wide, joined=True)


def _by_layer(columns: Columns, method: str, shift: int, budget: int, name: str) -> plots.Series:
    logs = per_layer(columns, method, shift, budget, name)
    # What is given no gradient, or does not move, has no place on a logarithmic axis.
    place = np.flatnonzero(np.isfinite(logs).all(0))
    return lab.series(method, place, logs[:, place], logs=True, joined=True)


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
    seeds = len(np.unique(columns["seed"]))
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
    return lab.digits(float(np.exp(np.interp(reached, best, np.log(counts)))), 2)


def verdicts(columns: Columns) -> Table:
    """Return the sentences, each with what was measured and its verdict."""
    rows = []
    for claim in sentences(columns):
        sides = [e.side for e in claim.evidence]
        shown = [f"{e.condition}: {e.shown} {MARKS[e.side]}" for e in claim.evidence]
        verdict = claim.verdict
        if verdict.startswith(ONLY):
            verdict = f"holds in {sides.count(FOR)} of {len(sides)}"
        rows.append((claim.number, claim.text, verdict, "\n".join(shown), claim.rule))
    heads = ("", "sentence", "verdict", "mean over seeds ± s.e.", "number")
    made = lab.plain_table("What course texts say, and what this run says of it", heads, rows)
    made.show_lines, made.columns[3].no_wrap = True, True
    return made
