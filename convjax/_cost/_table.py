"""A cost as columns and as text: repeats written out in the one, starred in the other."""

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from convjax._cost._unit import UnitCost

Paths = Sequence[str]
Units = Sequence[UnitCost]

COLUMNS = (
    "kind",
    "leaf",
    "output_shape",
    "multiply_adds",
    "flops",
    "parameters",
    "activation_bytes",
    "traffic_bytes",
    "intensity",
)

HEADS = (
    *("unit", "kind", "", "output", "mult-adds", "parameters", "activations", "traffic"),
    *("FLOP/B", "field", "stride"),
)


def places(pattern: str, repeats: tuple[int, ...], path: str) -> tuple[int, ...] | None:
    """Return which unit of each repeat a path picks, or None where it fits no unit."""
    match = re.fullmatch(re.escape(pattern).replace(r"\*", r"(\d+)"), path)
    index = tuple(map(int, match.groups())) if match else ()
    inside = match is not None and all(i < n for i, n in zip(index, repeats, strict=True))
    return index if inside else None


def columns(paths: Paths, units: Units) -> dict[str, np.ndarray]:
    """Return the columns that ``Cost.table`` describes."""
    written = list(_written_out(list(enumerate(paths)), units, ()))
    entries = np.array([entry for entry, _, _ in written])
    table = {"path": np.array([path for _, _, path in written], object)}
    for name in COLUMNS:
        table[name] = _column([getattr(unit, name) for unit in units])[entries]
    fields = np.array([units[entry].receptive_field[index] for entry, index, _ in written])
    strides = np.array([unit.stride for unit in units], float)[entries]
    for axis in range(fields.shape[-1]):
        table[f"receptive_field_{axis}"] = fields[:, axis]
        table[f"stride_{axis}"] = strides[:, axis]
    return table


def _column(values: list) -> np.ndarray:
    if isinstance(values[0], tuple):
        values = ["x".join(map(str, value)) for value in values]
    return np.array(values, object if isinstance(values[0], str) else None)


def _written_out(
    entries: list[tuple[int, str]], units: Units, index: tuple[int, ...]
) -> Iterator[tuple[int, tuple[int, ...], str]]:
    """Yield (entry, index, path), the units of a repeat together and in their order."""
    while entries:
        entry, path = entries[0]
        before, star, _ = path.partition("*")
        if not star:
            yield entry, index, path
            entries = entries[1:]
            continue
        inside = [(e, p) for e, p in entries if p.startswith(before + "*")]
        for i in range(units[entry].repeats[len(index)]):
            numbered = [(e, p.replace("*", str(i), 1)) for e, p in inside]
            yield from _written_out(numbered, units, (*index, i))
        entries = entries[len(inside) :]


def to_text(paths: Paths, units: Units, depth: int | float) -> str:
    """Return the table to be read; empty columns are left out."""
    shown = zip(paths, units, strict=True)
    rows = [_cells(path, unit) for path, unit in shown if not path or path.count("/") < depth]
    used = [i for i in range(len(HEADS)) if any(row[i] for row in rows)]
    return "\n".join(_aligned([[row[i] for i in used] for row in [HEADS, *rows]], left=2))


def _cells(path: str, unit: UnitCost) -> tuple[str, ...]:
    return (
        path or "(the whole)",
        unit.kind,
        f"{math.prod(unit.repeats)} x" if unit.repeats else "",
        "x".join(map(str, unit.output_shape)),
        _readable(unit.multiply_adds, 1000, ("", "k", "M", "G", "T", "P")),
        _readable(unit.parameters, 1000, ("", "k", "M", "G", "T")),
        _readable(unit.activation_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB")),
        _readable(unit.traffic_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB")),
        f"{unit.intensity:#.3g}".rstrip(".") if unit.flops else "",
        _per_axis(unit.receptive_field[(-1,) * len(unit.repeats)]),
        _per_axis(unit.stride),
    )


def _readable(value: int | float, step: int, units: Sequence[str]) -> str:
    """Write a count with three digits, or four before the next unit; nothing for zero."""
    if not value:
        return ""
    size = 0
    while round(value) >= step and size < len(units) - 1:
        value, size = value / step, size + 1
    decimals = 0 if size == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {units[size]}".rstrip()


def _per_axis(values: Sequence[float] | np.ndarray) -> str:
    """Write one number for all axes where they agree."""
    words = ["all" if v == math.inf else "?" if v != v else f"{v:g}" for v in values]
    return words[0] if len({*words}) == 1 else "x".join(words)


def _aligned(rows: list[list[str]], left: int) -> list[str]:
    """Pad every column, the first ones to the left and the rest to the right."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            f"{cell:{w}}" if i < left else f"{cell:>{w}}"
            for i, (cell, w) in enumerate(zip(row, wide, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
