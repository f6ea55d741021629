"""What must hold of batch norm's range and lengths, and of branches of scale zero."""

import numpy as np

from convjax import lab
from convjax.lab import Columns, Criterion, digits, pick, that
from experiments.dynamics import networks
from experiments.dynamics.networks import DECAYED, HE, LAYERS, NORMED, PLAIN, SILENT, TWIN
from experiments.dynamics.training import FIRST, INITIAL, SCALED, TRAINED

EXACTLY = 1e-6
ORTHOGONAL = 0.001
INVERSE = 0.01


def layers(
    columns: Columns, phase: str, network: str, name: str, role: str | tuple[str, ...] = LAYERS
) -> np.ndarray:
    """Return a column of a network's equal layers as (seeds, steps, layers)."""
    rows = pick(columns, phase=phase, network=network, role=role)
    found = lab.array(rows, name, "seed", "step", "position", "role")
    return found.reshape(*found.shape[:2], -1)


def log_ranges(columns: Columns, network: str, phase: str = FIRST) -> np.ndarray:
    """Return ln(largest / smallest norm of a layer's weight gradient) as (seeds, steps)."""
    gradients = layers(columns, phase, network, "gradient")
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(gradients.max(2) / gradients.min(2))


def along_trunk(columns: Columns, network: str) -> np.ndarray:
    """Return ln of the injected gradient's norm over that at the end as (seeds, places)."""
    rows = pick(columns, phase=INITIAL, network=network, role=networks.TRUNK)
    logs = lab.array(rows, "gradient_log_norm", "seed", "position")
    return logs - logs[:, -1:]


def judge(columns: Columns) -> list[Criterion]:
    """Return every criterion."""
    return [*judge_ranges(columns), *judge_lengths(columns), *judge_silent(columns)]


def judge_ranges(columns: Columns) -> list[Criterion]:
    """Return the criteria for the range of the networks with batch norm."""
    plain, twin = log_ranges(columns, PLAIN), log_ranges(columns, TWIN)
    trained = log_ranges(columns, PLAIN, TRAINED)

    def smaller(claim, one, other, told, of="seeds"):
        expected = f"smaller in all {len(one)} {of}"
        return that(claim, (one < other).all(), f"{told} (median)", expected)

    def typical(logs):
        return digits(np.exp(np.median(logs)))

    initial, later, start = plain[:, :1], plain[:, 1:], trained[:, :1]
    falls = f"{typical(initial)} to {typical(later[:, :1])}"
    most, most_trained = (f"at most {typical(x[:, 1:].max(1))}" for x in (plain, trained))
    first, lower = "the range falls after step 1", "its initial range is below the plain one's"
    return [
        smaller(f"plain, batch norm: {first}", later[:, :1], initial, falls),
        smaller("and stays below its initial value in the first steps", later, initial, most),
        smaller("and all through training", trained[:, 1:], start, most_trained, "runs"),
        smaller(f"residual, batch norm: {lower}", twin[:, :1], initial, typical(twin[:, 0])),
    ]


def judge_lengths(columns: Columns) -> list[Criterion]:
    """Return the criteria for the lengths of weights that a norm follows."""
    slopes = np.concatenate([inverse(columns, name).ravel() for name in NORMED])
    shorter, larger = (decay_ratios(columns, name) for name in ("weight", "gradient"))
    same = np.median(np.prod([shorter, larger], axis=0), axis=(1, 2))
    shorter, larger = (np.median(ratios, axis=(1, 2)) for ratios in (shorter, larger))
    held = (shorter < 1) & (larger > 1) & (abs(np.log(same)) < np.log(larger))
    shown = [digits(float(np.median(ratios)), 2) for ratios in (shorter, larger, same)]
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
            held.all(),
            "|W| x{}, |gradient| x{}, their product x{}".format(*shown),
            f"|W| below x1, |gradient| above, product nearer to it, in all {len(held)} runs",
        ),
    ]


def off_orthogonal(columns: Columns) -> float:
    """Return 1 - |W'|^2 / (|W|^2 + |step|^2) where it is furthest from 0."""
    weights, updates = (layers(columns, FIRST, PLAIN, name) for name in ("weight", "update"))
    off = 1 - weights[:, 1:] ** 2 / (weights[:, :-1] ** 2 + updates[:, :-1] ** 2)
    return float(off.flat[np.abs(off).argmax()])


def inverse(columns: Columns, network: str) -> np.ndarray:
    """Return the slope of ln|gradient| against ln|W| of every layer and seed that was scaled."""
    rows = pick(columns, phase=SCALED, network=network, role="first", step=0)
    axes = ("seed", "position", "factor")
    x, y = (np.log(lab.array(rows, name, *axes)) for name in ("weight", "gradient"))
    x, y = (values - values.mean(2, keepdims=True) for values in (x, y))
    return (x * y).sum(2) / (x * x).sum(2)


def decay_ratios(columns: Columns, name: str) -> np.ndarray:
    """Return a norm with decay over that without, as (runs, steps, layers).

    Of the first convolutions of the units, which a norm follows, in the second half of the steps.
    """
    with_, without = (layers(columns, TRAINED, of, name, "first") for of in (DECAYED, TWIN))
    return (with_ / without)[:, with_.shape[1] // 2 :]


def judge_silent(columns: Columns) -> list[Criterion]:
    """Return the criteria for the branches of scale zero."""
    first, awake, silent = pick(columns, phase=FIRST), networks.AWAKE, ", ".join(SILENT)
    zero = pick(first | {"zero": first["gradient"] == 0}, zero=True)
    still = int((np.isin(zero["network"], SILENT) & (zero["step"] >= awake)).sum())
    asleep = len(pick(zero, network=HE, step=0)["step"])
    uneven = float(np.max([np.abs(along_trunk(columns, network)).max() for network in SILENT]))
    grown = along_trunk(columns, HE)[:, 0]
    return [
        *(judge_pattern(columns, network) for network in SILENT),
        that(
            f"{silent}: in the first steps no gradient is zero from {awake} on",
            still == 0,
            f"{still} zeros",
            "0",
        ),
        that("He, for comparison: none is zero at step 0", asleep == 0, f"{asleep} zeros", "0"),
        lab.within(
            f"{silent}: ln of the gradient's norm is the same at every unit, initially",
            uneven,
            0.0,
            absolute=EXACTLY,
            why="rounding",
        ),
        that(
            "He, for comparison: it is not",
            (grown > np.log(2)).all(),
            f"x{digits(np.exp(np.median(grown)))} to the stem (median)",
            "above x2 in all seeds",
        ),
    ]


def judge_pattern(columns: Columns, network: str) -> Criterion:
    """Return whether a network's zeros are those of its construction."""
    states = pick(columns, phase=FIRST, network=network)["state"]
    expected = (networks.ZERO, networks.VANISHED, networks.UNFORESEEN)
    zeros, others, missing = (int((states == state).sum()) for state in expected)
    return that(
        f"{network}: gradients are zero where and when the construction says so, only there",
        others == missing == 0 < zeros,
        f"{zeros} zeros by construction; {others} others, {missing} missing",
        "0 others, 0 missing",
    )
