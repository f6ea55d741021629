"""What bench-ops found: ratios, the tables and the figure of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from experiments.benchmarks import _report
from experiments.benchmarks._peer import LAYOUTS
from experiments.benchmarks._report import number
from experiments.benchmarks._rows import KINDS, Row
from experiments.benchmarks.timing import geometric_mean, median

DIRECTIONS = {"f": False, "fb": True}
"""Forward, and forward with the gradients: whether there is a backward pass."""
OTHERS = {"lax": "lax", "torch": "PyTorch"}
RATIOS = ("lax/\nconvjax f", "fb", "convjax/\ntorch f", "fb")
BOUND = ("of bound\nf", "fb")
WORST = 10
LOSING = 1.05


@dataclasses.dataclass(frozen=True)
class Result:
    """A row and its times, by direction and by whose they are."""

    row: Row
    samples: dict[str, dict[str, list[float]]]
    bounds: dict[str, float]

    def seconds(self, name: str, direction: str) -> float | None:
        """Return the median; PyTorch's is that of its faster layout."""
        samples = self.samples[direction]
        names = LAYOUTS if name == "torch" else (name,)
        return min((median(samples[n]) for n in names if n in samples), default=None)

    def ratio(self, name: str, direction: str) -> float | None:
        """Return convjax's time over the other's."""
        ours, theirs = self.seconds("convjax", direction), self.seconds(name, direction)
        return None if ours is None or theirs is None else ours / theirs

    def worst(self, name: str) -> float:
        """Return the larger ratio of both directions, 0 if there is none."""
        return max(self.ratio(name, direction) or 0.0 for direction in DIRECTIONS)

    def of_bound(self, direction: str) -> float | None:
        """Return the share of what the device can do that convjax reaches."""
        ours = self.seconds("convjax", direction)
        return None if ours is None else self.bounds[direction] / ours

    def to_json(self) -> dict[str, Any]:
        """Return everything known of the row."""
        row = self.row
        return {
            "network": row.network,
            "layer": row.spec.text,
            "kind": row.spec.kind,
            "count": row.count,
            "spec": dataclasses.asdict(row.spec),
            "seconds": {
                direction: {name: self.seconds(name, direction) for name in ("convjax", *OTHERS)}
                for direction in DIRECTIONS
            },
            "bound_seconds": self.bounds,
            "samples": self.samples,
        }


def report(results: Sequence[Result], *, every: bool) -> None:
    """Print the means, then the rows that are worst or all of them."""
    console = _report.console()
    console.print(summary(results))
    tables = [("Every row", results)] if every else []
    against_torch = [r for r in results if r.worst("torch")]
    if against_torch:
        worst = sorted(against_torch, key=lambda r: -r.worst("torch"))[:WORST]
        tables.append(("Worst against PyTorch", worst))
    elif not every:
        far = sorted(results, key=lambda r: min(r.of_bound(d) or 0.0 for d in DIRECTIONS))
        tables.append(("Furthest from the bound", far[:WORST]))
    losing = sorted((r for r in results if r.worst("lax") > LOSING), key=lambda r: -r.worst("lax"))
    if losing:
        tables.append((f"Slower than {LOSING} of lax", losing))
    for title, chosen in tables:
        console.print()
        console.print(row_table(title, chosen))


def summary(results: Sequence[Result]) -> Table:
    """Return geometric means, a line for each kind."""
    lines = []
    for kind in KINDS:
        here = [r for r in results if r.row.spec.kind == kind]
        if not here:
            continue
        cells = [kind, str(len(here))]
        for direction in DIRECTIONS:
            slower = geometric_mean(r.ratio("lax", direction) for r in here)
            cells.append(number(None if slower is None else 1 / slower))
        for direction in DIRECTIONS:
            cells.append(number(geometric_mean(r.ratio("torch", direction) for r in here)))
        cells.append(number(max(r.worst("torch") for r in here) or None))
        for direction in DIRECTIONS:
            cells.append(number(geometric_mean(r.of_bound(direction) for r in here), 2))
        lines.append(cells)
    columns = ["kind", "rows", *RATIOS, "worst", *BOUND]
    return _report.table("Geometric means", columns, lines)


def row_table(title: str, results: Sequence[Result]) -> Table:
    """Return a line for each row: times in ms, ratios, the share of the bound."""
    columns = ["layer", "ms\nf", "fb", *RATIOS, *BOUND]
    lines = []
    for result in results:
        cells = [result.row.text]
        cells += [_report.milliseconds(result.seconds("convjax", d)) for d in DIRECTIONS]
        for direction in DIRECTIONS:
            slower = result.ratio("lax", direction)
            cells.append(number(None if slower is None else 1 / slower))
        cells += [number(result.ratio("torch", d)) for d in DIRECTIONS]
        cells += [number(result.of_bound(d), 2) for d in DIRECTIONS]
        lines.append(cells)
    return _report.table(title, columns, lines)


def draw(results: Sequence[Result], stem: Path) -> tuple[Path, Path]:
    """Draw convjax's time over the others', a dot a row, and write the figure."""
    titles = {"f": "forward", "fb": "forward and gradients"}
    panels = {
        titles[direction]: {
            kind: {label: _ratios(results, kind, name, direction) for name, label in OTHERS.items()}
            for kind in KINDS
            if any(r.row.spec.kind == kind for r in results)
        }
        for direction in DIRECTIONS
    }
    return _report.save_ratios(stem, "Layers: convjax against lax and PyTorch", panels)


def _ratios(results: Sequence[Result], kind: str, name: str, direction: str) -> list[float]:
    found = (r.ratio(name, direction) for r in results if r.row.spec.kind == kind)
    return [ratio for ratio in found if ratio is not None]
