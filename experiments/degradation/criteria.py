"""What degradation must show, from its table alone."""

import numpy as np

from convjax.lab import Columns, Criterion, array, digits, pick, that
from experiments.claims.networks import PLAIN, RESIDUAL
from experiments.degradation.networks import transitions

LOSS = 0.01
"""Nats of training loss that count as none: both residual networks end near zero."""
LAST = 0.1
"""Share of the steps whose mean loss is that of the end."""
TRAINED = 0.9
CHANCE = 1 / 3
"""Largest accuracy that is called near chance, which is 0.1: of any layer of some twenty."""
SMALL = 0.05
"""Loss of accuracy that is small."""


def found(columns: Columns, twin: str, depth: int, quantity: str) -> np.ndarray:
    """Return a quantity as (seeds, numbers)."""
    rows = pick(columns, twin=twin, depth=depth, quantity=quantity)
    return array(rows, "value", "seed", "number")


def depths(columns: Columns) -> list[int]:
    """Return all depths, the shallowest first."""
    return np.unique(columns["depth"]).tolist()


def compared(columns: Columns) -> tuple[int, int]:
    """Return the shallowest and the deepest."""
    shallow, *_, deep = depths(columns)
    return shallow, deep


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
    shallow, deep = compared(columns)
    ends, areas = (
        {(twin, depth): take(columns, twin, depth) for twin in (PLAIN, RESIDUAL)
         for depth in (shallow, deep)}
        for take in (last, area)
    )  # fmt: skip
    worse = {
        name: {twin: values[twin, deep] - values[twin, shallow] for twin in (PLAIN, RESIDUAL)}
        for name, values in (("end", ends), ("area", areas))
    }

    def told(values, *keys):
        return " against ".join(digits(float(np.median(values[key])), 3) for key in keys)

    return [
        that(
            f"plain: {deep} layers end at a higher training loss than {shallow}",
            np.median(worse["end"][PLAIN]) > LOSS,
            told(ends, (PLAIN, deep), (PLAIN, shallow)),
            f"higher by more than {LOSS}",
        ),
        that(
            "residual: they do not",
            np.median(worse["end"][RESIDUAL]) <= LOSS,
            told(ends, (RESIDUAL, deep), (RESIDUAL, shallow)),
            f"at most {LOSS} higher",
        ),
        that(
            f"{deep} layers: the residual network ends lower than the plain one",
            np.median(ends[PLAIN, deep] - ends[RESIDUAL, deep]) > LOSS,
            told(ends, (RESIDUAL, deep), (PLAIN, deep)),
            f"lower by more than {LOSS}",
        ),
        that(
            f"area, plain: {deep} layers have the higher mean loss over all steps",
            np.median(worse["area"][PLAIN]) > LOSS,
            told(areas, (PLAIN, deep), (PLAIN, shallow)),
            f"higher by more than {LOSS}",
        ),
        that(
            "area: what depth adds is less in the residual network",
            np.median(worse["area"][PLAIN] - worse["area"][RESIDUAL]) > LOSS,
            told(worse["area"], RESIDUAL, PLAIN),
            f"less by more than {LOSS}",
        ),
    ]


def judge_lesions(columns: Columns) -> list[Criterion]:
    """Return the criteria of Veit et al.'s lesions: the deep plain network may not have trained."""
    shallow, deep = compared(columns)
    fit = [(PLAIN, shallow), (RESIDUAL, shallow), (RESIDUAL, deep)]
    least = min(float(np.median(found(columns, *of, "whole_accuracy"))) for of in fit)
    left = found(columns, PLAIN, shallow, "without_layer_accuracy")
    kept = np.delete(lost(columns, RESIDUAL, deep), _turns(columns, deep), axis=1)
    both = {twin: np.median(lost(columns, twin, shallow), 1) for twin in (PLAIN, RESIDUAL)}
    blocks = [digits(float(np.median(both[twin])), 2) for twin in (RESIDUAL, PLAIN)]
    ratios = turn_ratios(columns)
    return [
        that(
            "what is looked into has trained: accuracy",
            least >= TRAINED,
            f"{digits(least, 3)} at least (median)",
            f"{TRAINED} or more",
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
        that(
            f"{shallow} layers: without one unit, residual networks lose less than plain ones",
            np.median(both[PLAIN] - both[RESIDUAL]) > SMALL,
            " against ".join(blocks),
            f"less by more than {SMALL}",
        ),
        that(
            "residual: a transition costs more than the blocks beside it",
            np.median(ratios) > 1,
            f"loss without it x{digits(float(np.median(ratios)), 3)} of theirs",
            "above x1",
        ),
    ]


def _turns(columns: Columns, depth: int) -> list[int]:
    return transitions(found(columns, RESIDUAL, depth, "without_loss").shape[1])


def turn_ratios(columns: Columns) -> np.ndarray:
    """Return the loss without a transition over that without a block beside it, by seed.

    A geometric mean over both transitions, both blocks beside, and all depths.
    """
    logs = []
    for depth in depths(columns):
        loss = np.log(found(columns, RESIDUAL, depth, "without_loss"))
        for turn in _turns(columns, depth):
            beside = [i for i in (turn - 1, turn + 1) if i < loss.shape[1]]
            logs.append(loss[:, turn] - loss[:, beside].mean(1))
    return np.exp(np.mean(logs, axis=0))


def judge_features(columns: Columns) -> list[Criterion]:
    """Return the criteria of what is left of the features that entered the first unit."""
    made = []
    for quantity, words in (("correlation", "number by number"), ("cka", "by kernel alignment")):
        means = {
            (twin, depth): found(columns, twin, depth, quantity).mean(1)
            for twin in (PLAIN, RESIDUAL)
            for depth in depths(columns)
        }
        more = [np.median(means[RESIDUAL, d] - means[PLAIN, d]) for d in depths(columns)]
        told = [
            " against ".join(digits(float(np.median(means[t, d])), 2) for t in (RESIDUAL, PLAIN))
            + f" ({d} layers)"
            for d in depths(columns)
        ]
        made.append(
            that(
                f"features, {words}: residual networks keep more of the stem's",
                bool(min(more) > 0),
                ", ".join(told),
                f"more, at {'both depths' if len(more) == 2 else 'every depth'}",
            )
        )
    return made
