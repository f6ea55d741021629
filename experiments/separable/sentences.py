"""What course texts say of these convolutions, each sentence with its evidence from the table."""

import numpy as np

from convjax.lab import Columns, array, digits, pick
from convjax.lab.rules import Claim, Evidence, exact
from experiments.separable import results
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
from experiments.separable.results import FOLLOWS, ROUNDING, last, off_in_counts

AS_GOOD = 0.02
"""Of accuracy, that counts as none: two standard errors of 97 % of the 360 test images."""
COMPARABLE = 0.5
"""Largest training loss at which a test loss says anything."""
LOWER = 0.05
"""Share of a test loss that counts as none."""

SAID = {
    "1a": "kx1 then 1xk takes 2k products and weights for k^2",
    "1b": "a kxk kernel is a column times a row, as Sobel's is",
    "1c": "and takes that share of the time",
    "1d": "trained kernels can be cut to it",
    "1e": "trained as two, a network is as good",
    "2a": "a depthwise filter mixes no channels",
    "2b": f"a {DEEP} convolution is cheaper than a {POINT} one",
    "2c": f"a {POINT} convolution is cheaper than a {FULL} one",
    "2d": "depthwise then pointwise takes 1/C + 1/k^2 of the products and weights of a full one",
    "2e": "and that share of the time",
    "2f": "the bytes that are moved explain why",
    "3a": "a 1x1 convolution changes the channels and not the place",
    "3b": "it mixes linearly",
    "3c": "it is non-linear through the activation after it only",
    "3d": "as a bottleneck it is cheaper than a full 3x3 of that width",
    "3e": "and as good",
    "3f": "and regularises",
}
RULES = {
    "1a": "the share is 2/k, exactly",
    "1b": f"relative error at most {ROUNDING:g}; the worst kernel",
    **dict.fromkeys(("1c", "2e"), f"time ratio within x{FOLLOWS} of the share"),
    **dict.fromkeys(("1d", "1e"), f"test accuracy lower by less than {AS_GOOD}"),
    "2a": "other channels change by 0, exactly",
    **dict.fromkeys(("2b", "2c", "3d"), "a smaller number, in most rounds"),
    "2d": "exactly",
    "2f": "fewer products for each byte go with fewer products per second, forward, in most rounds",
    **dict.fromkeys(("3a", "3b"), "0, exactly"),
    "3c": "0, exactly; with an activation above 0",
    "3e": f"lower by less than {AS_GOOD}",
    "3f": f"bottleneck's test loss lower by {LOWER:.0%} at equal training loss, "
    f"{COMPARABLE} or less",
}


def sentences(columns: Columns) -> list[Claim]:
    """Return the sentences on kernels split in two, depthwise convolutions, and 1x1."""
    zero, steps = results.named(columns, topic="exact"), ((DEEP, POINT), (POINT, FULL))
    ways = {"by channel": DEEP_SPLIT, "across channels": SPLIT}
    of_rank_1 = max(zero["sobel by hand"], zero["sobel by SVD"])
    linear = max(zero["1x1: f(x + y) - f(x) - f(y)"], zero["1x1: f(3 x) - 3 f(x)"])
    bent = zero["1x1: not additive with ReLU between"]
    neck, full = (last(columns, name, "test_accuracy") for name in (NECK, FULL))
    of = {
        "1a": [exact(way, off_in_counts(columns, layer)) for way, layer in ways.items()],
        "1b": [exact("a kernel of rank 1 (Sobel)", of_rank_1, ROUNDING), *_of_rank_1(columns)],
        "1c": [one for way, layer in ways.items() for one in _followed(columns, way, layer)],
        "2a": [exact("whole numbers", zero["depthwise: change in other channels"])],
        "2b": _cheaper(columns, DEEP),
        "2c": _cheaper(columns, POINT),
        "2d": [exact("everywhere", off_in_counts(columns, PAIR))],
        "2e": _followed(columns, "", PAIR),
        "2f": [_starved(columns, *step) for step in steps],
        "3a": [
            exact("32x32x64 to 32x32x128", zero["1x1: 32x32x64 to 32x32x128"]),
            exact("change at other places", zero["1x1: change at other places"]),
        ],
        "3b": [exact("whole numbers", linear)],
        "3c": [
            exact("two in a row are one", zero["1x1: two less the one they make"]),
            Evidence("with ReLU between they are not", np.array([bent]), f"off by {digits(bent)}"),
        ],
        "3d": _cheaper(columns, NECK),
        "3e": [_as_good("test accuracy", neck, full)],
        "3f": [_regularises(columns)],
    }
    return _claims(of)


def of_trained_kernels(columns: Columns) -> list[Claim]:
    """Return what a network loses whose kernels are of rank 1, cut to it or trained so."""
    rows = pick(columns, topic="accuracy", kernel_size=results.windows(columns)[0])
    *cut, whole = array(rows, "value", "number", "seed")
    ways = {"split": SPLIT, "as pairs": PAIR}
    apart = {way: last(columns, layer, "test_accuracy") for way, layer in ways.items()}
    ranks = [_as_good(f"at rank {rank}", found, whole) for rank, found in enumerate(cut, 1)]
    return _claims({"1d": ranks, "1e": [_as_good(way, one, whole) for way, one in apart.items()]})


def _claims(of: dict[str, list[Evidence]]) -> list[Claim]:
    return [Claim(number, SAID[number], found, RULES[number]) for number, found in of.items()]


def _of_rank_1(columns: Columns) -> list[Evidence]:
    worst = {
        f"{age} {k}x{k} kernels": float(results.kernel_errors(columns, age, k, 1).max())
        for k in results.windows(columns)
        for age in ("random", "trained")
    }
    return [exact(condition, error, ROUNDING) for condition, error in worst.items()]


def _regularises(columns: Columns) -> Evidence:
    target, test = results.at_equal_training_loss(columns)
    support = np.log(test[FULL]) - np.log(test[NECK])
    shown = f"{_middle(test[NECK], 2)} for {_middle(test[FULL], 2)}"
    compared = support if target <= COMPARABLE else np.array([])
    return Evidence(f"training loss {digits(target, 2)}", compared, shown, LOWER)


def _starved(columns: Columns, layer: str, other: str) -> Evidence:
    """Say whether the layer with fewer products for each byte does fewer of them per second."""
    (bytes_a, rounds_a), (bytes_b, rounds_b) = (
        results.speeds(columns, name) for name in (layer, other)
    )
    per_byte = float(np.log(bytes_a / bytes_b).mean())
    per_second = np.log(rounds_a / rounds_b).mean(axis=0)
    by_byte, by_second = (
        digits(float(np.exp(log)), 2) for log in (per_byte, np.median(per_second))
    )
    shown = f"x{by_byte} per byte, x{by_second} per second"
    return Evidence(f"{layer} against {other}", np.sign(per_byte) * per_second, shown)


def _as_good(condition: str, ours: np.ndarray, full: np.ndarray) -> Evidence:
    """Say whether an accuracy is lower by no more than counts as none."""
    shown = f"{_middle(ours, 3)} for {_middle(full, 3)}"
    return Evidence(condition, ours - full + AS_GOOD, shown)


def _followed(columns: Columns, way: str, layer: str) -> list[Evidence]:
    """Compare times with the texts' share, by direction, in the mean over places."""
    share = np.array(results.shares(results.places(columns, layer, "time"), layer), float)
    made = []
    for direction in DIRECTIONS:
        rounds = results.time_ratios(columns, layer, direction)
        off = np.abs(np.log(rounds / share[:, None])).mean(axis=0)
        shown = f"{_range(np.median(rounds, axis=1))} for {_range(share)}"
        condition = ", ".join(filter(None, (way, direction)))
        made.append(Evidence(condition, np.log(FOLLOWS) - off, shown))
    return made


def _cheaper(columns: Columns, layer: str) -> list[Evidence]:
    """Compare products and times with those of what the layer replaces: smaller speaks for it."""
    made, at = [], results.places(columns, layer)
    for where, ratio in zip(
        at, results.count_ratios(columns, layer, "multiply_adds", at), strict=True
    ):
        products = f"products, C = {where['channels']}, k = {where['kernel_size']}"
        support = np.array([-np.log(float(ratio))])
        made.append(Evidence(products, support, f"x{digits(float(ratio), 2)}"))
    for direction in DIRECTIONS:
        rounds = results.time_ratios(columns, layer, direction)
        shown = f"x{_range(np.median(rounds, axis=1))}"
        made.append(Evidence(f"time {direction}", -np.log(rounds).mean(axis=0), shown))
    return made


def _middle(values: np.ndarray, count: int) -> str:
    return digits(float(np.median(values)), count)


def _range(values: np.ndarray) -> str:
    low, high = digits(values.min(), 2), digits(values.max(), 2)
    return low if low == high else f"{low} to {high}"
