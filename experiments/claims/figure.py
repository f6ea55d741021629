"""What claims shows: the table of verdicts, and the figure."""

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from convjax import plots
from convjax.lab import Columns, pick
from experiments.claims import convolutions, shortcuts
from experiments.claims.networks import PLAIN, RESIDUAL

HEADS = ("", "claim", "verdict", "measured", "what decides it")


def table(columns: Columns) -> Table:
    """Return every claim with its verdict, what was measured, and what decides."""
    made = Table(
        title="What course texts say, and what a run says of it",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        show_lines=True,
    )
    for head, ratio in zip(HEADS, (None, 5, 4, 7, 4), strict=True):
        made.add_column(head, ratio=ratio)
    made.expand = True
    for claim in [*convolutions.claims(columns), *shortcuts.claims(columns)]:
        made.add_row(claim.number, claim.text, claim.verdict, claim.shown, claim.rule)
    return made


def draw(columns: Columns) -> Figure:
    """Draw training loss and test accuracy by depth, lesions, and gradients at initialization."""
    panel = plots.Panel
    last = int(pick(columns, kind="birth")["depth"].max())
    return plots.panels(
        "Plain and residual twins: trained on the digits, and at initialization",
        [
            panel(
                "after training",
                "layers",
                "training loss",
                _by_depth(columns, "train_loss"),
                yscale="log",
            ),
            panel(
                "after training",
                "layers",
                "test accuracy",
                _by_depth(columns, "test_accuracy"),
            ),
            panel(
                "one unit taken out, of the deepest that trained",
                "place of the unit, as a share of depth",
                "accuracy lost",
                _lesions(columns),
            ),
            panel(
                f"at initialization, {last} layers",
                "units travelled back",
                "|g_l|² / |g_L|²",
                _births(columns),
                yscale="log",
                level=1.0,
            ),
        ],
        columns=2,
    )


def _label(twin: str, norm: str, init: str = "he") -> str:
    """Name a network; without a norm, of He's initialisation, by its shortcuts alone."""
    parts = (twin, "BN" if norm == "batch" else "", "LeCun" if init == "lecun" else "")
    return " ".join(filter(None, parts))


def _by_depth(columns: Columns, quantity: str) -> list[plots.Series]:
    made = []
    every = shortcuts.pairs(columns)
    for norm in dict.fromkeys(norm for norm, _ in every):
        depths = sorted(depth for name, depth in every if name == norm)
        ends = [shortcuts.end(columns, norm, depth, quantity) for depth in depths]
        for i, twin in enumerate((PLAIN, RESIDUAL)):
            values = np.array([end[i] for end in ends])
            label = _label(twin, norm)
            low, middle, high = values.min(1), np.median(values, 1), values.max(1)
            made.append(plots.Series(label, depths, middle, low, high, joined=True))
    return made


def _lesions(columns: Columns) -> list[plots.Series]:
    """Return the deepest networks of each kind of which most seeds trained."""
    made = []
    every = shortcuts.pairs(columns)
    for norm in dict.fromkeys(norm for norm, _ in every):
        for twin in (PLAIN, RESIDUAL):
            fit = [
                depth
                for name, depth in every
                if name == norm and shortcuts.fits(columns, (norm, depth), twin).mean() > 0.5
            ]
            if not fit:
                continue
            made.append(_lesion(columns, norm, twin, max(fit)))
    return made


def _lesion(columns: Columns, norm: str, twin: str, depth: int) -> plots.Series:
    looked = ("looked", twin, norm)
    whole = shortcuts.found(columns, *looked, "whole_accuracy", depth)
    lost = whole - shortcuts.found(columns, *looked, "without_accuracy", depth)
    lost = lost[shortcuts.fits(columns, (norm, depth), twin)]
    place = (np.arange(lost.shape[1]) + 0.5) / lost.shape[1]
    label = _label(twin, norm)
    return plots.Series(label, place, np.median(lost, 0), lost.min(0), lost.max(0), joined=True)


def _births(columns: Columns) -> list[plots.Series]:
    made = []
    rows = pick(columns, kind="birth")
    cases = zip(
        rows["name"].tolist(), rows["norm"].tolist(), rows["quantity"].tolist(), strict=True
    )
    for twin, norm, init in dict.fromkeys(cases):
        logs = shortcuts.found(rows, "birth", twin, norm, init, int(rows["depth"][0]))
        ratios, back = np.exp(logs), np.arange(logs.shape[1])[::-1]
        low, middle, high = ratios.min(0), np.median(ratios, 0), ratios.max(0)
        made.append(plots.Series(_label(twin, norm, init), back, middle, low, high, joined=True))
    return made
