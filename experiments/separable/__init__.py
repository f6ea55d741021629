"""What separable and 1x1 convolutions cost and lose, against what course texts say of them.

    python -m experiments separable

Texts say that kernels split into kx1 and 1xk, depthwise and pointwise convolutions are cheaper, by
which share, and what each does and does not mix; ``sentences`` lists what they say. Each sentence
gets a verdict by the rule of ``claims``: holds, holds only if, fails.

- Products, weights and bytes are counted by ``convjax.cost``. Times are rounds in which all layers
  of one image alternate, so that what else the machine does falls on all alike. "Time follows the
  products" if the ratio of times is within 25 % of the ratio of products, in the mean over images,
  windows and directions.
- What is exact is asked exactly, of whole numbers, which float32 adds and multiplies without
  rounding.
- A kernel's error at rank r is what the best sum of r columns times rows misses of it, for every
  pair of channels (``ops.separate_kernel``): of small networks at initialization, and after
  training on the digits; their test accuracy is taken again with every kernel cut to rank r.
- "Regularises": the bottleneck's test loss against the full network's, at the same training loss.

Pass: the counts are the texts' fractions, exactly; what shall be zero is; random and trained
kernels are not of rank 1, and trained ones are nearer to it; whether time follows is clear, that
is, the quartiles over rounds lie on one side of 25 % or within a factor of 1.5 of each other; and
from depthwise to pointwise to full, products per byte rise, and products per second with them: a
depthwise convolution moves the bytes of a full one for a hundredth of its products.

Takes one to two minutes on two cores. For a look at it in a few seconds:
``--sizes 14 --channels 32 --kernel-sizes 3 --repeats 3 --width 8 --epochs 2 --seeds 1``.
"""

import dataclasses
import itertools

import numpy as np

from convjax import lab
from convjax.lab import Columns, Criterion, digits, that
from experiments.separable import kernels, results
from experiments.separable.figure import draw as draw
from experiments.separable.figure import table as table
from experiments.separable.layers import COMPARED, DEEP, FULL, NARROWER, NECK, PAIR, POINT, SPLIT
from experiments.separable.parts import Counts, Exact, Times, Training
from experiments.separable.results import FOLLOWS, ROUNDING, kernel_errors, off_in_counts

FAR_FROM_RANK_1 = 0.1
AGREE = 1.5


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options."""

    sizes: tuple[int, ...] = (56, 14)
    """Heights, and widths, of the images that are timed."""
    channels: tuple[int, ...] = (64, 256)
    """Their channels, as many values as sizes; multiples of 4."""
    kernel_sizes: tuple[int, ...] = (3, 5)
    """Sides k of the windows, odd; the first is also that of the separable networks."""
    batch_size: int = 8
    """Images in a batch that is timed."""
    repeats: int = 7
    """Rounds of timing; the median counts."""
    width: int = 32
    """Channels of the networks that are trained; a multiple of 4."""
    epochs: int = 12
    """Passes over the 1437 digits, in batches of 64."""
    seeds: int = 3
    """Networks of each kind that are trained."""


Cell = Counts | Exact | Times | Training


def cells(config: Config) -> list[Cell]:
    """Return what is counted, asked, timed and trained."""
    check(config)
    images = (config.sizes, config.channels, config.kernel_sizes, config.batch_size)
    arms = networks(config.kernel_sizes)
    trained = (Training(*arm, config.width, config.epochs, config.seeds) for arm in arms)
    return [Counts(*images), Exact(), Times(*images, config.repeats), *trained]


def networks(kernel_sizes: tuple[int, ...]) -> list[tuple[str, int]]:
    """Return what is trained: layer and window."""
    first = kernel_sizes[0]
    return [(FULL, k) for k in kernel_sizes] + [(layer, first) for layer in (SPLIT, PAIR, NECK)]


def measure(cell: Cell) -> Columns:
    """Count, ask, time or train, and return a row for each number found.

    ``topic`` says what a row is about, ``number`` is the round, rank or epoch.
    """
    return lab.stack(list(cell.rows()))


def check(config: Config) -> None:
    """Refuse what cannot be run, before anything is."""
    lab.check_least(config, kernel_sizes=3, batch_size=1, repeats=1, epochs=1, seeds=1)
    if any(k % 2 == 0 for k in config.kernel_sizes):
        raise ValueError(f"kernel_sizes={config.kernel_sizes} must be odd")
    if not config.sizes or min(config.sizes) < 1:
        raise ValueError(f"sizes={config.sizes} must name positive numbers")
    if len(config.sizes) != len(config.channels):
        raise ValueError(
            f"sizes={config.sizes} and channels={config.channels} must be equally many: each image "
            "has one of both"
        )
    for option, values in (("channels", config.channels), ("width", (config.width,))):
        if any(value < NARROWER or value % NARROWER for value in values):
            raise ValueError(f"{option}={values} must be multiples of {NARROWER}, for a bottleneck")


def judge(columns: Columns) -> list[Criterion]:
    """Return what must hold of counts, of what is exact, of kernels and of verdicts on time."""
    return [
        *(_judge_counts(columns, *pair) for pair in COMPARED.items()),
        *judge_exact(columns),
        *(criterion for k in results.windows(columns) for criterion in _judge_kernels(columns, k)),
        *judge_times(columns),
    ]


def _judge_counts(columns: Columns, layer: str, other: str) -> Criterion:
    equal = off_in_counts(columns, layer) == 0
    text = f"{layer} / {other}: products and weights are the texts' share"
    return that(text, equal, "equal" if equal else "not equal", "equal, as fractions")


def judge_exact(columns: Columns) -> list[Criterion]:
    """Ask that what is exact be exact, and what must show itself do."""
    zero = results.named(columns, topic="exact")
    shown = {name: zero.pop(name) for name in kernels.SHOWN}
    worst = max(zero.pop(name) for name in kernels.ROUNDED)
    return [
        *(
            that(name.replace("sobel", "Sobel"), value == 0, digits(value), "0, exactly")
            for name, value in zero.items()
        ),
        that("Sobel taken apart by SVD", worst <= ROUNDING, digits(worst, 2), "0, to rounding"),
        *(that(name, value > 0, digits(value), "above 0") for name, value in shown.items()),
    ]


def _judge_kernels(columns: Columns, k: int) -> list[Criterion]:
    """Ask that kernels not be of rank 1, and that training bring them nearer to it."""
    ages = ("random", "trained")
    random, learned = (kernel_errors(columns, age, k, 1) for age in ages)
    least = float(np.min([random.min(), learned.min()]))  # NaN, where one is
    whole = float(np.max([kernel_errors(columns, age, k, k).max() for age in ages]))
    alone, sums = f"error {digits(least, 2)} at least", f"error {digits(whole, 2)} at most"
    means = f"{digits(learned.mean(), 2)} against {digits(random.mean(), 2)}"
    text = f"{k}x{k}: trained kernels are nearer to rank 1 than random ones"
    far, unlike = least > FAR_FROM_RANK_1, f"{k}x{k}: no kernel is a column times a row"
    return [
        that(unlike, far, alone, f"above {FAR_FROM_RANK_1}"),
        that(f"{k}x{k}: a sum of {k} is any kernel", whole <= ROUNDING, sums, "0, to rounding"),
        that(text, learned.mean() < random.mean(), means, "smaller in the mean"),
    ]


def judge_times(columns: Columns) -> list[Criterion]:
    """Say whether time follows the products; ask that this be clear, and bytes explain it."""
    made = []
    for layer, other in COMPARED.items():
        low, middle, high = np.quantile(results.off_by(columns, layer), (0.25, 0.5, 0.75))
        follows = "yes" if middle <= FOLLOWS else "no"
        text = f"{layer} / {other}: time follows the products: {follows}"
        clear = low > FOLLOWS or high <= FOLLOWS or high / low <= AGREE
        shown = f"off by x{digits(middle, 3)} ({digits(low, 3)} to {digits(high, 3)})"
        made.append(that(text, clear, shown, f"quartiles within x{AGREE}, or beyond x{FOLLOWS}"))
    return [*made, _judge_bytes(columns)]


def _judge_bytes(columns: Columns) -> Criterion:
    means = []
    for layer in (DEEP, POINT, FULL):
        per_byte, per_second = results.speeds(columns, layer)
        # The fastest round: of a long call, more of the others' work falls into each.
        both = (per_byte, per_second.max(axis=1))
        means.append([float(np.exp(np.log(values).mean())) for values in both])
    rise = all(a < b for one in zip(*means, strict=True) for a, b in itertools.pairwise(one))
    text = "depthwise, pointwise, full: products per byte, and G products per second"
    shown = "; ".join(f"{digits(a, 2)} and {digits(b / 1e9, 2)}" for a, b in means)
    return that(text, rise, shown, "both rise")
