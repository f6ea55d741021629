"""What separable found, from its table's columns: ratios, errors, and what follows what."""

from fractions import Fraction
from typing import Any

import numpy as np

from convjax.lab import Columns, array, pick
from experiments.separable.layers import COMPARED, DIRECTIONS, FULL, NECK, PLACE, said

FORWARD = next(iter(DIRECTIONS))
FOLLOWS = 1.25
ROUNDING = 1e-5


def places(columns: Columns, layer: str, topic: str = "counts") -> list[dict[str, int]]:
    """Return where a layer was counted or timed: size, channels and kernel size."""
    rows = pick(columns, topic=topic, name=layer)
    found = dict.fromkeys(zip(*(rows[axis].tolist() for axis in PLACE), strict=True))
    return [dict(zip(PLACE, one, strict=True)) for one in found]


def count_ratios(
    columns: Columns, layer: str, quantity: str, at: list[dict[str, int]] | None = None
) -> list[Fraction]:
    """Return a count over that of the layer it is compared with, at some places, exactly."""

    def value(name: str, where: dict[str, int]) -> Fraction:
        rows = pick(columns, topic="counts", name=name, quantity=quantity, **where)
        return Fraction(float(rows["value"][0]))

    at = places(columns, layer) if at is None else at
    return [value(layer, where) / value(COMPARED[layer], where) for where in at]


def shares(at: list[dict[str, int]], layer: str) -> list[Fraction]:
    """Return the share of products and weights that texts give, at some places."""
    return [said(layer, where["channels"], where["kernel_size"]) for where in at]


def off_in_counts(columns: Columns, layer: str) -> float:
    """Return by how much products and weights are off the texts' share, at most; 0 is exact."""
    at = places(columns, layer)
    ratios = (count_ratios(columns, layer, q, at) for q in ("multiply_adds", "parameters"))
    pairs = (pair for found in ratios for pair in zip(found, shares(at, layer), strict=True))
    return float(np.max([abs(float(found - share)) for found, share in pairs]))


def seconds(columns: Columns, layer: str, direction: str, where: dict[str, int]) -> np.ndarray:
    """Return the times of a layer at a place, by round."""
    rows = pick(columns, topic="time", name=layer, quantity=direction, **where)
    return array(rows, "value", "number")


def time_ratios(columns: Columns, layer: str, direction: str) -> np.ndarray:
    """Return the time over that of the layer it is compared with, (places, rounds)."""
    at = places(columns, layer, "time")
    ours, other = (
        np.array([seconds(columns, name, direction, where) for where in at])
        for name in (layer, COMPARED[layer])
    )
    return ours / other


def off_by(columns: Columns, layer: str) -> np.ndarray:
    """Return the factor by which times are off the ratios of products, in the mean, by round.

    It is 1 if they follow them and above if they do not, whichever way they are off.
    """
    at = places(columns, layer, "time")
    ratios = [float(ratio) for ratio in count_ratios(columns, layer, "multiply_adds", at)]
    times = np.concatenate([time_ratios(columns, layer, d) for d in DIRECTIONS])
    logs = np.log(times) - np.tile(np.log(ratios), len(DIRECTIONS))[:, None]
    return np.exp(np.abs(logs).mean(axis=0))


def speeds(columns: Columns, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Return products for each byte that is moved, by place, and per second forward, by round."""
    per_byte, per_second = [], []
    for where in places(columns, layer, "time"):
        of = named(columns, "quantity", topic="counts", name=layer, **where)
        per_byte.append(of["multiply_adds"] / of["traffic_bytes"])
        per_second.append(of["multiply_adds"] / seconds(columns, layer, FORWARD, where))
    return np.array(per_byte), np.array(per_second)


def named(columns: Columns, by: str = "name", **where: Any) -> dict[str, float]:
    """Return the values of some rows, by their name or quantity."""
    rows = pick(columns, **where)
    return dict(zip(rows[by].tolist(), rows["value"].tolist(), strict=True))


def kernel_errors(columns: Columns, age: str, k: int, rank: int) -> np.ndarray:
    """Return the errors at a rank of the kernels between stem and head."""
    rows = pick(columns, topic="rank", name=age, kernel_size=k, number=rank)
    return rows["value"][rows["quantity"] != "stem"]


def windows(columns: Columns) -> list[int]:
    """Return the sides of the windows."""
    return np.unique(pick(columns, topic="accuracy")["kernel_size"]).tolist()


def last(columns: Columns, layer: str, quantity: str, k: int | None = None) -> np.ndarray:
    """Return what training ended with, seed by seed, at the first window if none is named."""
    return curve(columns, layer, quantity, k)[:, -1]


def curve(columns: Columns, layer: str, quantity: str, k: int | None = None) -> np.ndarray:
    """Return a curve of training as (seeds, epochs), at the first window if none is named."""
    rows = pick(columns, topic="training", name=layer, quantity=quantity)
    rows = pick(rows, kernel_size=rows["kernel_size"].min() if k is None else k)
    return array(rows, "value", "seed", "number")


def at_equal_training_loss(columns: Columns) -> tuple[float, dict[str, np.ndarray]]:
    """Return the lowest training loss that all reach, and test losses there, by layer and seed.

    Of the full network and the bottleneck; between epochs, logarithms are interpolated.
    """
    curves = {
        layer: [curve(columns, layer, quantity) for quantity in ("train_loss", "test_loss")]
        for layer in (FULL, NECK)
    }
    target = max(float(train.min(axis=1).max()) for train, _ in curves.values())
    found = {}
    for layer, (train, test) in curves.items():
        # The lowest so far falls all the way, as interpolation wants it.
        fallen = -np.log(np.minimum.accumulate(train, axis=1))
        pairs = zip(fallen, np.log(test), strict=True)
        found[layer] = np.exp([np.interp(-np.log(target), x, y) for x, y in pairs])
    return target, found
