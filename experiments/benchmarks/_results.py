"""What bench-ops found: ratios, the tables and the figure of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
from matplotlib.figure import Figure
from rich.table import Table

from experiments.benchmarks import _report
from experiments.benchmarks._rows import KINDS
from experiments.benchmarks.timing import geometric_mean

DIRECTIONS = {"f": False, "fb": True}  # whether there is a backward pass
TITLES = {"f": "forward", "fb": "forward and gradients"}
OTHERS = {"lax": "lax", "torch": "PyTorch"}
WORST = 10
LOSING = 1.05
Result = Mapping[str, Any]
"""A row as it is kept."""


def ratio(result: Result, direction: str, first: str, second: str) -> float | None:
    """Return one's time over the other's, where both were measured."""
    one, other = (result["seconds"][direction][name] for name in (first, second))
    return None if one is None or other is None else one / other


def of_bound(result: Result, direction: str) -> float:
    """Return the share of what the device can do that convjax reaches."""
    return result["bound_seconds"][direction] / result["seconds"][direction]["convjax"]


def worst(result: Result, name: str) -> float:
    """Return the larger of convjax's ratios to another in both directions, 0 if there is none."""
    return max(ratio(result, direction, "convjax", name) or 0.0 for direction in DIRECTIONS)


SHOWN: dict[str, Callable[[Result, str], float | None]] = {
    "lax/\nconvjax": lambda result, direction: ratio(result, direction, "lax", "convjax"),
    "convjax/\ntorch": lambda result, direction: ratio(result, direction, "convjax", "torch"),
    "of\nbound": of_bound,
}


def ratios(results: Callable[[Any], Sequence[Result]]) -> list[_report.Column]:
    """Return the columns of ratios: geometric means of the results that stand in a line."""

    def mean(line: Any, head: str, direction: str) -> float | None:
        return geometric_mean(SHOWN[head](result, direction) for result in results(line))

    return [(f"{h}\n{d}", partial(mean, head=h, direction=d)) for h in SHOWN for d in DIRECTIONS]


def tables(found: Mapping[str, Any], config: Any) -> Iterator[Table]:
    """Yield the means, then the rows that are worst or all of them."""
    results: Sequence[Result] = found["rows"]
    every = config.all or jax.default_backend() != "cpu"
    yield summary(results)
    if every:
        yield row_table("Every row", results)
    if any(worst(result, "torch") for result in results):
        last = sorted(results, key=lambda result: -worst(result, "torch"))
        yield row_table("Worst against PyTorch", last[:WORST])
    elif not every:
        far = sorted(results, key=lambda result: min(of_bound(result, d) for d in DIRECTIONS))
        yield row_table("Furthest from the bound", far[:WORST])
    losing = [result for result in results if worst(result, "lax") > LOSING]
    if losing := sorted(losing, key=lambda result: -worst(result, "lax")):
        yield row_table(f"Slower than {LOSING} of lax", losing)


def summary(results: Sequence[Result]) -> Table:
    """Return geometric means, a line for each kind."""

    def of(kind: str) -> list[Result]:
        return [result for result in results if result["kind"] == kind]

    return _report.table(
        "Geometric means",
        filter(of, KINDS),
        ("kind", lambda kind: kind),
        ("rows", lambda kind: str(len(of(kind)))),
        *ratios(of),
        ("worst\nof torch", lambda kind: max(worst(r, "torch") for r in of(kind)) or None),
    )


def row_table(title: str, results: Sequence[Result]) -> Table:
    """Return a line for each row: times in ms, ratios, the share of the bound."""
    times: list[_report.Column] = [
        (f"ms\n{d}", lambda r, d=d: _report.milliseconds(r["seconds"][d]["convjax"]))
        for d in DIRECTIONS
    ]
    layer = ("layer", lambda result: f"{result['network']} {result['layer']}")
    return _report.table(title, results, layer, *times, *ratios(lambda result: [result]))


def figure(kept: Mapping[str, Any]) -> Figure | None:
    """Draw convjax's time over the others', by kind."""
    results: Sequence[Result] = kept["rows"]

    def found(kind: str, name: str, direction: str) -> list[float]:
        every = [ratio(r, direction, "convjax", name) for r in results if r["kind"] == kind]
        return [one for one in every if one is not None]

    kinds = [kind for kind in KINDS if any(result["kind"] == kind for result in results)]
    panels = {
        title: {
            kind: {label: found(kind, name, direction) for name, label in OTHERS.items()}
            for kind in kinds
        }
        for direction, title in TITLES.items()
    }
    return _report.ratios("Layers: convjax against lax and PyTorch", panels)
