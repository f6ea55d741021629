"""A profile as a table: repeats written out, one row per unit, in forward order."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from convjax.gradflow._norm import Norm

if TYPE_CHECKING:
    from convjax.gradflow._profile import Profile, Unit

_MEASURES = ("activation", "gradient", "parameter", "parameter_gradient")
_SIDES = ("branch", "shortcut", "branch_gradient", "shortcut_gradient")

COLUMNS: tuple[str, ...] = (
    "replica",
    "order",
    "path",
    "kind",
    *(f"{m}_{q}" for m in _MEASURES for q in ("log_norm", "rms")),
    *(f"{side}_log_norm" for side in _SIDES),
    "activation_size",
    "parameter_count",
)


def expanded(profile: "Profile") -> Iterator[tuple[str, "Unit"]]:
    """Yield ``(path, unit)`` with every ``*`` written out as a number, in forward order.

    Arrays are those of NumPy; an axis that ``vmap`` put there stays.
    """
    profile = jax.tree.map(np.asarray, profile)
    replica_axes = np.ndim(profile.units[0].activation.log)
    yield from _expand(list(profile.items()), replica_axes)


def _expand(entries: list[tuple[str, Any]], axis: int) -> Iterator[tuple[str, Any]]:
    while entries:
        path, unit = entries[0]
        before, star, _ = path.partition("*")
        if not star:
            yield path, unit
            entries = entries[1:]
            continue
        inside = [e for e in entries if e[0].startswith(before + "*")]
        for i in range(unit.activation.log.shape[axis]):
            one = [
                (p.replace("*", str(i), 1), jax.tree.map(lambda a: a.take(i, axis), u))  # noqa: B023
                for p, u in inside
            ]
            yield from _expand(one, axis)
        entries = entries[len(inside) :]


def columns(profile: "Profile") -> dict[str, np.ndarray]:
    """Return the columns named in ``COLUMNS``, float64, one row per replica and unit.

    Logarithms are natural. Parameter columns span all parameters below the unit; they and the
    columns of an addition's sides are NaN where there is none. A root mean square that float64
    cannot hold is 0 or infinity; its logarithm is right all the same.
    """
    rows = list(expanded(profile))
    replicas = rows[0][1].activation.log.shape
    own = _parameter_sums(rows)
    parts: dict[str, list] = {name: [] for name in COLUMNS}
    for order, (path, unit) in enumerate(rows):
        cells = {"order": order, "path": path, "kind": unit.kind}
        values, gradients, count = own[path]
        cells |= _cells("activation", _log(unit.activation), unit.activation.size)
        cells |= _cells("gradient", _log(unit.gradient), unit.gradient.size)
        cells |= _cells("parameter", values, count)
        cells |= _cells("parameter_gradient", gradients, count)
        for side in _SIDES:
            there = unit.addition is not None
            cells[f"{side}_log_norm"] = _log(getattr(unit.addition, side)) if there else np.nan
        cells |= {"activation_size": unit.activation.size, "parameter_count": count}
        for name, cell in cells.items():
            parts[name].append(np.broadcast_to(cell, replicas).ravel())
        parts["replica"].append(np.arange(int(np.prod(replicas))))
    # Rows of one replica stand together, in forward order.
    return {name: np.stack(part, axis=1).ravel() for name, part in parts.items()}


def _log(norm: Norm) -> np.ndarray:
    return np.asarray(norm.log, np.float64) + np.asarray(norm.exponent, np.float64) * np.log(2.0)


def _cells(name: str, log: np.ndarray | float, size: int) -> dict[str, Any]:
    with np.errstate(over="ignore", under="ignore"):
        rms = np.exp(log - 0.5 * np.log(max(size, 1)))
    return {f"{name}_log_norm": log, f"{name}_rms": rms}


def _parameter_sums(rows) -> dict[str, tuple[Any, Any, int]]:
    """Return (log norm of parameters, of their gradients, count) at and below every path."""
    below: dict[str, list[tuple[Any, Any, int]]] = {path: [] for path, _ in rows}
    for path, unit in rows:
        for name, norm in unit.parameters.items():
            entry = (_log(norm), _log(unit.parameter_gradients[name]), norm.size)
            for above in _ancestry(path):
                below[above].append(entry)
    return {
        path: (
            _root_sum([e[0] for e in found]),
            _root_sum([e[1] for e in found]),
            sum(e[2] for e in found),
        )
        for path, found in below.items()
    }


def _ancestry(path: str) -> Iterator[str]:
    yield path
    while path:
        path = path.rpartition("/")[0]
        yield path


def _root_sum(logs: list[Any]) -> Any:
    """Return the log norm of several arrays together, from their log norms."""
    return 0.5 * np.logaddexp.reduce([2 * log for log in logs]) if logs else np.nan


def check_finite(profile: "Profile") -> None:
    """Raise a ValueError that names the first unit with a NaN or an infinity."""
    rows = list(expanded(profile))
    looks = (
        ("activation", "forward", rows, lambda u: [u.activation]),
        ("gradient", "backward", rows[::-1], lambda u: [u.gradient]),
        ("parameter gradient", "backward", rows[::-1], lambda u: u.parameter_gradients.values()),
    )
    for what, direction, order, norms in looks:
        for path, unit in order:
            logs = [_log(norm) for norm in norms(unit)]
            # Minus infinity is the logarithm of zero, and zero is a finite number.
            if any(np.isnan(log).any() or np.isposinf(log).any() for log in logs):
                raise ValueError(
                    f"the {what} of unit {path or '(the root)'!r} is NaN or infinite; "
                    f"going {direction}, it is the first of {len(rows)} units"
                )


def to_text(profile: "Profile") -> str:
    """Return the table to be read: one line per unit, root mean squares."""
    table = columns(profile)
    many = table["replica"].max() > 0
    path = [
        f"{r}: {p}" if many else p for r, p in zip(table["replica"], table["path"], strict=True)
    ]
    path = [p or "(the whole)" for p in path]
    wide = max(map(len, path), default=4)
    kind = max(map(len, table["kind"]), default=4)
    lines = [
        f"{'unit':{wide}}  {'kind':{kind}}  {'activation':>10}  {'gradient':>10}  "
        f"{'parameter':>10}  {'its grad.':>10}"
    ]
    shown = [[f"{v:10.3g}" if v == v else " " * 10 for v in table[f"{m}_rms"]] for m in _MEASURES]
    for name, of, *cells in zip(path, table["kind"], *shown, strict=True):
        lines.append("  ".join([f"{name:{wide}}", f"{of:{kind}}", *cells]).rstrip())
    mode = "batch statistics" if profile.train else "running statistics"
    lines.append(f"root mean squares; batch of {profile.batch_size}, {mode}")
    return "\n".join(lines)
