"""What gradient-norms must show: which networks' gradients fade or explode, and by which law."""

import numpy as np

from convjax.lab import Columns, Criterion, pick, that
from experiments.gradient_norms.growth import Growth, growths

DEEP, WIDE, TAMED = 40, 8, 10
USUAL = {"activation": "relu", "init": "he", "conv": "dense"}
FADES, EXPLODES, GROWS = "fades exponentially", "explodes exponentially", "grows as a power law"
# By norm and shortcut: what a kind of network is called, and what its gradient does.
KINDS = {
    ("none", "none"): ("plain", FADES),
    ("none", "identity"): ("residual", EXPLODES),
    ("batch", "none"): ("plain, batch norm", EXPLODES),
    ("batch", "identity"): ("residual, batch norm", GROWS),
}


def judge(columns: Columns) -> list[Criterion]:
    """Return what can be judged of the deepest networks; nothing, where they are too small."""
    criteria = []
    widths = sorted({width for width in columns["width"].tolist() if width >= WIDE})
    for width in widths:
        found = _deepest(pick(columns, width=width, **USUAL))
        named = f"width {width}: " if len(widths) > 1 else ""
        criteria += [*_laws(named, found), *_least(named, found), *_tamed(named, found)]
    return criteria


_Found = dict[tuple[str, str, int], Growth]


def _deepest(columns: Columns) -> _Found:
    """Return the deepest networks of every kind by norm, shortcut and step."""
    depth = max(columns["depth"].tolist(), default=0)
    if depth < DEEP:
        return {}
    by = ["norm", "shortcut", "depth", "step"]
    rows = growths(pick(columns, depth=depth), by)
    return {(r.key["norm"], r.key["shortcut"], r.key["step"]): r for r in rows}


def _laws(named: str, found: _Found) -> list[Criterion]:
    criteria = []
    for kind, (name, expected) in KINDS.items():
        if (row := found.get((*kind, 0))) is None:
            continue
        mean = float(np.mean(row.factors)) if row.factors else np.nan
        law = "power law" if expected == GROWS else "exponential"
        grown = mean < 1 if expected == FADES else mean > 1
        criteria.append(
            that(
                f"{named}{name}, {row.key['depth']} layers, at initialization: {expected}",
                grown and row.law == law,
                row.failure or f"x{mean:.3f} a layer, {row.law}",
                f"{'below' if expected == FADES else 'above'} 1, {law}",
            )
        )
    return criteria


def _least(named: str, found: _Found) -> list[Criterion]:
    rows = [found.get((*kind, 0)) for kind in KINDS]
    if any(row is None or row.failure for row in rows):
        return []
    _, residual, normed, both = (row.first - row.last for row in rows if row is not None)
    return [
        that(
            f"{named}shortcuts and batch norm together grow less than either alone",
            both < min(residual, normed),
            f"ln of the ratio {both:.1f}",
            f"below {residual:.1f} and {normed:.1f}",
        )
    ]


def _tamed(named: str, found: _Found) -> list[Criterion]:
    first = found.get(("none", "identity", 0))
    trained = [row for key, row in found.items() if key[:2] == ("none", "identity") and key[2]]
    if first is None or not trained or trained[0].key["step"] < TAMED:
        return []
    row = trained[0]
    return [
        that(
            f"{named}residual: {row.key['step']} steps of training take growth from the gradient",
            row.first - row.last < first.first - first.last,
            row.failure or f"ln of the ratio {row.first - row.last:.1f}",
            f"below {first.first - first.last:.1f}, that at initialization",
        )
    ]
