"""What separable shows: the texts' claims with their verdicts, and the figure."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich.table import Table

from convjax import lab, plots
from convjax.lab import Columns, digits, pick
from experiments.separable.layers import (
    COMPARED,
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
    FORWARD,
    ROUNDING,
    at_equal_training_loss,
    count_ratios,
    counts_hold,
    exactly,
    kernel_errors,
    last,
    places,
    speeds,
    time_follows,
    time_ratios,
    windows,
)

HOLDS, FAILS = "holds", "fails"
LOSS = 0.02
"""Of accuracy, that counts as none: two standard errors of 97 % of 360 test images."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of course texts, what a run says of it, and the verdict."""

    text: str
    said: str
    found: str
    verdict: str


def claims(columns: Columns) -> Iterator[Claim]:
    """Yield every sentence with its verdict."""
    yield from _of_splitting(columns)
    yield from _of_trained_kernels(columns)
    yield from _of_depthwise(columns)
    yield from _of_pointwise(columns)


def _of_splitting(columns: Columns) -> Iterator[Claim]:
    for layer, where in ((DEEP_SPLIT, "by channel"), (SPLIT, "across channels")):
        yield _counted(columns, layer, f"kx1, 1xk for kxk {where}: products, weights")
        yield _timed(columns, layer)
    zero = exactly(columns)
    sobel = max(zero["sobel by hand"], zero["sobel by SVD"])
    yield Claim(
        "Sobel's kernel is a column times a row: error", "0", digits(sobel, 2), _zero(sobel)
    )
    for k in windows(columns):
        random, learned = (kernel_errors(columns, age, k, 1) for age in ("random", "trained"))
        found = f"random {digits(random.mean(), 2)}; trained {digits(learned.mean(), 2)}"
        holds = _zero(max(random.max(), learned.max()))
        verdict = holds if holds == HOLDS else "only if of rank 1"
        yield Claim(f"   and any {k}x{k} kernel: error of the nearest", "0", found, verdict)


def _of_trained_kernels(columns: Columns) -> Iterator[Claim]:
    rows = pick(columns, topic="accuracy", kernel_size=windows(columns)[0])
    ranks = np.unique(rows["number"]).tolist()
    *cut, whole = (float(np.median(rows["value"][rows["number"] == r])) for r in ranks)
    found = ", ".join(f"{digits(a, 3)} at rank {r}" for r, a in zip(ranks, cut, strict=False))
    yield Claim(
        "   and trained ones can be cut to it: accuracy",
        digits(whole, 3),
        found,
        HOLDS if cut[0] > whole - LOSS else FAILS,
    )
    for layer, what in ((SPLIT, "split"), (PAIR, "as pairs")):
        reached = float(np.median(last(columns, layer, "test_accuracy")))
        verdict = HOLDS if reached > whole - LOSS else FAILS
        text = f"   trained {what}, a network is as good: accuracy"
        yield Claim(text, digits(whole, 3), digits(reached, 3), verdict)


def _of_depthwise(columns: Columns) -> Iterator[Claim]:
    zero = exactly(columns)
    change = zero["depthwise: change in other channels"]
    yield Claim("a depthwise filter mixes no channels", "0", digits(change), _zero(change))
    ratios = [float(r) for r in count_ratios(columns, DEEP, "multiply_adds")]
    verdict = HOLDS if max(ratios) < 1 else "only if k^2 < C"
    text = "depthwise is cheaper than pointwise: products"
    yield Claim(text, "below 1", _range(np.array(ratios)), verdict)
    times = np.median([time_ratios(columns, DEEP, d) for d in DIRECTIONS], axis=2)
    verdict = HOLDS if times.max() < 1 else FAILS if times.min() >= 1 else "not always"
    yield Claim("   in time", "below 1", _by_direction(columns, DEEP), verdict)
    yield _counted(columns, POINT, "pointwise is cheaper than full: products, weights")
    yield _timed(columns, POINT)
    yield _counted(columns, PAIR, "the pair of them for full: products, weights")
    yield _timed(columns, PAIR)


def _of_pointwise(columns: Columns) -> Iterator[Claim]:
    zero = exactly(columns)
    for text, names in {
        "a 1x1 changes channels, 32x32x64 to 32x32x128": ("1x1: 32x32x64 to 32x32x128",),
        "   and not the place: change elsewhere": ("1x1: change at other places",),
        "   mixes linearly: off": ("1x1: f(x + y) - f(x) - f(y)", "1x1: f(3 x) - 3 f(x)"),
        "   two in a row are one: difference": ("1x1: two less the one they make",),
    }.items():
        off = max(zero[name] for name in names)
        yield Claim(text, "0", digits(off), _zero(off))
    off = zero["1x1: not additive with ReLU between"]
    yield Claim(
        "   but for an activation between: the same",
        "above 0",
        digits(off),
        HOLDS if off > 0 else FAILS,
    )
    yield _counted(columns, NECK, "a bottleneck (to C/4) for full: products, weights")
    yield _timed(columns, NECK)
    neck, full = (float(np.median(last(columns, name, "test_accuracy"))) for name in (NECK, FULL))
    verdict = HOLDS if neck > full - LOSS else FAILS
    yield Claim("   and is as good: accuracy", digits(full, 3), digits(neck, 3), verdict)
    target, test = at_equal_training_loss(columns)
    lower = test[NECK] < test[FULL]
    yield Claim(
        f"   and regularises: test loss when training's is {digits(target, 2)}",
        f"below {digits(float(np.median(test[FULL])), 2)}",
        digits(float(np.median(test[NECK])), 2),
        HOLDS if lower.all() else FAILS if not lower.any() else "not in every seed",
    )


def _counted(columns: Columns, layer: str, text: str) -> Claim:
    ratios = np.array([float(r) for r in count_ratios(columns, layer, "multiply_adds")])
    expected = [
        float(said(layer, at["channels"], at["kernel_size"])) for at in places(columns, layer)
    ]
    verdict = HOLDS if counts_hold(columns, layer) else FAILS
    return Claim(text, _range(np.array(expected)), _range(ratios), verdict)


def _timed(columns: Columns, layer: str) -> Claim:
    ratios = [
        float(said(layer, at["channels"], at["kernel_size"]))
        for at in places(columns, layer, "time")
    ]
    verdict = HOLDS if time_follows(columns, layer) else FAILS
    return Claim("   and of time", _range(np.array(ratios)), _by_direction(columns, layer), verdict)


def _by_direction(columns: Columns, layer: str) -> str:
    found = [_range(np.median(time_ratios(columns, layer, d), axis=1)) for d in DIRECTIONS]
    return "; ".join(found)


def _range(values: np.ndarray) -> str:
    low, high = digits(values.min(), 3), digits(values.max(), 3)
    return low if low == high else f"{low} to {high}"


def _zero(value: float) -> str:
    return HOLDS if value < ROUNDING else FAILS


def table(columns: Columns) -> Table:
    """Return the claims with their verdicts."""
    rows = [dataclasses.astuple(claim) for claim in claims(columns)]
    title = "What texts say, as a share of what is replaced, and what is (forward; with gradients)"
    return lab.plain_table(title, ("claim", "said", "found", "verdict"), rows)


def draw(columns: Columns) -> Figure:
    """Draw times against counts and against bounds, errors by rank, and accuracies."""
    panel = plots.Panel
    made = [
        panel(
            "time against products",
            "products, share of what is replaced",
            f"time {FORWARD}, the same",
            [_against(columns, layer) for layer in COMPARED],
            xscale="log",
            yscale="log",
        ),
        panel(
            "speed against bytes",
            "products per byte",
            f"G products per second {FORWARD}",
            [_speed(columns, layer) for layer in (*COMPARED, FULL)],
            xscale="log",
            yscale="log",
        ),
    ]
    made.append(panel("accuracy by size", "parameters, thousands", "accuracy", _sizes(columns)))
    made += [
        panel(f"{k}x{k}: trained (points), random (line)", "rank", "error", [_errors(columns, k)])
        for k in windows(columns)
    ]
    made.append(panel("trained kernels cut to a rank", "rank", "accuracy", _cut(columns)))
    figure = plots.panels("What separable convolutions cost and lose", made)
    _finish(figure, columns)
    return figure


def _finish(figure: Figure, columns: Columns) -> None:
    """Draw what times would follow, and write plain numbers on the logarithmic axes."""
    products, bytes_moved = figure.axes[:2]
    quiet: dict[str, Any] = {"color": "0.6", "linewidth": 0.7, "zorder": 1}
    products.axline((0.1, 0.1), (1, 1), **quiet)
    rows = pick(columns, topic="machine")
    rate = dict(zip(rows["name"].tolist(), rows["value"].tolist(), strict=True))
    x = np.geomspace(*bytes_moved.get_xlim(), 100)
    bound = np.minimum(x * rate["bytes per second"], rate["products per second"])
    bytes_moved.plot(x, bound / 1e9, **quiet)
    for axes in (products, bytes_moved):
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())


def _against(columns: Columns, layer: str) -> plots.Series:
    at = places(columns, layer, "time")
    ratios = [float(ratio) for ratio in count_ratios(columns, layer, "multiply_adds", at)]
    low, middle, high = np.quantile(time_ratios(columns, layer, FORWARD), (0.25, 0.5, 0.75), axis=1)
    return plots.Series(layer, ratios, middle, low=low, high=high)


def _speed(columns: Columns, layer: str) -> plots.Series:
    per_byte, per_second = speeds(columns, layer)
    low, middle, high = np.quantile(per_second / 1e9, (0.25, 0.5, 0.75), axis=1)
    return plots.Series(layer, per_byte, middle, low=low, high=high)


def _errors(columns: Columns, k: int) -> plots.Series:
    ranks = list(range(1, k + 1))
    learned = [kernel_errors(columns, "trained", k, rank) for rank in ranks]
    random = [kernel_errors(columns, "random", k, rank).mean() for rank in ranks]
    low, middle, high = ([f(e) for e in learned] for f in (np.min, np.mean, np.max))
    return plots.Series(FULL, ranks, middle, low=low, high=high, expected=random, joined=True)


def _sizes(columns: Columns) -> list[plots.Series]:
    rows = pick(columns, topic="training", quantity="parameters")
    made = []
    for layer, k in dict.fromkeys(zip(rows["name"], rows["kernel_size"].tolist(), strict=True)):
        size = pick(rows, name=layer, kernel_size=k)["value"][:1] / 1000
        found = last(columns, layer, "test_accuracy", k)
        low, middle, high = ([f(found)] for f in (np.min, np.median, np.max))
        made.append(plots.Series(layer, size, middle, low=low, high=high))
    return made


def _cut(columns: Columns) -> list[plots.Series]:
    made = []
    for k in windows(columns):
        rows = pick(columns, topic="accuracy", kernel_size=k)
        ranks = np.arange(1, k + 1)
        found = np.array([rows["value"][rows["number"] == rank] for rank in ranks])
        low, middle, high = found.min(axis=1), np.median(found, axis=1), found.max(axis=1)
        made.append(plots.Series(FULL, ranks, middle, low=low, high=high, joined=True))
    return made
