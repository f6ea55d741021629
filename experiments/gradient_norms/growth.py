"""How a gradient grows along the trunk, by network and step, all seeds together; and the table."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
from rich.table import Table

from convjax import gradflow, lab, study
from convjax.lab import Classifier, Columns

AXES = tuple(field.name for field in dataclasses.fields(Classifier))
TITLE = "Norm of the loss's gradient by the output of the stem (first) and of the last unit"
CAPTION = (
    "first, last: geometric mean over seeds; ratio: of the two. per layer: factor by which the "
    "norm grows for each layer that it travels back, mean over seeds ± their standard deviation. "
    "better fit: exponential in the position l along the stack, or the power law (l+1)^p with that "
    "p, for most seeds. R²: what each of the two, in that order, explains of the variance of the "
    "norm's logarithm."
)


@dataclasses.dataclass(frozen=True)
class Growth:
    """What one network's seeds say at one step; logarithms are natural.

    Attributes:
      key: the network's configuration and the step.
      first: log gradient norm at the stem's output, mean over seeds.
      last: the same at the last unit's.
      factors: growth per layer travelled back, one for each seed.
      law: which fit is better for most seeds.
      power: exponent of the power law, mean over seeds.
      r2: explained share of the variance, by the exponential and by the power law.
      failure: why there is nothing to say, or "".
    """

    key: dict[str, Any]
    first: float = np.nan
    last: float = np.nan
    factors: tuple[float, ...] = ()
    law: str = ""
    power: float = np.nan
    r2: tuple[float, float] = (np.nan, np.nan)
    failure: str = ""


def growths(columns: Columns, by: list[str]) -> list[Growth]:
    """Return the growth of each network at each step; ``by`` are the columns that tell them apart.

    The trunk is what has a ``position`` of at least 0: the stem, then the units.
    """
    trunk = {name: column[columns["position"] >= 0] for name, column in columns.items()}
    return [_growth(key, rows) for key, rows in study.groups(trunk, by)]


def _growth(key: dict[str, Any], rows: Columns) -> Growth:
    if failures := [text for text in rows["failure"].tolist() if text]:
        return Growth(key, failure=failures[0])
    logs = lab.array(rows, "gradient_log_norm", "seed", "position")
    first, last = float(logs[:, 0].mean()), float(logs[:, -1].mean())
    try:
        fits = [gradflow.growth(log) for log in logs]
    except ValueError as error:
        return Growth(key, first, last, failure=f"no fit: {error}")
    return Growth(
        key,
        first,
        last,
        factors=tuple(float(np.exp(fit.rate / Classifier.convs_per_unit)) for fit in fits),
        law=Counter(fit.law for fit in fits).most_common(1)[0][0],
        power=float(np.mean([fit.power for fit in fits])),
        r2=(
            float(np.mean([fit.exponential_r2 for fit in fits])),
            float(np.mean([fit.power_r2 for fit in fits])),
        ),
    )


def table(columns: Columns) -> Table:
    """Return the growth of every network's gradient, initially and after training."""
    varied = [axis for axis in AXES if len(set(columns[axis].tolist())) > 1]
    by = [axis for axis in AXES if axis in {"norm", "shortcut", "depth", *varied}] + ["step"]
    heads = (*by, "first", "last", "ratio", "per layer", "better fit", "R²")
    rows = [(*(one.key[name] for name in by), *_cells(one)) for one in growths(columns, by)]
    made = lab.plain_table(TITLE, heads, rows)
    made.caption, made.caption_justify, made.padding = CAPTION, "left", (0, 1, 0, 0)
    for column in made.columns[:-2]:
        column.no_wrap = True
    for column in made.columns[len(by) : -2]:
        column.justify = "right"
    return made


def _cells(one: Growth) -> tuple[str, ...]:
    ends = (_number(one.first), _number(one.last), _number(one.first - one.last))
    if one.failure:
        return (*ends, "", one.failure, "")
    law = f"power {-one.power:+.2f}" if one.law == "power law" else one.law
    factor = f"x{np.mean(one.factors):.3f}"
    if len(one.factors) > 1:
        factor += f" ± {np.std(one.factors, ddof=1):.3f}"
    return (*ends, factor, law, "{:.2f} {:.2f}".format(*one.r2))


def _number(log: float) -> str:
    """Write exp(log) with two digits, even where no float can hold it."""
    if not np.isfinite(log):
        return "" if np.isnan(log) else "0" if log < 0 else "inf"
    if abs(log) < np.log(100):
        return f"{np.exp(log):.2g}"
    exponent, mantissa = divmod(log / np.log(10), 1)
    digits = round(10**mantissa, 1)
    if digits >= 10:
        digits, exponent = 1.0, exponent + 1
    return f"{digits}e{int(exponent):+03d}"
