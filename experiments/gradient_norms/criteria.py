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
    widths = sorted({width for width in columns["width"].tolist() if width >= WIDE})
    criteria = []
    for width in widths:
        rows = pick(columns, width=width, **USUAL)
        depth = max(rows["depth"].tolist(), default=0)
        if depth < DEEP:
            continue
        every = growths(pick(rows, depth=depth), ["norm", "shortcut", "depth", "step"])
        found = {(one.key["norm"], one.key["shortcut"], one.key["step"]): one for one in every}
        named = f"width {width}: " if len(widths) > 1 else ""
        criteria += [*_laws(named, found), *_least(named, found), *_tamed(named, found)]
    return criteria


_Found = dict[tuple[str, str, int], Growth]


def _laws(named: str, found: _Found) -> list[Criterion]:
    criteria = []
    for kind, (name, expected) in KINDS.items():
        if (row := found.get((*kind, 0))) is None:
            continue
        mean = np.mean(row.factors) if row.fits else np.nan
        law = "power law" if expected == GROWS else "exponential"
        criteria.append(
            that(
                f"{named}{name}, {row.key['depth']} layers, at initialization: {expected}",
                (mean < 1 if expected == FADES else mean > 1) and row.law == law,
                row.failure or f"x{mean:.3f} a layer, {row.law}",
                f"{'below' if expected == FADES else 'above'} 1, {law}",
            )
        )
    return criteria


def _least(named: str, found: _Found) -> list[Criterion]:
    rows = [row for kind in KINDS if (row := found.get((*kind, 0))) and not row.failure]
    if len(rows) < len(KINDS):
        return []
    _, residual, normed, both = (row.grown for row in rows)
    return [
        that(
            f"{named}shortcuts and batch norm together grow less than either alone",
            both < min(residual, normed),
            f"ln of the ratio {both:.1f}",
            f"below {residual:.1f} and {normed:.1f}",
        )
    ]


def _tamed(named: str, found: _Found) -> list[Criterion]:
    rows = {step: row for (*kind, step), row in found.items() if kind == ["none", "identity"]}
    first, step = rows.get(0), max(rows, default=0)
    if first is None or step < TAMED:
        return []
    return [
        that(
            f"{named}residual: {step} steps of training take growth from the gradient",
            rows[step].grown < first.grown,
            rows[step].failure or f"ln of the ratio {rows[step].grown:.1f}",
            f"below {first.grown:.1f}, that at initialization",
        )
    ]
