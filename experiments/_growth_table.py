"""The table of a study of gradient norms: one row per network and step, all seeds together."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from convjax import gradflow, study

CAPTION = (
    "first, last: norm of the loss's gradient with respect to the output of the stem and of the "
    "last unit, geometric mean over seeds; ratio: of the two. per layer: factor by which it grows "
    "for each layer that it travels back, mean over seeds ± their standard deviation. better fit: "
    "exponential in the position l along the stack, or the power law (l+1)^p with that p, for most "
    "seeds. R²: what each of the two, in that order, explains of the variance of the norm's "
    "logarithm."
)


@dataclasses.dataclass(frozen=True)
class Summary:
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


def summaries(
    columns: Mapping[str, np.ndarray], by: list[str], *, layers_per_unit: int
) -> list[Summary]:
    """Return one summary for each network and step of a table of measurements.

    Args:
      columns: rows with ``position`` 0 (stem), 1, … (units) on the trunk and -1 elsewhere, and the
        columns ``seed``, ``failure`` and ``gradient_log_norm``.
      by: names of the columns that tell networks and steps apart.
      layers_per_unit: weighted layers in a unit.
    """
    trunk = {name: column[columns["position"] >= 0] for name, column in columns.items()}
    return [_summary(key, rows, layers_per_unit) for key, rows in study.groups(trunk, by)]


def _summary(key: dict[str, Any], rows: Mapping[str, np.ndarray], layers: int) -> Summary:
    failures = [text for text in rows["failure"].tolist() if text]
    if failures:
        return Summary(key, failure=failures[0])
    logs = [one["gradient_log_norm"] for _, one in study.groups(rows, ["seed"])]
    first, last = (float(np.mean([log[end] for log in logs])) for end in (0, -1))
    try:
        fits = [gradflow.growth(log) for log in logs]
    except ValueError as error:
        return Summary(key, first, last, failure=f"no fit: {error}")
    return Summary(
        key,
        first,
        last,
        factors=tuple(float(np.exp(fit.rate / layers)) for fit in fits),
        law=Counter(fit.law for fit in fits).most_common(1)[0][0],
        power=float(np.mean([fit.power for fit in fits])),
        r2=(
            float(np.mean([fit.exponential_r2 for fit in fits])),
            float(np.mean([fit.power_r2 for fit in fits])),
        ),
    )


def to_table(found: list[Summary], by: list[str]) -> Table:
    """Return the summaries as a table that fits into a hundred characters."""
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=CAPTION,
        caption_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for name in by:
        number = not isinstance(found[0].key[name], str)
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for name in ("first", "last", "ratio", "per layer"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("better fit", min_width=11)
    table.add_column("R²", no_wrap=True)
    heads = [name for name in by if name not in ("depth", "step")]
    before: dict[str, Any] = {}
    for one in found:
        fresh = any(one.key[name] != before.get(name) for name in heads)
        if fresh and before:
            table.add_section()
        shown = [str(one.key[name]) if fresh or name not in heads else "" for name in by]
        table.add_row(*shown, *_cells(one))
        before = one.key
    return table


def _cells(one: Summary) -> list[str]:
    ends = [_number(one.first), _number(one.last), _number(one.first - one.last)]
    if one.failure:
        return [*ends, "", one.failure]
    law = f"power {-one.power:+.2f}" if one.law == "power law" else one.law
    factor = f"x{np.mean(one.factors):.3f}"
    if len(one.factors) > 1:
        factor += f" ± {np.std(one.factors, ddof=1):.3f}"
    return [*ends, factor, law, "{:.2f} {:.2f}".format(*one.r2)]


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
