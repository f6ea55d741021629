"""How a verdict comes of numbers: evidence under several conditions, and one rule for all."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from rich.table import Table

from convjax.lab._criteria import digits
from convjax.lab._tables import plain_table

HOLDS, FAILS, OPEN = "holds", "fails", "not decided here"
ONLY = "holds only if"
FOR, AGAINST, NEITHER = "for", "against", "neither"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a claim's number was under one condition.

    Attributes:
      condition: in words that can stand after "holds only if".
      support: one number for each seed, or round of timing, or one alone: positive where it speaks
        for the claim, negative where it speaks against it. Empty where the condition let nothing be
        compared, such as networks that did not train.
      shown: the figure, as text.
      margin: how far from 0 the median must be to speak at all.
    """

    condition: str
    support: np.ndarray
    shown: str
    margin: float = 0.0

    @property
    def median(self) -> float:
        """The middle of the support; NaN where there is none."""
        return float(np.median(self.support)) if self.support.size else float("nan")

    @property
    def agree(self) -> float:
        """The share of the support that has the sign of the median, 0 where there is none."""
        if not self.support.size:
            return 0.0
        return float(np.mean(np.sign(self.support) == np.sign(self.median)))

    @property
    def side(self) -> str:
        """For, against or neither: the median is beyond the margin, and most seeds are with it."""
        if not self.support.size or not np.isfinite(self.support).all():
            return NEITHER
        if abs(self.median) <= self.margin or self.agree <= 0.5:
            return NEITHER
        return FOR if self.median > 0 else AGAINST


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of course texts, what a run found, and what decides.

    Attributes:
      number: the sentence's, with a letter where it is one of several.
      text: what is claimed.
      evidence: what was found, a condition each.
      rule: what speaks for it, in words.
    """

    number: str
    text: str
    evidence: Sequence[Evidence]
    rule: str

    @property
    def verdict(self) -> str:
        """What the evidence says; see ``decide``."""
        return decide(self.evidence)

    @property
    def shown(self) -> str:
        """Every condition with its figure."""
        return "; ".join(f"{e.condition}: {e.shown}" for e in self.evidence)


def decide(evidence: Sequence[Evidence]) -> str:
    """Return the verdict.

    Conditions that let nothing be compared are left out. A claim holds where all others speak for
    it. Where some do, it holds only if one of those is met: a text that names no condition promises
    it under all. Where none does and one speaks against it, it fails. Where none speaks at all, it
    is not decided here.
    """
    compared = [one for one in evidence if one.support.size]
    met = [one.condition for one in compared if one.side == FOR]
    if met:
        return HOLDS if len(met) == len(compared) else f"{ONLY} {' or '.join(met)}"
    return FAILS if any(one.side == AGAINST for one in compared) else OPEN


def finite(claim: Claim) -> bool:
    """Say whether a claim has numbers, and all are finite."""
    arrays = [one.support for one in claim.evidence]
    return any(a.size for a in arrays) and all(np.isfinite(a).all() for a in arrays)


def least_agreement(claim: Claim) -> float:
    """Return the least share of seeds that agree, over the conditions that decide; 1 if none."""
    shares = [one.agree for one in claim.evidence if one.side != NEITHER]
    return min(shares, default=1.0)


def exact(condition: str, error: float, tolerance: float = 0.0) -> Evidence:
    """Return what an error says that must be 0, or at most a tolerance."""
    # A hair's breadth above the tolerance is 0: an error of exactly 0 speaks for the claim.
    support = np.array([np.nextafter(tolerance, np.inf) - error])
    return Evidence(condition, support, f"off by {digits(error, 2)}")


def versus(condition: str, ours: np.ndarray, other: np.ndarray, **given: float) -> Evidence:
    """Return what a quantity says that should be larger than another's, seed by seed.

    Args:
      condition: as in ``Evidence``.
      ours: one number a seed.
      other: what it is compared with, as many.
      given: the margin.
    """
    shown = "nothing to compare"
    if ours.size:
        shown = f"{digits(float(np.median(ours)), 3)} against {digits(float(np.median(other)), 3)}"
    return Evidence(condition, ours - other, shown, **given)


def table(title: str, claims: Sequence[Claim]) -> Table:
    """Return every claim with its verdict, what was measured, and what decides.

    Args:
      title: above the table.
      claims: in the order of the rows.

    Example:
      >>> from convjax.lab import rules
      >>> found = [rules.exact("whole numbers", 0.0)]
      >>> made = rules.table("Said", [rules.Claim("1", "it is linear", found, "0, exactly")])
      >>> [next(column.cells) for column in made.columns][2:]
      ['holds', 'whole numbers: off by 0', '0, exactly']
    """
    heads = ("", "claim", "verdict", "measured", "what decides it")
    rows = [(one.number, one.text, one.verdict, one.shown, one.rule) for one in claims]
    made = plain_table(title, heads, rows)
    made.show_lines = made.expand = True
    for column, ratio in zip(made.columns, (None, 5, 4, 7, 4), strict=True):
        column.ratio = ratio
    return made
