"""A planted table of separable, for its tests and those of claims, which measures the same."""

from convjax.lab import stack
from experiments.separable.kernels import ROUNDED, SHOWN
from experiments.separable.layers import (
    DEEP,
    DEEP_SPLIT,
    DIRECTIONS,
    FULL,
    NECK,
    PAIR,
    POINT,
    SPLIT,
)
from experiments.separable.parts import row

SEEDS = 3
ZEROS = (
    "sobel by hand",
    "1x1: f(3 x) - 3 f(x)",
    "1x1: f(x + y) - f(x) - f(y)",
    "1x1: change at other places",
    "1x1: 32x32x64 to 32x32x128",
    "1x1: two less the one they make",
    "depthwise: change in other channels",
)
SECONDS = {FULL: 1.0, SPLIT: 2 / 3, DEEP: 0.25, DEEP_SPLIT: 0.4, POINT: 0.2, PAIR: 0.5, NECK: 0.4}


def planted(
    *,
    seconds=None,
    times=None,
    noise=0.0,
    weights=1.0,
    off=0.0,
    rank=0.5,
    learned=0.4,
    neck=0.96,
    neck_loss=1.5,
    stuck=0.0,
):
    """Make a table in which texts are right of what they count; each argument plants a change.

    Times follow the products where no ``seconds`` are given, but for factors that ``times`` names.
    """
    rows = []
    for channels in (64, 8):
        counts = {FULL: 9 * channels**2, SPLIT: 6 * channels**2, POINT: channels**2}
        counts |= {DEEP: 9 * channels, DEEP_SPLIT: 6 * channels}
        counts |= {PAIR: counts[DEEP] + counts[POINT]}
        counts |= {NECK: channels**2 // 2 + 9 * channels**2 // 16}
        at = {"size": 14, "channels": channels, "kernel_size": 3}
        for layer, count in counts.items():
            own = count * (weights if layer == PAIR else 1)
            rows.append(row("counts", layer, "multiply_adds", count, **at))
            rows.append(row("counts", layer, "parameters", own, **at))
            rows.append(row("counts", layer, "traffic_bytes", 400 * channels, **at))
            time = (seconds or counts)[layer] * (times or {}).get(layer, 1)
            for direction in DIRECTIONS if channels == 64 else ():
                for i in range(4):
                    wide = 1 + noise * (i % 2) * (layer == PAIR)
                    rows.append(row("time", layer, direction, time * wide, number=i, **at))
    rows += [row("machine", f"{what} per second", "", 3e9) for what in ("bytes", "products")]
    rows += [row("exact", name, "", off) for name in ZEROS]
    rows += [row("exact", name, "", 1e-7) for name in ROUNDED]
    rows += [row("exact", name, "", 3.0) for name in SHOWN]
    for number, share in ((1, 1.0), (2, 0.4), (3, 0.0)):
        at = {"kernel_size": 3, "number": number}
        for age, error in (("random", rank), ("trained", learned)):
            rows.append(row("rank", age, "conv0", error * share, **at))
            rows.append(row("rank", age, "stem", 0.0, **at))
        for seed in range(SEEDS):
            accuracy = 0.97 - 0.3 * share
            rows.append(row("accuracy", FULL, "test_accuracy", accuracy, seed=seed, **at))
    return stack([*rows, *_training(neck, neck_loss, stuck)])


def _training(neck, neck_loss, stuck):
    for layer in (FULL, SPLIT, PAIR, NECK):
        accuracy, times = (neck, neck_loss) if layer == NECK else (0.97, 1.0)
        for seed in range(SEEDS):
            at = {"kernel_size": 3, "seed": seed}
            yield row("training", layer, "parameters", 5000, **at)
            for epoch in (1, 2, 3):
                # A bottleneck is an epoch behind.
                train = stuck + 10.0 ** ((layer == NECK) - epoch)
                for quantity, value in (
                    ("train_loss", train),
                    ("test_loss", times * (train + 0.1)),
                    ("test_accuracy", accuracy),
                ):
                    yield row("training", layer, quantity, value, number=epoch, **at)
