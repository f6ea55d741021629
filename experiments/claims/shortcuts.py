"""Sentences 4a to 4f: what residual connections do, from the table of claims."""

import numpy as np

from convjax import gradflow
from convjax.lab import Columns, array, digits, pick
from convjax.lab.rules import Claim, Evidence, versus
from experiments.claims.networks import PLAIN, RESIDUAL

VANISHED = float(np.log(100))
"""A squared gradient that is smaller by 100 at the input has vanished."""
TWICE = float(np.log(2))
LOSS = 0.05
"""Nats of training loss that count as none."""
GAP = 0.03
"""Nats between test and training that count as none: the error of a mean over 599 images."""
BETTER = 0.02
"""Of accuracy, that counts as none: two standard errors of a difference of 97 % of 599 images."""
TARGET, WINDOW = 0.5, 10
"""Loss that must be reached, by the mean over so many batches."""
SOONER = 0.1
"""Share of the steps that counts as none."""
COMPARABLE = 0.5
"""Largest training loss, and least accuracy, of a network that trained at all."""
ALIKE = 0.1
"""Correlation, accuracy, or share of r2 that counts as none."""

SAID = {
    "4a1": "the gradient of deep plain networks vanishes (at initialization, {last} layers)",
    "4a2": "residual connections mitigate vanishing gradients",
    "4a3": "residual connections bring the gradient nearer to the same size everywhere",
    "4a4": "they turn an exponential of depth into a power law",
    "4b1": "without shortcuts, deeper networks train worse ({deep} layers against {middle})",
    "4b2": "with shortcuts they do not",
    "4b3": "shortcuts lower the training loss of deep networks",
    "4c1": "they preserve features, more than plain networks do",
    "4c2": "units learn corrections to the identity",
    "4c3": "so that a residual network does without any one unit",
    "4c4": "where a plain network does not",
    "4d": "they converge faster",
    "4e": "they reduce overfitting",
    "4f": "they perform better",
}
RULES = {
    "4a1": "|g_0|^2 / |g_L|^2 below 1/100; above 100 it has exploded",
    "4a2": "where the plain twin's has vanished, the ratio is nearer to 1",
    "4a3": "|ln ratio| falls by ln 2 or more",
    "4a4": "the better fit of ln|g_l|^2 by r2: plain exponential, residual power law",
    "4b1": f"training loss higher by {LOSS} nats",
    "4b2": f"residual training loss of {{deep}} layers at most that of {{middle}} + {LOSS}",
    "4b3": f"plain twin's higher by {LOSS} nats",
    "4c1": f"correlation of the last unit's features with the stem's higher by {ALIKE}",
    "4c2": "|branch| / |input| below 1/2 at the median unit",
    "4c3": f"accuracy falls by less than {ALIKE} at the median unit",
    "4c4": f"accuracy falls by more than {ALIKE} at the median unit",
    "4d": f"steps to a training loss of {TARGET}, plain against residual; {SOONER:.0%} fewer",
    "4e": f"test less training loss at equal training loss: plain's higher by {GAP} nats",
    "4f": f"test accuracy higher by {BETTER}, at the last step",
}

Pair = tuple[str, int]
"""Norm and depth of a plain and a residual network."""


def claims(columns: Columns) -> list[Claim]:
    """Return the sentences on shortcuts."""
    every = pairs(columns)
    *_, middle, deep = sorted({depth for _, depth in every})
    losses = {
        named(norm): [end(columns, (norm, depth), "train_loss") for depth in (middle, deep)]
        for norm in dict.fromkeys(norm for norm, _ in every)
    }
    initial = {
        f"{init}, {named(pair[0])}": twins(columns, "birth", pair, init)
        for init, pair in stacks(columns)
    }
    ends = {name: (plain[:, 0], res[:, 0]) for name, (plain, res) in initial.items()}
    of = {
        "4a1": [Evidence(name, -plain, _e(plain), VANISHED) for name, (plain, _) in ends.items()],
        "4a2": [_mitigated(name, *both) for name, both in ends.items()],
        "4a3": [_nearer(name, *both) for name, both in ends.items()],
        "4a4": [_law(name, *both) for name, both in initial.items()],
        "4b1": [versus(n, at[1][0], at[0][0], margin=LOSS) for n, at in losses.items()],
        "4b2": [_no_worse(n, at[0][1], at[1][1]) for n, at in losses.items()],
        "4b3": [versus(called(p), *end(columns, p, "train_loss"), margin=LOSS) for p in every],
        "4c1": [_features(columns, pair) for pair in every],
        "4c2": [_corrections(columns, pair) for pair in every],
        "4c3": [_lesions(columns, pair, RESIDUAL) for pair in every],
        "4c4": [_lesions(columns, pair, PLAIN) for pair in every],
        "4d": [_faster(columns, pair) for pair in every],
        "4e": [versus(called(pair), *gaps(columns, pair), margin=GAP) for pair in every],
        "4f": [_better(columns, pair) for pair in every],
    }
    depths = {"middle": middle, "deep": deep, "last": max(n for _, (_, n) in stacks(columns))}
    return [
        Claim(number, text.format(**depths), of[number], RULES[number].format(**depths))
        for number, text in SAID.items()
    ]


def found(columns: Columns, kind: str, twin: str, pair: Pair, quantity: str) -> np.ndarray:
    """Return a quantity as (seeds, numbers): steps, checks, places or units."""
    norm, depth = pair
    rows = pick(columns, kind=kind, name=twin, norm=norm, quantity=quantity, depth=depth)
    return array(rows, "value", "seed", "number")


def twins(columns: Columns, kind: str, pair: Pair, quantity: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a quantity of the plain and of the residual twin."""
    plain, residual = (found(columns, kind, twin, pair, quantity) for twin in (PLAIN, RESIDUAL))
    return plain, residual


def pairs(columns: Columns) -> list[Pair]:
    """Return every norm and depth that was trained, norm by norm, the shallow ones first."""
    rows = pick(columns, kind="curve")
    return sorted(set(zip(rows["norm"].tolist(), rows["depth"].tolist(), strict=True)))


def named(norm: str) -> str:
    """Return a norm in words."""
    return "no norm" if norm == "none" else f"{norm} norm"


def called(pair: Pair) -> str:
    """Return a norm and depth in words."""
    return f"{named(pair[0])}, {pair[1]} layers"


def stacks(columns: Columns) -> list[tuple[str, Pair]]:
    """Return the initializer, norm and depth of every stack at initialization."""
    rows = pick(columns, kind="birth")
    cases = zip(*(rows[axis].tolist() for axis in ("quantity", "norm", "depth")), strict=True)
    return [(init, (norm, depth)) for init, norm, depth in dict.fromkeys(cases)]


def _nearer(name: str, plain: np.ndarray, residual: np.ndarray) -> Evidence:
    shown = f"{_e(plain)} to {_e(residual)}"
    return Evidence(name, np.abs(plain) - np.abs(residual), shown, TWICE)


def _mitigated(name: str, plain: np.ndarray, residual: np.ndarray) -> Evidence:
    nearer = _nearer(name, plain, residual)
    if np.median(plain) < -VANISHED:
        return nearer
    return Evidence(name, np.zeros(len(plain)), f"nothing vanishes ({nearer.shown})", TWICE)


def _law(name: str, plain: np.ndarray, residual: np.ndarray) -> Evidence:
    fits = [[gradflow.growth(logs / 2) for logs in twin] for twin in (plain, residual)]
    support = [
        min(a.exponential_r2 - a.power_r2, b.power_r2 - b.exponential_r2)
        for a, b in zip(*fits, strict=True)
    ]
    laws = [max(laws := [fit.law for fit in twin], key=laws.count) for twin in fits]
    return Evidence(name, np.array(support), " to ".join(laws))


def _e(logs: np.ndarray) -> str:
    return f"e^{np.median(logs):.1f}"


def end(columns: Columns, pair: Pair, quantity: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what training of both twins ended with, seed by seed."""
    plain, residual = twins(columns, "curve", pair, quantity)
    return plain[:, -1], residual[:, -1]


def _no_worse(name: str, middle: np.ndarray, deep: np.ndarray) -> Evidence:
    """Compare two depths; networks that did not train at either are equally bad, not no worse."""
    kept = np.minimum(middle, deep) <= COMPARABLE
    shown = f"{_middle(deep, 3)} against {_middle(middle, 3)}"
    return Evidence(name, (middle + LOSS - deep)[kept], shown)


def fits(columns: Columns, pair: Pair, twin: str) -> np.ndarray:
    """Say of every seed whether the network trained at all."""
    return found(columns, "looked", twin, pair, "whole_accuracy")[:, 0] >= COMPARABLE


def _features(columns: Columns, pair: Pair) -> Evidence:
    plain, residual = twins(columns, "looked", pair, "correlation")
    kept = fits(columns, pair, RESIDUAL)
    return versus(called(pair), residual[kept, -1], plain[kept, -1], margin=ALIKE)


def _corrections(columns: Columns, pair: Pair) -> Evidence:
    shares = found(columns, "looked", RESIDUAL, pair, "branch")[fits(columns, pair, RESIDUAL)]
    share = np.median(shares, axis=1)
    return Evidence(called(pair), np.log(0.5) - np.log(share), _if_trained(share))


def lost(columns: Columns, pair: Pair, twin: str) -> np.ndarray:
    """Return the accuracy lost with each unit, (seeds, units), of the seeds that trained."""
    whole, without = (
        found(columns, "looked", twin, pair, f"{which}_accuracy") for which in ("whole", "without")
    )
    return (whole - without)[fits(columns, pair, twin)]


def _lesions(columns: Columns, pair: Pair, twin: str) -> Evidence:
    falls = np.median(lost(columns, pair, twin), axis=1)
    sign = 1.0 if twin == PLAIN else -1.0
    return Evidence(called(pair), sign * (falls - ALIKE), _if_trained(falls))


def _if_trained(values: np.ndarray) -> str:
    return _middle(values, 2) if values.size else "did not train"


def _middle(values: np.ndarray, count: int) -> str:
    return digits(float(np.median(values)), count)


def steps_to(losses: np.ndarray, target: float = TARGET) -> np.ndarray:
    """Return after how many steps the mean over a window of batches is at the target.

    One more than all steps where it never is. Of (seeds, steps), one number a seed.
    """
    wide = min(WINDOW, losses.shape[1])
    sums = np.cumsum(np.pad(losses, ((0, 0), (1, 0))), axis=1)
    reached = (sums[:, wide:] - sums[:, :-wide]) / wide <= target
    never = losses.shape[1] + 1
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + wide, never).astype(float)


def _faster(columns: Columns, pair: Pair) -> Evidence:
    losses = twins(columns, "step", pair, "batch_loss")
    plain, residual = map(steps_to, losses)
    never = losses[0].shape[1] + 1
    kept = (plain < never) | (residual < never)
    times = [
        _middle(steps, 3) if np.median(steps) < never else f"more than {never - 1}"
        for steps in (plain, residual)
    ]
    support = np.log(plain[kept]) - np.log(residual[kept])
    return Evidence(called(pair), support, " against ".join(times), SOONER)


def gaps(columns: Columns, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Return test less training loss of both twins at equal training loss, seed by seed.

    That loss is the lowest that both reach; seeds are left out where it is above ``COMPARABLE``.
    """
    train, test = (twins(columns, "curve", pair, f"{split}_loss") for split in ("train", "test"))
    # The lowest so far falls all the way, as interpolation wants it.
    fallen = [np.minimum.accumulate(losses, axis=1) for losses in train]
    targets = np.maximum(*(losses[:, -1] for losses in fallen))
    plain, residual = (
        np.array([np.interp(-t, -x, y) - t for t, x, y in zip(targets, *curves, strict=True)])
        for curves in zip(fallen, test, strict=True)
    )
    kept = targets <= COMPARABLE
    return plain[kept], residual[kept]


def _better(columns: Columns, pair: Pair) -> Evidence:
    plain, residual = end(columns, pair, "test_accuracy")
    # Networks that did not train differ by chance.
    kept = np.maximum(plain, residual) >= COMPARABLE
    return versus(called(pair), residual[kept], plain[kept], margin=BETTER)
