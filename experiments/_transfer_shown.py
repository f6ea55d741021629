"""What transfer finds: criteria, tables and the figure."""

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from convjax import lab, plots
from convjax.lab import Columns, Criterion, digits, pick, that
from experiments._claims_rules import AGAINST, FOR, NEITHER, ONLY
from experiments._transfer_sentences import (
    ERRORS,
    budgets,
    error,
    of,
    per_layer,
    sentences,
    shifts,
)
from experiments._transfer_trial import METHODS, SCRATCH, TUNED

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
    """Say how many examples from scratch are as good as so many in fine-tuning."""
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
    made = Table(
        title="What course texts say, and what this run says of it",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        show_lines=True,
        expand=True,
    )
    for head, ratio in (("", None), ("sentence", 5), ("verdict", 3), ("", None), ("number", 4)):
        made.add_column(head or "mean over seeds ± s.e.", ratio=ratio, no_wrap=not ratio)
    made.columns[0].header = ""
    for claim in sentences(columns):
        sides = [e.side for e in claim.evidence]
        shown = [f"{e.condition}: {e.shown} {_MARKS[e.side]}" for e in claim.evidence]
        verdict = claim.verdict
        if verdict.startswith(ONLY):
            verdict = f"holds in {sides.count(FOR)} of {len(sides)}"
        made.add_row(claim.number, claim.text, verdict, "\n".join(shown), claim.rule)
    return made


_MARKS = {FOR: "for", AGAINST: "against", NEITHER: "-"}


def draw(columns: Columns) -> Figure:
    """Draw accuracies by examples; by layer, signal, gradients and the way of the weights."""
    hardest, most = shifts(columns)[-1], budgets(columns)[-1]
    many = len(shifts(columns)) > 1
    panel = plots.Panel

    def by_layer(title: str, label: str, name: str) -> plots.Panel:
        series = _by_layer(columns, hardest, most, name)
        return panel(title, "layer", f"{label} (all seeds)", series, yscale="log")

    return plots.panels(
        "Transfer to new classes in three ways; below, by layer: "
        f"{most} examples a class{f', {_placed(hardest)}' if many else ''}",
        [
            *(
                panel(
                    _placed(shift),
                    "examples a class",
                    "test accuracy (± 2 s.e.)",
                    _by_budget(columns, shift),
                )
                for shift in shifts(columns)
            ),
            by_layer("first step: output of a layer", "norm", "activation_log_norm"),
            by_layer("first step: gradient of it", "norm", "gradient_log_norm"),
            by_layer("first step: gradient of its weights", "norm", "parameter_gradient_log_norm"),
            by_layer("in the end: how far they went", "|dW| / |W|", "log_movement"),
        ],
    )


def _placed(shift: int) -> str:
    return f"images up to {shift} pixels off the centre" if shift else "images as they are"


def _by_budget(columns: Columns, shift: int) -> list[plots.Series]:
    counts = budgets(columns)
    series = []
    for method in METHODS:
        found = [of(columns, method, shift, n) for n in counts]
        mean = np.array([one.mean() for one in found])
        wide = ERRORS * np.array([error(one) for one in found])
        series.append(
            plots.Series(method, counts, mean, low=mean - wide, high=mean + wide, joined=True)
        )
    return series


def _by_layer(columns: Columns, shift: int, budget: int, name: str) -> list[plots.Series]:
    series = []
    for method in METHODS:
        logs = per_layer(columns, method, shift, budget, name)
        # What is given no gradient, or does not move, has no place on a logarithmic axis.
        place = np.flatnonzero(np.isfinite(logs).all(0))
        logs = logs[:, place]
        low, high = np.exp(logs.min(0)), np.exp(logs.max(0))
        middle = np.exp(logs.mean(0))
        series.append(plots.Series(method, place, middle, low=low, high=high, joined=True))
    return series
