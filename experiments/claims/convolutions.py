"""Sentences 1 to 3 of claims: kernels split in two, depthwise, and 1x1, on separable's numbers."""

from collections.abc import Iterator

import numpy as np

from convjax.lab import Columns, digits, pick
from convjax.lab.rules import Claim, Evidence, exact
from experiments.separable.layers import (
    DEEP,
    DEEP_SPLIT,
    DIRECTIONS,
    FULL,
    NECK,
    PAIR,
    POINT,
    SPLIT,
    said,
)
from experiments.separable.results import (
    FOLLOWS,
    ROUNDING,
    at_equal_training_loss,
    count_ratios,
    exactly,
    kernel_errors,
    last,
    places,
    time_ratios,
    windows,
)

FORWARD = next(iter(DIRECTIONS))
TOPICS = ("machine", "counts", "exact", "time", "training", "accuracy", "rank")
AS_GOOD = 0.02
"""Of accuracy, that counts as none: two standard errors of 97 % of the 360 test images."""
COMPARABLE = 0.5
"""Largest training loss at which a test loss says anything."""
LOWER = 0.05
"""Share of a test loss that counts as none."""


def claims(columns: Columns) -> Iterator[Claim]:
    """Yield the sentences on convolutions, from the table of claims."""
    rows = pick(columns, kind=TOPICS)
    rows["topic"] = rows["kind"]
    yield from _split(rows)
    yield from _depthwise(rows)
    yield from _pointwise(rows)


def _split(columns: Columns) -> Iterator[Claim]:
    yield Claim(
        "1a",
        "kx1 then 1xk takes 2k products and weights for k^2",
        [
            _counted(columns, "by channel", DEEP_SPLIT),
            _counted(columns, "across channels", SPLIT),
        ],
        "the share is 2/k, exactly",
    )
    zero = exactly(columns)
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
    yield Claim(
        "1c",
        "and takes that share of the time",
        [
            *_followed(columns, "by channel", DEEP_SPLIT),
            *_followed(columns, "across channels", SPLIT),
        ],
        f"time ratio within x{FOLLOWS} of the share",
    )


def _depthwise(columns: Columns) -> Iterator[Claim]:
    zero = exactly(columns)
    yield Claim(
        "2a",
        "a depthwise filter mixes no channels",
        [exact("whole numbers", zero["depthwise: change in other channels"])],
        "other channels change by 0, exactly",
    )
    for number, layer, other in (("2b", DEEP, POINT), ("2c", POINT, FULL)):
        yield Claim(
            number,
            f"a {layer} convolution is cheaper than a {other} one",
            [*_fewer(columns, layer), *_faster(columns, layer)],
            "a smaller number, in most rounds",
        )
    yield Claim(
        "2d",
        "depthwise then pointwise takes 1/C + 1/k^2 of the products and weights of a full one",
        [_counted(columns, "everywhere", PAIR)],
        "exactly",
    )
    yield Claim(
        "2e",
        "and that share of the time",
        _followed(columns, "", PAIR),
        f"time ratio within x{FOLLOWS} of the share",
    )
    yield Claim(
        "2f",
        "the bytes that are moved explain why",
        [_starved(columns, DEEP, POINT), _starved(columns, POINT, FULL)],
        "fewer products for each byte go with fewer products per second, forward, in most rounds",
    )


def _starved(columns: Columns, layer: str, other: str) -> Evidence:
    """Say whether the layer with fewer products for each byte does fewer of them per second."""
    found = []
    for where in places(columns, layer, "time"):
        speeds = [_speeds(columns, name, where) for name in (layer, other)]
        (bytes_a, rounds_a), (bytes_b, rounds_b) = speeds
        found.append((np.log(bytes_a / bytes_b), np.log(rounds_a / rounds_b)))
    per_byte = float(np.mean([ratio for ratio, _ in found]))
    per_second = np.mean([ratios for _, ratios in found], axis=0)
    shown = (
        f"x{digits(np.exp(per_byte), 2)} per byte, "
        f"x{digits(float(np.exp(np.median(per_second))), 2)} per second"
    )
    return Evidence(f"{layer} against {other}", np.sign(per_byte) * per_second, shown)


def _speeds(columns: Columns, layer: str, where: dict[str, int]) -> tuple[float, np.ndarray]:
    """Return products for each byte, and per second in every round."""
    counts = pick(columns, topic="counts", name=layer, **where)
    of = dict(zip(counts["quantity"].tolist(), counts["value"].tolist(), strict=True))
    times = pick(columns, topic="time", name=layer, quantity=FORWARD, **where)
    seconds = times["value"][np.argsort(times["number"])]
    return of["multiply_adds"] / of["traffic_bytes"], of["multiply_adds"] / seconds


def _pointwise(columns: Columns) -> Iterator[Claim]:
    zero = exactly(columns)
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
    yield Claim(
        "3d",
        "as a bottleneck it is cheaper than a full 3x3 of that width",
        [*_fewer(columns, NECK), *_faster(columns, NECK)],
        "a smaller number, in most rounds",
    )
    full, neck = (last(columns, name, "test_accuracy") for name in (FULL, NECK))
    yield Claim(
        "3e",
        "and as good",
        [
            Evidence(
                "test accuracy",
                neck - full + AS_GOOD,
                f"{digits(float(np.median(neck)), 3)} for {digits(float(np.median(full)), 3)}",
            )
        ],
        f"lower by less than {AS_GOOD}",
    )
    target, test = at_equal_training_loss(columns)
    support = np.log(test[FULL]) - np.log(test[NECK])
    yield Claim(
        "3f",
        "and regularises",
        [
            Evidence(
                f"training loss {digits(target, 2)}",
                support if target <= COMPARABLE else np.array([]),
                f"{digits(float(np.median(test[NECK])), 2)} for "
                f"{digits(float(np.median(test[FULL])), 2)}",
                LOWER,
            )
        ],
        f"bottleneck's test loss lower by {LOWER:.0%} at equal training loss, {COMPARABLE} or less",
    )


def _counted(columns: Columns, condition: str, layer: str) -> Evidence:
    """Compare counts with the texts' share, as fractions."""
    at = places(columns, layer)
    expected = [said(layer, where["channels"], where["kernel_size"]) for where in at]
    found = [count_ratios(columns, layer, q, at) for q in ("multiply_adds", "parameters")]
    off = max(abs(float(a - b)) for ratios in found for a, b in zip(ratios, expected, strict=True))
    return exact(condition, off)


def _followed(columns: Columns, condition: str, layer: str) -> list[Evidence]:
    """Compare times with the texts' share, by direction and place."""
    made = []
    for direction in DIRECTIONS:
        for where, rounds in _rounds(columns, layer, direction):
            share = float(said(layer, where["channels"], where["kernel_size"]))
            support = np.log(FOLLOWS) - np.abs(np.log(rounds / share))
            shown = f"{digits(float(np.median(rounds)), 2)} for {digits(share, 2)}"
            parts = (condition, direction, _place(columns, layer, where))
            made.append(Evidence(", ".join(filter(None, parts)), support, shown))
    return made


def _fewer(columns: Columns, layer: str) -> list[Evidence]:
    """Compare products with those of what the layer replaces: smaller speaks for it."""
    made, seen = [], set()
    for where in places(columns, layer):
        key = where["channels"], where["kernel_size"]
        (ratio,) = map(float, count_ratios(columns, layer, "multiply_adds", [where]))
        if key not in seen:
            label = f"products, C = {key[0]}, k = {key[1]}"
            made.append(Evidence(label, np.array([-np.log(ratio)]), f"x{digits(ratio, 2)}"))
        seen.add(key)
    return made


def _faster(columns: Columns, layer: str) -> list[Evidence]:
    """Compare times with those of what the layer replaces: smaller speaks for it."""
    return [
        Evidence(
            ", ".join(filter(None, (f"time {direction}", _place(columns, layer, where)))),
            -np.log(rounds),
            f"x{digits(float(np.median(rounds)), 2)}",
        )
        for direction in DIRECTIONS
        for where, rounds in _rounds(columns, layer, direction)
    ]


def _rounds(columns: Columns, layer: str, direction: str) -> Iterator[tuple[dict, np.ndarray]]:
    """Yield every place with its ratios of times, one a round."""
    at = places(columns, layer, "time")
    yield from zip(at, time_ratios(columns, layer, direction), strict=True)


def _place(columns: Columns, layer: str, where: dict[str, int]) -> str:
    """Name a place where there are several."""
    if len(places(columns, layer, "time")) == 1:
        return ""
    return f"{where['size']}x{where['size']}x{where['channels']}, k = {where['kernel_size']}"
