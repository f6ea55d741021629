"""What degradation must show, from its table alone."""

import numpy as np

from convjax import lab
from convjax.lab import Columns, Criterion, digits, that
from experiments.degradation.networks import DIGITS, FASHION, PLAIN, RESIDUAL, TWINS, transitions

LOSS = 0.01
"""Nats of training loss that count as none: both residual networks end near zero."""
LAST = 0.1
"""Share of the steps whose mean loss is that of the end."""
TRAINED = {DIGITS: 0.9, FASHION: 0.8}
"""Accuracy on what it has learned from at which a network counts as trained."""
CHANCE = 1 / 3
"""Largest accuracy that is called near chance, which is 0.1: of any layer of some twenty."""
SMALL = 0.05
"""Loss of accuracy that is small."""


def found(columns: Columns, twin: str, depth: int, quantity: str) -> np.ndarray:
    """Return a quantity as (seeds, numbers)."""
    rows = lab.pick(columns, twin=twin, depth=depth, quantity=quantity)
    return lab.array(rows, "value", "seed", "number")


def depths(columns: Columns) -> list[int]:
    """Return all depths, the shallowest first; the first and the last are compared."""
    return np.unique(columns["depth"]).tolist()


def last(columns: Columns, twin: str, depth: int) -> np.ndarray:
    """Return the mean loss at the end, by seed."""
    losses = found(columns, twin, depth, "batch_loss")
    return losses[:, -max(1, round(LAST * losses.shape[1])) :].mean(1)


def area(columns: Columns, twin: str, depth: int) -> np.ndarray:
    """Return the mean loss of all steps, by seed."""
    return found(columns, twin, depth, "batch_loss").mean(1)


def lost(columns: Columns, twin: str, depth: int, what: str = "without") -> np.ndarray:
    """Return the accuracy that goes with each unit or layer, as (seeds, numbers)."""
    whole = found(columns, twin, depth, "whole_accuracy")
    return whole - found(columns, twin, depth, f"{what}_accuracy")


def judge(columns: Columns) -> list[Criterion]:
    """Return what must hold of training losses, lesions and features."""
    return [*judge_losses(columns), *judge_lesions(columns), *judge_features(columns)]


def judge_losses(columns: Columns) -> list[Criterion]:
    """Return the criteria of He et al.'s Figure 6."""
    shallow, *_, deep = depths(columns)
    ends, areas = (
        {twin: [take(columns, twin, depth) for depth in (deep, shallow)] for twin in TWINS}
        for take in (last, area)
    )
    grown = [np.subtract(*areas[twin]) for twin in (RESIDUAL, PLAIN)]
    both = [ends[RESIDUAL][0], ends[PLAIN][0]]
    return [
        _apart(
            "higher",
            f"plain: {deep} layers end at a higher training loss than {shallow}",
            *ends[PLAIN],
        ),
        that(
            "residual: they do not",
            np.median(np.subtract(*ends[RESIDUAL])) <= LOSS,
            _medians(*ends[RESIDUAL]),
            f"at most {LOSS} higher",
        ),
        _apart(
            "lower", f"{deep} layers: the residual network ends lower than the plain one", *both
        ),
        _apart(
            "higher",
            f"area, plain: {deep} layers have the higher mean loss over all steps",
            *areas[PLAIN],
        ),
        _apart("less", "area: what depth adds is less in the residual network", *grown),
    ]


def _medians(one: np.ndarray, other: np.ndarray, *, count: int = 3) -> str:
    return " against ".join(digits(float(np.median(values)), count) for values in (one, other))


def _apart(
    word: str, claim: str, one: np.ndarray, other: np.ndarray, *, by: float = LOSS, count: int = 3
) -> Criterion:
    away = np.median(one - other) * (1 if word == "higher" else -1)
    return that(claim, away > by, _medians(one, other, count=count), f"{word} by more than {by}")


def judge_lesions(columns: Columns) -> list[Criterion]:
    """Return the criteria of Veit et al.'s lesions: the deep plain network may not have trained."""
    shallow, *_, deep = depths(columns)
    fit = [(PLAIN, shallow), (RESIDUAL, shallow), (RESIDUAL, deep)]
    least = min(float(np.median(found(columns, *of, "whole_accuracy"))) for of in fit)
    left = found(columns, PLAIN, shallow, "without_layer_accuracy")
    kept = lost(columns, RESIDUAL, deep)
    kept = np.delete(kept, transitions(kept.shape[1]), axis=1)
    ratio, trained = float(np.median(turn_ratios(columns))), TRAINED[str(columns["data"][0])]
    return [
        that(
            "what is looked into has trained: accuracy",
            least >= trained,
            f"{digits(least, 3)} at least (median)",
            f"{trained} or more",
        ),
        that(
            f"plain, {shallow} layers: without any one layer it is near chance",
            np.median(left.max(1)) <= CHANCE,
            f"accuracy at most {digits(float(np.median(left.max(1))), 2)}, "
            f"{digits(float(np.median(left)), 2)} at the median layer",
            f"at most {digits(CHANCE, 2)}",
        ),
        that(
            f"residual, {deep} layers: without one block it makes few errors more",
            np.median(kept) <= SMALL,
            f"{digits(float(np.median(kept)), 2)} at the median block; more than {SMALL} at "
            f"{np.median((kept > SMALL).sum(1)):.0f} of {kept.shape[1]}",
            f"at most {SMALL}",
        ),
        _apart(
            "less",
            f"{shallow} layers: without one unit, residual networks lose less than plain ones",
            *(np.median(lost(columns, twin, shallow), 1) for twin in (RESIDUAL, PLAIN)),
            by=SMALL,
            count=2,
        ),
        that(
            "residual: a transition costs more than the blocks beside it",
            ratio > 1,
            f"loss without it x{digits(ratio, 3)} of theirs",
            "above x1",
        ),
    ]


def turn_ratios(columns: Columns) -> np.ndarray:
    """Return the loss without a transition over that without a block beside it, by seed.

    A geometric mean over both transitions, both blocks beside, and all depths.
    """
    logs = []
    for depth in depths(columns):
        loss = np.log(found(columns, RESIDUAL, depth, "without_loss"))
        for turn in transitions(loss.shape[1]):
            beside = [i for i in (turn - 1, turn + 1) if i < loss.shape[1]]
            logs.append(loss[:, turn] - loss[:, beside].mean(1))
    return np.exp(np.mean(logs, axis=0))


def judge_features(columns: Columns) -> list[Criterion]:
    """Return the criteria of what is left of the features that entered the first unit."""
    made, every = [], depths(columns)
    for quantity, words in (("correlation", "number by number"), ("cka", "by kernel alignment")):
        means = {
            depth: [found(columns, twin, depth, quantity).mean(1) for twin in (RESIDUAL, PLAIN)]
            for depth in every
        }
        told = [f"{_medians(*pair, count=2)} ({depth} layers)" for depth, pair in means.items()]
        made.append(
            that(
                f"features, {words}: residual networks keep more of the stem's",
                min(np.median(ours - theirs) for ours, theirs in means.values()) > 0,
                ", ".join(told),
                f"more, at {'both depths' if len(every) == 2 else 'every depth'}",
            )
        )
    return made
