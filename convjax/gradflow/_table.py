"""A profile as a table: repeats written out, one row per unit, in forward order."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from convjax._readable import Table, on_trunk, size, whole
from convjax.gradflow._unit import Unit

Paths = Sequence[str]
Units = Sequence[Unit]

_MEASURES = ("activation", "gradient", "parameter", "parameter_gradient")
_SIZES = ("activation_size", "activation_size", "parameter_count", "parameter_count")
FEW = 4
"""Most replicas that are printed one by one."""
_SIDES = ("branch", "shortcut", "branch_gradient", "shortcut_gradient")

COLUMNS: tuple[str, ...] = (
    "replica",
    "order",
    "path",
    "kind",
    *(f"{measure}_{quantity}" for measure in _MEASURES for quantity in ("log_norm", "rms")),
    *(f"{side}_log_norm" for side in _SIDES),
    "activation_size",
    "parameter_count",
)


def pick(paths: Paths, units: Units, path: str) -> Unit | None:
    """Return the unit at a path in which numbers may stand for the stars of repeats."""
    axis = np.ndim(units[0].activation.squares)
    for pattern, unit in zip(paths, units, strict=True):
        match = re.fullmatch(re.escape(pattern).replace(r"\*", r"(\d+)"), path)
        if match is None:
            continue
        lengths = np.shape(unit.activation.squares)[axis:]
        index = tuple(map(int, match.groups()))
        if all(i < n for i, n in zip(index, lengths, strict=True)):
            before = (slice(None),) * axis
            return jax.tree.map(lambda a: a[(*before, *index)], unit)  # noqa: B023
    return None


def columns(paths: Paths, units: Units) -> dict[str, np.ndarray]:
    """Return the columns named in ``COLUMNS``, one row per replica and unit.

    Logarithms are natural. Parameter columns span all parameters at and below the unit; they and
    the columns of an addition's sides are NaN where there is none. A root mean square that float64
    cannot hold is 0 or infinity; its logarithm is right all the same.
    """
    rows = _Rows(paths, units)
    logs, sizes = _log_norms(paths, units, rows)
    table = {
        "replica": np.repeat(np.arange(rows.replicas), len(rows.paths)),
        "order": np.tile(np.arange(len(rows.paths)), rows.replicas),
        "path": np.tile(np.array(rows.paths, object), rows.replicas),
        "kind": rows.constants([unit.kind for unit in units]),
        "activation_size": rows.constants(sizes["activation"]),
        "parameter_count": rows.constants(sizes["parameter"]),
    }
    for name, log in logs.items():
        table[f"{name}_log_norm"] = rows.spread(log)
    for name, of in zip(_MEASURES, _SIZES, strict=True):
        with np.errstate(over="ignore", under="ignore"):
            rms = np.exp(table[f"{name}_log_norm"] - 0.5 * np.log(np.maximum(table[of], 1)))
        table[f"{name}_rms"] = rms
    return {name: table[name] for name in COLUMNS}


def check_finite(paths: Paths, units: Units) -> None:
    """Raise a ValueError that names the first unit with a NaN or an infinity."""
    rows = _Rows(paths, units)
    logs, _ = _log_norms(paths, units, rows)
    absent = np.isnan(rows.spread(logs["parameter"]))
    for name, way, step in (
        ("activation", "forward", 1),
        ("gradient", "backward", -1),
        ("parameter_gradient", "backward", -1),
    ):
        values = rows.spread(logs[name])
        # Minus infinity is the logarithm of zero, and zero is a finite number.
        bad = np.isnan(values) | np.isposinf(values)
        if name == "parameter_gradient":
            bad &= ~absent
        found = np.flatnonzero(bad.reshape(rows.replicas, -1).any(axis=0))
        if len(found):
            path = whole(rows.paths[found[::step][0]])
            raise ValueError(
                f"the {name.replace('_', ' ')} of unit {path!r} is NaN or infinite: the first of "
                f"{len(found)} such units, going {way}"
            )


def as_table(paths: Paths, units: Units, below: Sequence[str]) -> Table:
    """Return the table to be read: root mean squares, one row per unit.

    Of a few replicas every row is shown; of many the geometric mean.
    """
    table = columns(paths, units)
    replicas = int(table["replica"].max()) + 1
    count = len(table["path"]) // replicas
    names, kinds = table["path"][:count].tolist(), table["kind"][:count].tolist()
    main, rows = on_trunk(names, kinds), list(map(whole, names))
    logs = [
        table[f"{name}_log_norm"] - 0.5 * np.log(np.maximum(table[of], 1))
        for name, of in zip(_MEASURES, _SIZES, strict=True)
    ]
    if replicas > FEW:
        logs = [log.reshape(replicas, count).mean(axis=0) for log in logs]
        below = [*below, f"geometric means over {replicas} replicas; table() has each"]
    elif replicas > 1:
        rows = [f"{r}: {name}" for r in range(replicas) for name in rows]
        kinds, main = kinds * replicas, main * replicas
    cells = [[size(log) for log in column.tolist()] for column in logs]
    return Table(
        ("unit", "kind", "activation", "gradient", "param.", "its grad."),
        list(zip(rows, kinds, *cells, strict=True)),
        left=2,
        spare=("param.", "kind"),
        main=main,
        kept=_extremes(logs[1], np.array(main)),
        below=below,
    )


def _extremes(values: np.ndarray, among: np.ndarray) -> list[int]:
    """Return the places of the least and the largest value."""
    places = np.flatnonzero(among & ~np.isnan(values))
    return [int(places[f(values[places])]) for f in (np.argmin, np.argmax)] if len(places) else []


class _Rows:
    """The order of the written-out rows: which entry of the profile, at which index."""

    def __init__(self, paths: Paths, units: Units):
        shapes = [np.shape(unit.activation.squares) for unit in units]
        self.outer = shapes[0]
        self.replicas = math.prod(self.outer)
        self.lengths = [shape[len(self.outer) :] for shape in shapes]
        written = list(_write_out(list(enumerate(paths)), self.lengths, ()))
        self.paths = [path for _, _, path in written]
        self.entries = np.array([entry for entry, _, _ in written])
        starts = np.cumsum([0, *map(math.prod, self.lengths)])
        self.places = np.array(
            [starts[e] + _flat(index, self.lengths[e]) for e, index, _ in written]
        )

    def constants(self, values: list[Any]) -> np.ndarray:
        """Spread one value per entry over the rows."""
        array = np.array(values, object if isinstance(values[0], str) else None)
        return np.tile(array[self.entries], self.replicas)

    def spread(self, values: list[Any]) -> np.ndarray:
        """Spread one array per entry over the rows."""
        flat = [
            np.broadcast_to(v, (*self.outer, *n)).reshape(self.replicas, -1)
            for v, n in zip(values, self.lengths, strict=True)
        ]
        return np.concatenate(flat, axis=1)[:, self.places].ravel()


def _write_out(entries, lengths, index) -> Iterator[tuple[int, tuple[int, ...], str]]:
    """Yield (entry, index, path), the units of a repeat together and in their order."""
    while entries:
        entry, path = entries[0]
        before, star, _ = path.partition("*")
        if not star:
            yield entry, index, path
            entries = entries[1:]
            continue
        inside = [(e, p) for e, p in entries if p.startswith(before + "*")]
        for i in range(lengths[entry][len(index)]):
            numbered = [(e, p.replace("*", str(i), 1)) for e, p in inside]
            yield from _write_out(numbered, lengths, (*index, i))
        entries = entries[len(inside) :]


def _flat(index: tuple[int, ...], lengths: tuple[int, ...]) -> int:
    return int(np.ravel_multi_index(index, lengths)) if index else 0


def _log_norms(paths: Paths, units: Units, rows: _Rows) -> tuple[dict[str, list], dict[str, list]]:
    """Return per entry the log norms, and the sizes, of everything that has columns."""
    units = jax.device_get(units)
    logs = {"activation": [unit.activation.log_norm for unit in units]}
    logs["gradient"] = [unit.gradient.log_norm for unit in units]
    sizes = {"activation": [unit.activation.size for unit in units]}
    logs["parameter"], sizes["parameter"] = _below(paths, units, rows, lambda u: u.parameters)
    logs["parameter_gradient"], _ = _below(paths, units, rows, lambda u: u.parameter_gradients)
    for side in _SIDES:
        logs[side] = [
            np.asarray(np.nan) if unit.addition is None else getattr(unit.addition, side).log_norm
            for unit in units
        ]
    return logs, sizes


def _below(paths: Paths, units: Units, rows: _Rows, of) -> tuple[list[Any], list[int]]:
    """Return the log norm, and the count, of all parameters at and below every entry."""
    found: dict[str, list[Any]] = {path: [] for path in paths}
    counts = dict.fromkeys(paths, 0)
    repeats = dict(zip(paths, map(len, rows.lengths), strict=True))
    for path, unit in zip(paths, units, strict=True):
        for norm in of(unit).values():
            log = norm.log_norm
            for above in filter(found.__contains__, _ancestry(path)):
                lengths = log.shape[len(rows.outer) + repeats[above] :]
                flat = log.reshape(*log.shape[: -len(lengths) or None], -1)
                found[above].append(_root_sum(list(np.moveaxis(flat, -1, 0))))
                counts[above] += norm.size * math.prod(lengths)
    return [_root_sum(logs) for logs in found.values()], list(counts.values())


def _ancestry(path: str) -> Iterator[str]:
    """Yield the path and those of everything around it, but not a repeat's stacked unit twice."""
    yield path
    while path:
        path = path.rpartition("/")[0]
        yield path


def _root_sum(logs: list[Any]) -> Any:
    """Return the log norm of several arrays together, from their log norms; NaN of none."""
    if not logs:
        return np.asarray(np.nan)
    with np.errstate(invalid="ignore"):  # infinities and NaN are reported by name
        return 0.5 * np.logaddexp.reduce([2 * log for log in logs])
