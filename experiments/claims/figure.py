"""The figure of claims: the twins after training, without a unit, and at initialization."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from convjax import plots
from convjax.lab import Columns, pick, series
from experiments.claims import shortcuts
from experiments.claims.networks import PLAIN, RESIDUAL

MIDDLE: dict[str, Any] = {"middle": np.median, "joined": True}


def draw(columns: Columns) -> Figure:
    """Draw training loss and test accuracy by depth, lesions, and gradients at initialization."""
    panel = plots.Panel
    last = int(pick(columns, kind="birth")["depth"].max())
    losses, accuracies = (_by_depth(columns, name) for name in ("train_loss", "test_accuracy"))
    return plots.panels(
        "Plain and residual twins: trained on the digits, and at initialization",
        [
            panel("after training", "layers", "training loss", losses, yscale="log"),
            panel("after training", "layers", "test accuracy", accuracies),
            panel(
                "one unit taken out, of the deepest that trained",
                "place of the unit, as a share of depth",
                "accuracy lost",
                list(_lesions(columns)),
            ),
            panel(
                f"at initialization, {last} layers",
                "units travelled back",
                "|g_l|² / |g_L|²",
                list(_initial(columns)),
                yscale="log",
                level=1.0,
            ),
        ],
        columns=2,
    )


def _label(twin: str, norm: str, init: str = "he") -> str:
    """Name a network; without a norm, of He's initializer, by its shortcuts alone."""
    parts = (twin, "BN" if norm == "batch" else "", "LeCun" if init == "lecun" else "")
    return " ".join(filter(None, parts))


def _kinds(columns: Columns) -> Iterator[tuple[str, str, list[int]]]:
    """Yield norm, twin and depths of the networks that were trained."""
    every = shortcuts.pairs(columns)
    for norm in dict.fromkeys(norm for norm, _ in every):
        for twin in (PLAIN, RESIDUAL):
            yield norm, twin, [depth for name, depth in every if name == norm]


def _by_depth(columns: Columns, quantity: str) -> list[plots.Series]:
    made = []
    for norm, twin, depths in _kinds(columns):
        curves = (
            shortcuts.found(columns, "curve", twin, (norm, depth), quantity) for depth in depths
        )
        values = np.stack([curve[:, -1] for curve in curves], axis=1)
        made.append(series(_label(twin, norm), depths, values, **MIDDLE))
    return made


def _lesions(columns: Columns) -> Iterator[plots.Series]:
    """Yield the deepest networks of each kind of which most seeds trained."""
    for norm, twin, depths in _kinds(columns):
        pairs = [(norm, depth) for depth in depths]
        fit = [pair for pair in pairs if shortcuts.fits(columns, pair, twin).mean() > 0.5]
        if fit:
            lost = shortcuts.lost(columns, fit[-1], twin)
            place = (np.arange(lost.shape[1]) + 0.5) / lost.shape[1]
            yield series(_label(twin, norm), place, lost, **MIDDLE)


def _initial(columns: Columns) -> Iterator[plots.Series]:
    for init, pair in shortcuts.stacks(columns):
        for twin in (PLAIN, RESIDUAL):
            logs = shortcuts.found(columns, "birth", twin, pair, init)
            back = np.arange(logs.shape[1])[::-1]
            yield series(_label(twin, pair[0], init), back, np.exp(logs), **MIDDLE)
