"""What inspect finds: criteria, table and figure."""

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
    made = [
        that("activations and gradients are finite", broken == 0, f"{broken} are not", "all"),
        that(
            "every unit with parameters is given a gradient",
            not named,
            f"{len(named)} are given none{f', such as {named[0]}' if named else ''}",
            "0",
        ),
    ]
    if not columns["fresh"][0]:
        return made
    scores = np.concatenate([columns["activation_z"], columns["gradient_z"]])
    largest, threshold = float(np.nanmax(np.abs(scores))), float(columns["threshold"][0])
    first, cause = columns["first"][0], columns["cause"][0]
    why = f" at {first}: {cause or 'no known cause'}" if first else ""
    judged = int(np.isfinite(scores).sum())
    return [
        *made,
        that(
            "fresh weights: no unit departs from mean-field theory",
            not first,
            f"largest |z| {largest:.1f}{why}",
            f"at most {threshold:.1f} of {judged} gains",
        ),
    ]


def table(columns: Columns) -> Table:
    """Return the units that are shown: activations, gradients, and what is expected of them."""
    fresh = bool(columns["fresh"][0])
    gradients = relative(columns)
    rows = []
    for i in np.flatnonzero(columns["shown"]):
        expected = {
            name: columns[f"expected_{name}"][i]
            for name in ("activation_log_rms", "gradient_log_norm")
        }
        row = [columns["path"][i] or "(the whole)", columns["kind"][i]]
        row.append(_number(columns["activation_rms"][i]))
        row += [_number(np.exp(expected["activation_log_rms"]))] if fresh else []
        row.append(_number(np.exp(gradients[i])))
        row += [_number(np.exp(expected["gradient_log_norm"]))] if fresh else []
        row.append(_number(np.exp(columns["parameter_log_norm"][i])))
        row.append(_number(np.exp(columns["parameter_gradient_log_norm"][i])))
        rows.append(row)
    beside = ["expected"] if fresh else []
    heads = [
        "unit",
        "kind",
        "activation",
        *beside,
        "gradient",
        *beside,
        "weights",
        "their gradient",
    ]
    title = (
        "Root mean square of the output; norm of its gradient over that at the network's output; "
        "norms of weights"
    )
    made = lab.plain_table(title, heads, rows)
    for column in made.columns[2:]:
        column.justify = "right"
    return made


def relative(columns: Columns) -> np.ndarray:
    """Return ln of every gradient's norm over that at the network's output."""
    logs = columns["gradient_log_norm"]
    return logs - logs[columns["path"] == ""]


def _number(value: float) -> str:
    return "" if np.isnan(value) else digits(float(value), 3)


def draw(columns: Columns) -> Figure:
    """Draw activations, gradients and the gradients of the weights along the layers."""
    columns = columns | {"relative": relative(columns)}
    rows = pick(columns, position=np.arange(columns["position"].max() + 1))
    panel = plots.Panel
    rms = np.log(np.maximum(rows["activation_rms"], np.finfo(float).tiny))
    steps = rows["parameter_gradient_log_norm"] - rows["parameter_log_norm"]
    return plots.panels(
        "Signal and gradient along the layers (leaves with a kernel)",
        [
            panel(
                "activations",
                "layer",
                "root mean square of the output",
                _series(rows, rms, "activation_log_rms", "activation"),
                yscale="log",
            ),
            panel(
                "gradients of activations",
                "layer",
                "norm / that at the network's output",
                _series(rows, rows["relative"], "gradient_log_norm", "gradient"),
                yscale="log",
                level=1.0,
            ),
            panel(
                "gradients of weights",
                "layer",
                "norm / that of the weights",
                [_points(rows, steps)],
                yscale="log",
            ),
        ],
    )


def _points(rows: Columns, logs: np.ndarray) -> plots.Series:
    seen = np.isfinite(logs)  # zero has no place on a logarithmic axis
    return plots.Series("this network", rows["position"][seen], np.exp(logs[seen]), joined=True)


def _series(rows: Columns, logs: np.ndarray, name: str, side: str) -> list[plots.Series]:
    points = [_points(rows, logs)]
    if not rows["fresh"][0]:
        return points
    middle = rows[f"expected_{name}"]
    wide = WIDE * rows[f"expected_{side}_scatter"] + rows[f"expected_{side}_slack"]
    known = np.isfinite(middle) & np.isfinite(wide)
    middle, wide = middle[known], wide[known]
    band = plots.Series(
        f"mean-field theory, {WIDE:g} standard deviations",
        rows["position"][known],
        expected=np.exp(middle),
        expected_low=np.exp(middle - wide),
        expected_high=np.exp(middle + wide),
    )
    return [band, *points]
