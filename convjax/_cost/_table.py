"""A cost as columns and as text: repeats written out in the one, starred in the other."""

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from convjax._cost._unit import UnitCost
from convjax._readable import Table, on_trunk, whole

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
SPARE = ("output", "field", "activations", "traffic", "FLOP/B", "kind", "stride")


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


def as_table(paths: Paths, units: Units, depth: int | float, below: Sequence[str]) -> Table:
    """Return the table to be read; empty columns are left out."""
    pairs = [
        (path, unit)
        for path, unit in zip(paths, units, strict=True)
        if not path or path.count("/") < depth
    ]
    rows = [_cells(path, unit) for path, unit in pairs]
    used = [i for i in range(len(HEADS)) if any(row[i] for row in rows)]
    heads = [HEADS[i] for i in used]
    starred = ["*: each of the repeated units; field: that of the last"]
    starred = starred if any("*" in path for path, _ in pairs) else []
    return Table(
        heads,
        [[row[i] for i in used] for row in rows],
        left=2,
        spare=[head for head in SPARE if head in heads],
        main=on_trunk([path for path, _ in pairs], [unit.kind for _, unit in pairs]),
        below=[
            *(["*: each of the repeated units; field: that of the last"] if starred else []),
            *below,
        ],
    )


def totals(unit: UnitCost) -> str:
    """Write what a network costs as a whole."""
    return (
        f"{_count(unit.multiply_adds)} multiply-adds, {_count(unit.parameters)} parameters, "
        f"{_bytes(unit.activation_bytes)} of activations, {_bytes(unit.traffic_bytes)} of traffic"
    )


def _count(value: int) -> str:
    return _readable(value, 1000, ("", "k", "M", "G", "T", "P")) or "0"


def _bytes(value: int) -> str:
    return _readable(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB")) or "0 B"


def _cells(path: str, unit: UnitCost) -> tuple[str, ...]:
    return (
        whole(path),
        unit.kind,
        f"{math.prod(unit.repeats)} x" if unit.repeats else "",
        "x".join(map(str, unit.output_shape)),
        _count(unit.multiply_adds) if unit.multiply_adds else "",
        _count(unit.parameters) if unit.parameters else "",
        _bytes(unit.activation_bytes) if unit.activation_bytes else "",
        _bytes(unit.traffic_bytes) if unit.traffic_bytes else "",
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
