"""What course texts say of these convolutions, each sentence with its evidence from the table."""

from collections.abc import Iterator

import numpy as np

from convjax.lab import Columns, array, digits, pick
from convjax.lab.rules import Claim, Evidence, exact
from experiments.separable import layers
from experiments.separable.layers import DIRECTIONS
from experiments.separable.results import (
    FOLLOWS,
    ROUNDING,
    at_equal_training_loss,
    count_ratios,
    exactly,
    kernel_errors,
    last,
    off_in_counts,
    places,
    shares,
    speeds,
    time_ratios,
    windows,
)

AS_GOOD = 0.02
"""Of accuracy, that counts as none: two standard errors of 97 % of the 360 test images."""
COMPARABLE = 0.5
"""Largest training loss at which a test loss says anything."""
LOWER = 0.05
"""Share of a test loss that counts as none."""

SMALLER = "a smaller number, in most rounds"
IN_TIME = f"time ratio within x{FOLLOWS} of the share"
NO_WORSE = f"lower by less than {AS_GOOD}"


def sentences(columns: Columns) -> Iterator[Claim]:
    """Yield the sentences on kernels split in two, depthwise convolutions, and 1x1."""
    zero = exactly(columns)
    yield from _split(columns, zero)
    yield from _depthwise(columns, zero)
    yield from _pointwise(columns, zero)


def of_trained_kernels(columns: Columns) -> Iterator[Claim]:
    """Yield what a network loses whose kernels are of rank 1, cut to it or trained so."""
    rows = pick(columns, topic="accuracy", kernel_size=windows(columns)[0])
    *cut, whole = array(rows, "value", "number", "seed")
    yield Claim(
        "1d",
        "trained kernels can be cut to it",
        [_as_good(f"at rank {rank}", found, whole) for rank, found in enumerate(cut, 1)],
        f"test accuracy {NO_WORSE}",
    )
    yield Claim(
        "1e",
        "trained as two, a network is as good",
        [
            _as_good(condition, last(columns, layer, "test_accuracy"), whole)
            for condition, layer in (("split", layers.SPLIT), ("as pairs", layers.PAIR))
        ],
        f"test accuracy {NO_WORSE}",
    )


def _split(columns: Columns, zero: dict[str, float]) -> Iterator[Claim]:
    ways = {"by channel": layers.DEEP_SPLIT, "across channels": layers.SPLIT}
    yield Claim(
        "1a",
        "kx1 then 1xk takes 2k products and weights for k^2",
        [exact(way, off_in_counts(columns, layer)) for way, layer in ways.items()],
        "the share is 2/k, exactly",
    )
    of_rank_1 = max(zero["sobel by hand"], zero["sobel by SVD"])
    kernels = [
        exact(f"{age} {k}x{k} kernels", float(kernel_errors(columns, age, k, 1).max()), ROUNDING)
        for k in windows(columns)
        for age in ("random", "trained")
    ]
    yield Claim(
        "1b",
        "a kxk kernel is a column times a row, as Sobel's is",
        [exact("a kernel of rank 1 (Sobel)", of_rank_1, ROUNDING), *kernels],
        f"relative error at most {ROUNDING:g}; the worst kernel",
    )
    followed = [one for way, layer in ways.items() for one in _followed(columns, way, layer)]
    yield Claim("1c", "and takes that share of the time", followed, IN_TIME)


def _depthwise(columns: Columns, zero: dict[str, float]) -> Iterator[Claim]:
    yield Claim(
        "2a",
        "a depthwise filter mixes no channels",
        [exact("whole numbers", zero["depthwise: change in other channels"])],
        "other channels change by 0, exactly",
    )
    steps = ((layers.DEEP, layers.POINT), (layers.POINT, layers.FULL))
    for number, (layer, other) in zip(("2b", "2c"), steps, strict=True):
        text = f"a {layer} convolution is cheaper than a {other} one"
        yield Claim(number, text, _cheaper(columns, layer), SMALLER)
    yield Claim(
        "2d",
        "depthwise then pointwise takes 1/C + 1/k^2 of the products and weights of a full one",
        [exact("everywhere", off_in_counts(columns, layers.PAIR))],
        "exactly",
    )
    followed = _followed(columns, "", layers.PAIR)
    yield Claim("2e", "and that share of the time", followed, IN_TIME)
    yield Claim(
        "2f",
        "the bytes that are moved explain why",
        [_starved(columns, *step) for step in steps],
        "fewer products for each byte go with fewer products per second, forward, in most rounds",
    )


def _pointwise(columns: Columns, zero: dict[str, float]) -> Iterator[Claim]:
    linear = max(zero["1x1: f(x + y) - f(x) - f(y)"], zero["1x1: f(3 x) - 3 f(x)"])
    bent = zero["1x1: not additive with ReLU between"]
    yield Claim(
        "3a",
        "a 1x1 convolution changes the channels and not the place",
        [
            exact("32x32x64 to 32x32x128", zero["1x1: 32x32x64 to 32x32x128"]),
            exact("change at other places", zero["1x1: change at other places"]),
        ],
        "0, exactly",
    )
    yield Claim("3b", "it mixes linearly", [exact("whole numbers", linear)], "0, exactly")
    yield Claim(
        "3c",
        "it is non-linear through the activation after it only",
        [
            exact("two in a row are one", zero["1x1: two less the one they make"]),
            Evidence("with ReLU between they are not", np.array([bent]), f"off by {digits(bent)}"),
        ],
        "0, exactly; with an activation above 0",
    )
    text = "as a bottleneck it is cheaper than a full 3x3 of that width"
    yield Claim("3d", text, _cheaper(columns, layers.NECK), SMALLER)
    neck, full = (last(columns, name, "test_accuracy") for name in (layers.NECK, layers.FULL))
    yield Claim("3e", "and as good", [_as_good("test accuracy", neck, full)], NO_WORSE)
    target, test = at_equal_training_loss(columns)
    support = np.log(test[layers.FULL]) - np.log(test[layers.NECK])
    yield Claim(
        "3f",
        "and regularises",
        [
            Evidence(
                f"training loss {digits(target, 2)}",
                support if target <= COMPARABLE else np.array([]),
                f"{_middle(test[layers.NECK], 2)} for {_middle(test[layers.FULL], 2)}",
                LOWER,
            )
        ],
        f"bottleneck's test loss lower by {LOWER:.0%} at equal training loss, {COMPARABLE} or less",
    )


def _starved(columns: Columns, layer: str, other: str) -> Evidence:
    """Say whether the layer with fewer products for each byte does fewer of them per second."""
    (bytes_a, rounds_a), (bytes_b, rounds_b) = (speeds(columns, name) for name in (layer, other))
    per_byte = float(np.log(bytes_a / bytes_b).mean())
    per_second = np.log(rounds_a / rounds_b).mean(axis=0)
    shown = (
        f"x{digits(np.exp(per_byte), 2)} per byte, "
        f"x{digits(float(np.exp(np.median(per_second))), 2)} per second"
    )
    return Evidence(f"{layer} against {other}", np.sign(per_byte) * per_second, shown)


def _as_good(condition: str, ours: np.ndarray, full: np.ndarray) -> Evidence:
    """Say whether an accuracy is lower by no more than counts as none."""
    shown = f"{_middle(ours, 3)} for {_middle(full, 3)}"
    return Evidence(condition, ours - full + AS_GOOD, shown)


def _followed(columns: Columns, way: str, layer: str) -> list[Evidence]:
    """Compare times with the texts' share, by direction, in the mean over places."""
    share = np.array(shares(places(columns, layer, "time"), layer), float)
    made = []
    for direction in DIRECTIONS:
        rounds = time_ratios(columns, layer, direction)
        off = np.abs(np.log(rounds / share[:, None])).mean(axis=0)
        shown = f"{_range(np.median(rounds, axis=1))} for {_range(share)}"
        condition = ", ".join(filter(None, (way, direction)))
        made.append(Evidence(condition, np.log(FOLLOWS) - off, shown))
    return made


def _cheaper(columns: Columns, layer: str) -> list[Evidence]:
    """Compare products and times with those of what the layer replaces: smaller speaks for it."""
    at = places(columns, layer)
    counts = count_ratios(columns, layer, "multiply_adds", at)
    products = {
        f"products, C = {where['channels']}, k = {where['kernel_size']}": float(ratio)
        for where, ratio in zip(at, counts, strict=True)
    }
    made = [
        Evidence(label, np.array([-np.log(ratio)]), f"x{digits(ratio, 2)}")
        for label, ratio in products.items()
    ]
    for direction in DIRECTIONS:
        rounds = time_ratios(columns, layer, direction)
        shown = f"x{_range(np.median(rounds, axis=1))}"
        made.append(Evidence(f"time {direction}", -np.log(rounds).mean(axis=0), shown))
    return made


def _middle(values: np.ndarray, count: int) -> str:
    return digits(float(np.median(values)), count)


def _range(values: np.ndarray) -> str:
    low, high = digits(values.min(), 2), digits(values.max(), 2)
    return low if low == high else f"{low} to {high}"
