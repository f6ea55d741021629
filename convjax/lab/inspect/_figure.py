"""What inspect finds: criteria, table and figure."""

from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from convjax import lab, plots
from convjax.lab import Columns, Criterion, digits, pick, that

WIDE = 2.0
"""Standard deviations of the band of theory, beside its slack."""


def judge(columns: Columns) -> list[Criterion]:
    """Return whether all is finite, whether all units learn, and whether theory agrees."""
    logs = np.stack([columns[f"{name}_log_norm"] for name in ("activation", "gradient")])
    own = columns["parameter_gradient_log_norm"][columns["parameter_count"] > 0]
    broken = int((~(logs < np.inf)).any(0).sum() + (~(own < np.inf)).sum())
    silent = (columns["parameter_count"] > 0) & np.isneginf(columns["parameter_gradient_log_norm"])
    named = columns["path"][silent].tolist()
    such = f", such as {named[0]}" if named else ""
    silence, claim = f"{len(named)} are given none{such}", "every unit with parameters is given a"
    made = [
        that("activations and gradients are finite", broken == 0, f"{broken} are not", "all"),
        that(f"{claim} gradient", not named, silence, "0"),
    ]
    if not columns["fresh"][0]:
        return made
    scores = np.concatenate([columns["activation_z"], columns["gradient_z"]])
    threshold, first, cause = (columns[name][0] for name in ("threshold", "first", "cause"))
    why = f" at {first}: {cause or 'no known cause'}" if first else ""
    covered = columns["coverage"][0]
    why = f"{why}; {covered}" if covered else why
    judged = int(np.isfinite(scores).sum())
    claim = "fresh weights: no unit departs from mean-field theory"
    largest = f"largest |z| {np.nanmax(np.abs(scores)):.1f}{why}"
    return [*made, that(claim, not first, largest, f"at most {threshold:.1f} of {judged} gains")]


def table(columns: Columns) -> Table:
    """Return the units that are shown: activations, gradients, and what is expected of them."""
    norms = {
        "output": columns["activation_rms"],
        "expected": _expected(columns, "activation", "log_rms"),
        "gradient": np.exp(relative(columns)),
        "expected ": _expected(columns, "gradient", "log_norm"),
        "weights": np.exp(columns["parameter_log_norm"]),
        "its grad.": np.exp(columns["parameter_gradient_log_norm"]),
    }
    if not columns["fresh"][0]:
        norms = {head: norm for head, norm in norms.items() if head.strip() != "expected"}
    rows = []
    for i in np.flatnonzero(columns["shown"]):
        sizes = ("" if np.isnan(norm[i]) else digits(norm[i], 3) for norm in norms.values())
        rows.append((columns["path"][i] or "(the whole)", columns["kind"][i], *sizes))
    over = "norm of its gradient over that at the network's output"
    title = f"Root mean square of the output; {over}; norm of the weights and of its gradient"
    made = lab.plain_table(title, ("unit", "kind", *map(str.strip, norms)), rows)
    for column in made.columns[:2]:
        column.overflow = "fold"
    for column in made.columns[2:]:
        column.justify, column.no_wrap = "right", True
    said = [columns[name][0] for name in ("hidden", "coverage")]
    made.caption, made.caption_justify = "\n".join(filter(None, said)), "left"
    made.caption_style = ""
    return made


def _expected(columns: Columns, side: str, size: str) -> np.ndarray:
    """Return what theory expects, NaN beyond a leaf of which it knows nothing."""
    known = np.isfinite(columns[f"expected_{side}_slack"])
    return np.where(known, np.exp(columns[f"expected_{side}_{size}"]), np.nan)


def relative(columns: Columns) -> np.ndarray:
    """Return ln of every gradient's norm over that at the network's output."""
    logs = columns["gradient_log_norm"]
    return logs - logs[columns["path"] == ""]


def draw(columns: Columns) -> Figure:
    """Draw activations, gradients and the gradients of the weights along the layers."""
    columns = columns | {"relative": relative(columns)}
    rows = pick(columns, position=np.arange(columns["position"].max() + 1))
    rms = np.log(np.maximum(rows["activation_rms"], np.finfo(float).tiny))
    weights = rows["parameter_gradient_log_norm"] - rows["parameter_log_norm"]

    activations = [*_theory(rows, "log_rms", "activation"), _points(rows, rms)]
    gradients = [*_theory(rows, "log_norm", "gradient"), _points(rows, rows["relative"])]
    panel: Any = partial(plots.Panel, xlabel="layer", yscale="log")
    back, own = "norm / that at the network's output", "norm / that of the weights"
    return plots.panels(
        "Signal and gradient along the layers (leaves with a kernel)",
        [
            panel("activations", ylabel="root mean square of the output", series=activations),
            panel("gradients of activations", ylabel=back, series=gradients, level=1.0),
            panel("gradients of weights", ylabel=own, series=[_points(rows, weights)]),
        ],
    )


def _points(rows: Columns, logs: np.ndarray) -> plots.Series:
    seen = np.isfinite(logs)  # zero has no place on a logarithmic axis
    return plots.Series("this network", rows["position"][seen], np.exp(logs[seen]), joined=True)


def _theory(rows: Columns, size: str, side: str) -> list[plots.Series]:
    """Return the band of theory, of fresh weights."""
    if not rows["fresh"][0]:
        return []
    middle, scatter, slack = (rows[f"expected_{side}_{of}"] for of in (size, "scatter", "slack"))
    wide = WIDE * scatter + slack
    known = np.isfinite(middle) & np.isfinite(wide)
    middle, wide = middle[known], wide[known]
    band = plots.Series(
        f"mean-field theory, {WIDE:g} standard deviations",
        rows["position"][known],
        expected=np.exp(middle),
        expected_low=np.exp(middle - wide),
        expected_high=np.exp(middle + wide),
    )
    return [band]
