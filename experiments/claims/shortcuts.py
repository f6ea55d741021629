"""Sentences 4a to 4f of claims: what residual connections do, from the table of claims."""

from collections.abc import Iterator

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

Pair = tuple[str, int]


def claims(columns: Columns) -> Iterator[Claim]:
    """Yield the sentences on shortcuts."""
    yield from _at_initialization(columns)
    yield from _deeper(columns)
    yield from _identity(columns)
    yield _faster(columns)
    yield _overfitting(columns)
    yield _better(columns)


def found(columns: Columns, kind: str, twin: str, norm: str, quantity: str, depth: int):
    """Return a quantity as (seeds, numbers): steps, checks, places or units."""
    rows = pick(columns, kind=kind, name=twin, norm=norm, quantity=quantity, depth=depth)
    return array(rows, "value", "seed", "number")


def twins(columns: Columns, kind: str, norm: str, quantity: str, depth: int):
    """Return a quantity of the plain and of the residual twin."""
    plain, residual = (
        found(columns, kind, twin, norm, quantity, depth) for twin in (PLAIN, RESIDUAL)
    )
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


def births(columns: Columns) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return ln of squared gradients along the bodies of both twins, by norm and initialiser."""
    rows = pick(columns, kind="birth")
    cases = zip(*(rows[axis].tolist() for axis in ("norm", "quantity", "depth")), strict=True)
    return {
        f"{init}, {named(norm)}": twins(columns, "birth", norm, init, depth)
        for norm, init, depth in dict.fromkeys(cases)
    }


def _at_initialization(columns: Columns) -> Iterator[Claim]:
    every = births(columns)
    depth = int(pick(columns, kind="birth")["depth"].max())
    ends = {name: (plain[:, 0], res[:, 0]) for name, (plain, res) in every.items()}
    yield Claim(
        "4a1",
        f"the gradient of deep plain networks vanishes (at initialization, {depth} layers)",
        [Evidence(name, -plain, _e(plain), VANISHED) for name, (plain, _) in ends.items()],
        "|g_0|^2 / |g_L|^2 below 1/100; above 100 it has exploded",
    )
    yield Claim(
        "4a2",
        "residual connections mitigate vanishing gradients",
        [_mitigated(name, *both) for name, both in ends.items()],
        "where the plain twin's has vanished, the ratio is nearer to 1",
    )
    yield Claim(
        "4a3",
        "residual connections bring the gradient nearer to the same size everywhere",
        [
            Evidence(name, abs(plain) - abs(res), f"{_e(plain)} to {_e(res)}", TWICE)
            for name, (plain, res) in ends.items()
        ],
        "|ln ratio| falls by ln 2 or more",
    )
    yield Claim(
        "4a4",
        "they turn an exponential of depth into a power law",
        [_law(name, *both) for name, both in every.items()],
        "the better fit of ln|g_l|^2 by r2: plain exponential, residual power law",
    )


def _mitigated(name: str, plain: np.ndarray, residual: np.ndarray) -> Evidence:
    if np.median(plain) >= -VANISHED:
        shown = f"nothing vanishes ({_e(plain)} to {_e(residual)})"
        return Evidence(name, np.zeros(len(plain)), shown, TWICE)
    shown = f"{_e(plain)} to {_e(residual)}"
    return Evidence(name, np.abs(plain) - np.abs(residual), shown, TWICE)


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


def end(columns: Columns, norm: str, depth: int, quantity: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what training of both twins ended with, seed by seed."""
    plain, residual = twins(columns, "curve", norm, quantity, depth)
    return plain[:, -1], residual[:, -1]


def _deeper(columns: Columns) -> Iterator[Claim]:
    every = pairs(columns)
    *_, middle, deep = sorted({depth for _, depth in every})
    norms = dict.fromkeys(norm for norm, _ in every)
    losses = {
        norm: [end(columns, norm, depth, "train_loss") for depth in (middle, deep)]
        for norm in norms
    }
    yield Claim(
        "4b1",
        f"without shortcuts, deeper networks train worse ({deep} layers against {middle})",
        [versus(named(n), at[1][0], at[0][0], margin=LOSS) for n, at in losses.items()],
        f"training loss higher by {LOSS} nats",
    )
    yield Claim(
        "4b2",
        "with shortcuts they do not",
        [_no_worse(n, at[0][1], at[1][1]) for n, at in losses.items()],
        f"residual training loss of {deep} layers at most that of {middle} + {LOSS}",
    )
    yield Claim(
        "4b3",
        "shortcuts lower the training loss of deep networks",
        [versus(called(pair), *end(columns, *pair, "train_loss"), margin=LOSS) for pair in every],
        f"plain twin's higher by {LOSS} nats",
    )


def _no_worse(norm: str, middle: np.ndarray, deep: np.ndarray) -> Evidence:
    """Compare two depths; networks that did not train at either are equally bad, not no worse."""
    kept = np.minimum(middle, deep) <= COMPARABLE
    shown = f"{digits(float(np.median(deep)), 3)} against {digits(float(np.median(middle)), 3)}"
    return Evidence(named(norm), (middle + LOSS - deep)[kept], shown)


def _identity(columns: Columns) -> Iterator[Claim]:
    every = pairs(columns)
    yield Claim(
        "4c1",
        "they preserve features, more than plain networks do",
        [_features(columns, pair) for pair in every],
        f"correlation of the last unit's features with the stem's higher by {ALIKE}",
    )
    yield Claim(
        "4c2",
        "units learn corrections to the identity",
        [_corrections(columns, pair) for pair in every],
        "|branch| / |input| below 1/2 at the median unit",
    )
    yield Claim(
        "4c3",
        "so that a residual network does without any one unit",
        [_lesions(columns, pair)[1] for pair in every],
        f"accuracy falls by less than {ALIKE} at the median unit",
    )
    yield Claim(
        "4c4",
        "where a plain network does not",
        [_lesions(columns, pair)[0] for pair in every],
        f"accuracy falls by more than {ALIKE} at the median unit",
    )


def fits(columns: Columns, pair: Pair, twin: str) -> np.ndarray:
    """Say of every seed whether the network trained at all."""
    norm, depth = pair
    whole = found(columns, "looked", twin, norm, "whole_accuracy", depth)
    return whole[:, 0] >= COMPARABLE


def _features(columns: Columns, pair: Pair) -> Evidence:
    norm, depth = pair
    plain, residual = twins(columns, "looked", norm, "correlation", depth)
    kept = fits(columns, pair, RESIDUAL)
    return versus(called(pair), residual[kept, -1], plain[kept, -1], margin=ALIKE)


def _corrections(columns: Columns, pair: Pair) -> Evidence:
    norm, depth = pair
    kept = fits(columns, pair, RESIDUAL)
    share = np.median(found(columns, "looked", RESIDUAL, norm, "branch", depth)[kept], axis=1)
    shown = digits(float(np.median(share)), 2) if share.size else "did not train"
    return Evidence(called(pair), np.log(0.5) - np.log(share), shown)


def drops(columns: Columns, pair: Pair, twin: str) -> np.ndarray:
    """Return the accuracy lost with the median unit, of the seeds that trained."""
    norm, depth = pair
    whole = found(columns, "looked", twin, norm, "whole_accuracy", depth)
    without = found(columns, "looked", twin, norm, "without_accuracy", depth)
    return np.median(whole - without, axis=1)[fits(columns, pair, twin)]


def _lesions(columns: Columns, pair: Pair) -> list[Evidence]:
    made = []
    for twin, sign in ((PLAIN, 1.0), (RESIDUAL, -1.0)):
        lost = drops(columns, pair, twin)
        shown = digits(float(np.median(lost)), 2) if lost.size else "did not train"
        made.append(Evidence(called(pair), sign * (lost - ALIKE), shown))
    return made


def steps_to(losses: np.ndarray, target: float = TARGET) -> np.ndarray:
    """Return after how many steps the mean over a window of batches is at the target.

    One more than all steps where it never is. Of (seeds, steps), one number a seed.
    """
    wide = min(WINDOW, losses.shape[1])
    sums = np.cumsum(np.pad(losses, ((0, 0), (1, 0))), axis=1)
    reached = (sums[:, wide:] - sums[:, :-wide]) / wide <= target
    never = losses.shape[1] + 1
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + wide, never).astype(float)


def _faster(columns: Columns) -> Claim:
    made = []
    for pair in pairs(columns):
        losses = twins(columns, "step", pair[0], "batch_loss", pair[1])
        plain, residual = map(steps_to, losses)
        never = losses[0].shape[1] + 1
        kept = (plain < never) | (residual < never)
        support = np.log(plain[kept]) - np.log(residual[kept])
        times = [
            digits(t, 3) if (t := float(np.median(steps))) < never else f"more than {never - 1}"
            for steps in (plain, residual)
        ]
        made.append(Evidence(called(pair), support, " against ".join(times), SOONER))
    return Claim(
        "4d",
        "they converge faster",
        made,
        f"steps to a training loss of {TARGET}, plain against residual; {SOONER:.0%} fewer",
    )


def gaps(columns: Columns, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Return test less training loss of both twins at equal training loss, seed by seed.

    That loss is the lowest that both reach; seeds are left out where it is above ``COMPARABLE``.
    """
    norm, depth = pair
    train, test = (
        twins(columns, "curve", norm, f"{split}_loss", depth) for split in ("train", "test")
    )
    # The lowest so far falls all the way, as interpolation wants it.
    fallen = [np.minimum.accumulate(losses, axis=1) for losses in train]
    targets = np.maximum(*(losses[:, -1] for losses in fallen))
    plain, residual = (
        np.array([np.interp(-t, -x, y) - t for t, x, y in zip(targets, *curves, strict=True)])
        for curves in zip(fallen, test, strict=True)
    )
    kept = targets <= COMPARABLE
    return plain[kept], residual[kept]


def _overfitting(columns: Columns) -> Claim:
    return Claim(
        "4e",
        "they reduce overfitting",
        [versus(called(pair), *gaps(columns, pair), margin=GAP) for pair in pairs(columns)],
        f"test less training loss at equal training loss: plain's higher by {GAP} nats",
    )


def _better(columns: Columns) -> Claim:
    made = []
    for pair in pairs(columns):
        plain, residual = end(columns, *pair, "test_accuracy")
        # Networks that did not train differ by chance.
        kept = np.maximum(plain, residual) >= COMPARABLE
        made.append(versus(called(pair), residual[kept], plain[kept], margin=BETTER))
    return Claim(
        "4f", "they perform better", made, f"test accuracy higher by {BETTER}, at the last step"
    )
