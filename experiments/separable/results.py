"""What separable found, from its table's columns: ratios, errors, and what follows what."""

from fractions import Fraction

import numpy as np

from convjax.lab import Columns, array, pick
from experiments.separable.layers import COMPARED, DIRECTIONS, FULL, NECK, said

FORWARD = next(iter(DIRECTIONS))
FOLLOWS = 1.25
ROUNDING = 1e-5


def places(columns: Columns, layer: str, topic: str = "counts") -> list[dict[str, int]]:
    """Return where a layer was counted or timed: size, channels and kernel size."""
    rows = pick(columns, topic=topic, name=layer)
    axes = ("size", "channels", "kernel_size")
    found = dict.fromkeys(zip(*(rows[axis].tolist() for axis in axes), strict=True))
    return [dict(zip(axes, one, strict=True)) for one in found]


def count_ratios(
    columns: Columns, layer: str, quantity: str, at: list[dict[str, int]] | None = None
) -> list[Fraction]:
    """Return a count over that of the layer it is compared with, at some places, exactly."""

    def value(name: str, where: dict[str, int]) -> Fraction:
        rows = pick(columns, topic="counts", name=name, quantity=quantity, **where)
        return Fraction(float(rows["value"][0]))

    at = places(columns, layer) if at is None else at
    return [value(layer, where) / value(COMPARED[layer], where) for where in at]


def counts_hold(columns: Columns, layer: str) -> bool:
    """Say whether products and weights are the share that texts give, everywhere, exactly."""
    at = places(columns, layer)
    expected = [said(layer, where["channels"], where["kernel_size"]) for where in at]
    return all(
        count_ratios(columns, layer, quantity, at) == expected
        for quantity in ("multiply_adds", "parameters")
    )


def time_ratios(columns: Columns, layer: str, direction: str) -> np.ndarray:
    """Return the time over that of the layer it is compared with, (places, rounds)."""

    def seconds(name: str, where: dict[str, int]) -> np.ndarray:
        rows = pick(columns, topic="time", name=name, quantity=direction, **where)
        return rows["value"][np.argsort(rows["number"])]

    return np.array(
        [
            seconds(layer, where) / seconds(COMPARED[layer], where)
            for where in places(columns, layer, "time")
        ]
    )


def off_by(columns: Columns, layer: str) -> np.ndarray:
    """Return the factor by which times are off the ratios of products, in the mean, by round.

    It is 1 if they follow them and above if they do not, whichever way they are off.
    """
    at = places(columns, layer, "time")
    ratios = [float(ratio) for ratio in count_ratios(columns, layer, "multiply_adds", at)]
    times = np.concatenate([time_ratios(columns, layer, d) for d in DIRECTIONS])
    logs = np.log(times) - np.tile(np.log(ratios), len(DIRECTIONS))[:, None]
    return np.exp(np.abs(logs).mean(axis=0))


def time_follows(columns: Columns, layer: str) -> bool:
    """Say whether times are within a quarter of the ratios of products, in the mean."""
    return bool(np.median(off_by(columns, layer)) <= FOLLOWS)


def speeds(columns: Columns, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Return products for each byte that is moved, by place, and per second forward, by round."""
    per_byte, per_second = [], []
    for where in places(columns, layer, "time"):
        counts = pick(columns, topic="counts", name=layer, **where)
        of = dict(zip(counts["quantity"].tolist(), counts["value"].tolist(), strict=True))
        times = pick(columns, topic="time", name=layer, quantity=FORWARD, **where)["value"]
        per_byte.append(of["multiply_adds"] / of["traffic_bytes"])
        per_second.append(of["multiply_adds"] / times)
    return np.array(per_byte), np.array(per_second)


def exactly(columns: Columns) -> dict[str, float]:
    """Return the differences that are 0 if a sentence is right."""
    rows = pick(columns, topic="exact")
    return dict(zip(rows["name"].tolist(), rows["value"].tolist(), strict=True))


def kernel_errors(columns: Columns, age: str, k: int, rank: int) -> np.ndarray:
    """Return the errors at a rank of the kernels between stem and head."""
    rows = pick(columns, topic="rank", name=age, kernel_size=k, number=rank)
    return rows["value"][rows["quantity"] != "stem"]


def windows(columns: Columns) -> list[int]:
    """Return the sides of the windows."""
    return np.unique(pick(columns, topic="accuracy")["kernel_size"]).tolist()


def last(columns: Columns, layer: str, quantity: str, k: int | None = None) -> np.ndarray:
    """Return what training ended with, seed by seed, at the first window if none is named."""
    rows = pick(columns, topic="training", name=layer, quantity=quantity)
    rows = pick(rows, kernel_size=rows["kernel_size"].min() if k is None else k)
    rows = pick(rows, number=rows["number"].max())
    return rows["value"][np.argsort(rows["seed"])]


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


def curve(columns: Columns, layer: str, quantity: str) -> np.ndarray:
    """Return a curve of training as (seeds, epochs), at the first window."""
    rows = pick(columns, topic="training", name=layer, quantity=quantity)
    rows = pick(rows, kernel_size=rows["kernel_size"].min())
    return array(rows, "value", "seed", "number")
