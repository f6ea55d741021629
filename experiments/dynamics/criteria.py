"""What must hold of batch norm's range and lengths, and of branches of scale zero."""

import numpy as np

from convjax import lab
from convjax.lab import Columns, Criterion, array, digits, pick, that
from experiments.dynamics.networks import (
    AWAKE,
    DECAYED,
    HE,
    LAYERS,
    NORMED,
    PLAIN,
    SILENT,
    TRUNK,
    TWIN,
    UNFORESEEN,
    VANISHED,
    ZERO,
)
from experiments.dynamics.training import FIRST, INITIAL, SCALED, TRAINED

EXACTLY = 1e-6
ORTHOGONAL = 0.001
INVERSE = 0.01


def layers(
    columns: Columns, phase: str, network: str, name: str, role: str | tuple[str, ...] = LAYERS
) -> np.ndarray:
    """Return a column of a network's equal layers as (seeds, steps, layers)."""
    rows = pick(columns, phase=phase, network=network, role=role)
    found = array(rows, name, "seed", "step", "position", "role")
    return found.reshape(*found.shape[:2], -1)


def log_ranges(columns: Columns, network: str, phase: str = FIRST) -> np.ndarray:
    """Return ln(largest / smallest norm of a layer's weight gradient) as (seeds, steps)."""
    gradients = layers(columns, phase, network, "gradient")
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(gradients.max(2) / gradients.min(2))


def along_trunk(columns: Columns, network: str) -> np.ndarray:
    """Return ln of the injected gradient's norm over that at the end as (seeds, places)."""
    rows = pick(columns, phase=INITIAL, network=network, role=TRUNK)
    logs = array(rows, "gradient_log_norm", "seed", "position")
    return logs - logs[:, -1:]


def judge(columns: Columns) -> list[Criterion]:
    """Return every criterion."""
    return [*judge_ranges(columns), *judge_lengths(columns), *judge_silent(columns)]


def judge_ranges(columns: Columns) -> list[Criterion]:
    """Return the criteria for the range of the networks with batch norm."""
    plain, twin = log_ranges(columns, PLAIN), log_ranges(columns, TWIN)
    trained = log_ranges(columns, PLAIN, TRAINED)
    initial, after = np.exp(np.median(plain[:, :2], axis=0))
    later, seeds = np.exp(np.median(plain[:, 1:].max(axis=1))), len(plain)
    return [
        that(
            "plain, batch norm: the range falls after step 1",
            bool((plain[:, 1] < plain[:, 0]).all()),
            f"{digits(initial)} to {digits(after)} (median)",
            f"smaller in all {seeds} seeds",
        ),
        that(
            "and stays below its initial value in the first steps",
            bool((plain[:, 1:] < plain[:, :1]).all()),
            f"at most {digits(later)} (median)",
            f"smaller in all {seeds} seeds",
        ),
        that(
            "and all through training",
            bool((trained[:, 1:] < trained[:, :1]).all()),
            f"at most {digits(np.exp(np.median(trained[:, 1:].max(axis=1))))} (median)",
            f"smaller in all {len(trained)} runs",
        ),
        that(
            "residual, batch norm: its initial range is below the plain one's",
            bool((twin[:, 0] < plain[:, 0]).all()),
            f"{digits(np.exp(np.median(twin[:, 0])))} (median)",
            f"smaller in all {seeds} seeds",
        ),
    ]


def judge_lengths(columns: Columns) -> list[Criterion]:
    """Return the criteria for the lengths of weights that a norm follows."""
    slopes = np.concatenate([inverse(columns, name).ravel() for name in (*NORMED, DECAYED)])
    shorter, larger, same = (decay_ratios(columns, name) for name in ("weight", "gradient", ""))
    return [
        lab.within(
            "steps are orthogonal to weights before a norm: 1 - |W'|^2 / (|W|^2 + |step|^2)",
            off_orthogonal(columns),
            0.0,
            absolute=ORTHOGONAL,
            why="the worst layer, step and seed",
        ),
        lab.within(
            "their gradient goes as 1/|W|: slope of its ln, weights halved and doubled",
            float(slopes.flat[np.abs(slopes + 1).argmax()]),
            -1.0,
            absolute=INVERSE,
            why="the worst layer and run",
        ),
        that(
            "so that decay, which shortens them, raises gradients over training",
            bool(
                (shorter < 1).all()
                and (larger > 1).all()
                and (abs(np.log(same)) < np.log(larger)).all()
            ),
            f"|W| x{digits(float(np.median(shorter)), 2)}, "
            f"|gradient| x{digits(float(np.median(larger)), 2)}, "
            f"their product x{digits(float(np.median(same)), 2)}",
            f"|W| below x1, |gradient| above, product nearer to it, in all {len(shorter)} runs",
        ),
    ]


def off_orthogonal(columns: Columns) -> float:
    """Return 1 - |W'|^2 / (|W|^2 + |step|^2) where it is furthest from 0."""
    weights, updates = (layers(columns, FIRST, PLAIN, name) for name in ("weight", "update"))
    summed = weights[:, :-1] ** 2 + updates[:, :-1] ** 2
    off = 1 - weights[:, 1:] ** 2 / summed
    return float(off.flat[np.abs(off).argmax()])


def inverse(columns: Columns, network: str) -> np.ndarray:
    """Return the slope of ln|gradient| against ln|W| of every layer and seed that was scaled."""
    rows = pick(columns, phase=SCALED, network=network, role="first", step=0)
    axes = ("seed", "position", "factor")
    x, y = (np.log(array(rows, name, *axes)) for name in ("weight", "gradient"))
    x, y = (values - values.mean(2, keepdims=True) for values in (x, y))
    return (x * y).sum(2) / (x * x).sum(2)


def decay_ratios(columns: Columns, name: str) -> np.ndarray:
    """Return a norm with decay over that without, by run.

    It is the median of the first convolutions of the units, which a norm follows, and of the second
    half of the steps. The name "" is that of the product of weight and gradient.
    """
    found = []
    for network in (DECAYED, TWIN):
        both = {
            kind: layers(columns, TRAINED, network, kind, "first")
            for kind in ("weight", "gradient")
        }
        values = both[name] if name else both["weight"] * both["gradient"]
        found.append(values[:, values.shape[1] // 2 :])
    return np.median(found[0] / found[1], axis=(1, 2))


def judge_silent(columns: Columns) -> list[Criterion]:
    """Return the criteria for the branches of scale zero."""
    made = [judge_pattern(columns, network) for network in SILENT]
    first = pick(columns, phase=FIRST)
    zero = first["gradient"] == 0
    still = int(np.sum(zero & np.isin(first["network"], SILENT) & (first["step"] >= AWAKE)))
    asleep = int(np.sum(zero & (first["network"] == HE) & (first["step"] == 0)))
    uneven = max(float(np.abs(along_trunk(columns, network)).max()) for network in SILENT)
    grown = along_trunk(columns, HE)[:, 0]
    return [
        *made,
        that(
            f"{', '.join(SILENT)}: in the first steps no gradient is zero from {AWAKE} on",
            still == 0,
            f"{still} zeros",
            "0",
        ),
        that("He, for comparison: none is zero at step 0", asleep == 0, f"{asleep} zeros", "0"),
        lab.within(
            f"{', '.join(SILENT)}: ln of the gradient's norm is the same at every unit, initially",
            uneven,
            0.0,
            absolute=EXACTLY,
            why="rounding",
        ),
        that(
            "He, for comparison: it is not",
            bool((grown > np.log(2)).all()),
            f"x{digits(np.exp(np.median(grown)))} to the stem (median)",
            "above x2 in all seeds",
        ),
    ]


def judge_pattern(columns: Columns, network: str) -> Criterion:
    """Return whether a network's zeros are those of its construction."""
    states = pick(columns, phase=FIRST, network=network)["state"]
    wrong = {state: int((states == state).sum()) for state in (VANISHED, UNFORESEEN)}
    zeros = int((states == ZERO).sum())
    return that(
        f"{network}: gradients are zero where and when the construction says so, only there",
        sum(wrong.values()) == 0 and zeros > 0,
        f"{zeros} zeros by construction; {wrong[VANISHED]} others, {wrong[UNFORESEEN]} missing",
        "0 others, 0 missing",
    )
