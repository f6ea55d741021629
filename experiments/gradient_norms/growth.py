"""How a gradient grows along the trunk, by network and step, all seeds together; and the table."""

import dataclasses
from collections import Counter
from decimal import Decimal
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
    """What one network's seeds say at one step.

    Attributes:
      key: the network's configuration and the step.
      first: log gradient norm at the stem's output, mean over seeds.
      last: the same at the last unit's.
      fits: of every seed's logarithms; none where there are none.
      failure: why there is nothing to say, or "".
    """

    key: dict[str, Any]
    first: float = np.nan
    last: float = np.nan
    fits: tuple[gradflow.Growth, ...] = ()
    failure: str = ""

    @property
    def grown(self) -> float:
        """Log of the ratio of the first to the last."""
        return self.first - self.last

    @property
    def factors(self) -> np.ndarray:
        """Growth per layer travelled back, one for each seed."""
        return np.exp([fit.rate / Classifier.convs_per_unit for fit in self.fits])

    @property
    def law(self) -> str:
        """Which fit is better for most seeds."""
        return Counter(fit.law for fit in self.fits).most_common(1)[0][0] if self.fits else ""


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
        return Growth(key, first, last, tuple(gradflow.growth(log) for log in logs))
    except ValueError as error:
        return Growth(key, first, last, failure=f"no fit: {error}")


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
    ends = (_number(one.first), _number(one.last), _number(one.grown))
    if one.failure:
        return (*ends, "", one.failure, "")
    power, *explained = (
        np.mean([getattr(fit, name) for fit in one.fits])
        for name in ("power", "exponential_r2", "power_r2")
    )
    factor = f"x{np.mean(one.factors):.3f}"
    if len(one.fits) > 1:
        factor += f" ± {np.std(one.factors, ddof=1):.3f}"
    law = f"power {-power:+.2f}" if one.law == "power law" else one.law
    return (*ends, factor, law, "{:.2f} {:.2f}".format(*explained))


def _number(log: float) -> str:
    """Write exp(log) with two digits, even where no float can hold it."""
    if np.isnan(log):
        return ""
    if abs(log) < np.log(100) or np.isinf(log):
        return f"{np.exp(log):.2g}"
    return f"{np.exp(log) if abs(log) < 700 else Decimal(log).exp():.1e}"
