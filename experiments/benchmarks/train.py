"""What training costs beside the bare compiled step, in ratios within the same run.

    python -m experiments bench-train

Runs ``train.fit`` in pieces, and in the pauses between them, when nothing is under way, the bare
compiled step as often on one batch: with few and with many steps a dispatch, with the norms of
every layer watched, with images augmented, with checkpoints.

Takes about twelve minutes on two cores, most of it ResNet-20 with the larger batch.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.table import Table

from convjax import data, models, train
from experiments.benchmarks import _report, benchmark
from experiments.benchmarks.timing import comparison, pairs, seconds

TARGET = 1.03
Pairs = list[tuple[float, float]]
main = partial(benchmark.run, __name__)


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Options):
    """Options."""

    batch_sizes: tuple[int, ...] = (128, 32)
    """Batches of 32x32 images for ResNet-20; none of them leaves it out."""
    steps: int = 20
    """Steps of a piece with ResNet-20."""
    small_steps: int = 200
    """Steps of a piece with the small network on digits."""
    dispatches: tuple[int, ...] = (1, 10, 20)
    """Steps a dispatch; the last is that of the other comparisons."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, where its augmented batches come from, and the steps that are timed together."""

    name: str
    net: nnx.Module
    source: data.Resident
    steps: int


class Same:
    """A source that gives one batch again and again, as the bare step has it."""

    def __init__(self, images: jax.Array, labels: jax.Array):
        self.arrays = {"images": images, "labels": labels}
        self.count = self.batch_size = len(labels)

    def inputs(self, first: int, steps: int) -> dict[str, np.ndarray]:
        """Return what no step needs."""
        return {"place": np.zeros((steps, self.batch_size), np.int32)}

    def batch(self, arrays: Any, inputs: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the batch."""
        return arrays["images"], arrays["labels"]


class InPauses(train.Observer):
    """Times a run from test to test, and another function while it pauses.

    At a test nothing else is under way. The piece before the first one compiles and is left out.
    """

    def __init__(self, other: Callable[[], None]):
        self.other = other
        self.pairs: Pairs = []
        self.began: float | None = None
        self.ended = 0.0

    def record(self, rows: Sequence[Mapping[str, Any]], pace: train.Pace) -> None:
        """Note when a piece ends; at a test, let the other run."""
        now = time.perf_counter()
        if rows[-1]["kind"] == "train":
            self.ended = now
            return
        taken = seconds(self.other)
        if self.began is not None:
            self.pairs.append((self.ended - self.began, taken))
        self.began = time.perf_counter()


def measure(config: Config) -> dict[str, Any]:
    """Return the rows of every network."""
    return {"rows": [row for case in cases(config) for row in measured(case, config)]}


def cases(config: Config) -> Iterator[Case]:
    """Yield what is trained."""
    digits = data.resident(*data.digits("train"), batch_size=64, augment=data.Augment(crop=1))
    small = models.resnet_cifar(8, width=8, in_features=1, rngs=nnx.Rngs(0))
    yield Case("ResNet-8 on digits, batch 64", small, digits, config.small_steps)
    for size in config.batch_sizes:
        random, count = np.random.default_rng(0), max(1024, size)
        pixels = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
        labels = random.integers(0, 10, count).astype(np.int32)
        shared: Any = {"augment": data.Augment(crop=4, flip=True), "mean": 0.5, "std": 0.25}
        source = data.resident(pixels, labels, batch_size=size, **shared)
        net = models.resnet_cifar(20, rngs=nnx.Rngs(0))
        yield Case(f"ResNet-20 of CIFAR, batch {size}", net, source, config.steps)


def measured(case: Case, config: Config) -> Iterator[dict[str, Any]]:
    """Yield the rows of one network."""
    same = Same(*next(case.source.once()))
    plain, watched, always = (bare(case, same, watch=watch) for watch in (0, 10, 1))

    def row(what: str, timed: Pairs, target: float | None = None) -> dict[str, Any]:
        return {"case": case.name} | comparison(what, timed, target, steps=case.steps)

    def fit(source: train.Source = same, **options: Any) -> Pairs:
        options = {"dispatch": config.dispatches[-1]} | options
        return in_pauses(case, config.repeats, source, plain, **options)

    beside = partial(pairs, second=plain, repeats=config.repeats)
    for dispatch in config.dispatches:
        yield row(f"fit, {dispatch} a dispatch / the bare step", fit(dispatch=dispatch), TARGET)
    yield row("step with watch=10 / the bare step", beside(watched), TARGET)
    yield row("step with watch=1 / the bare step", beside(always))
    yield row("fit with watch=10 / the bare step", fit(watch=10), TARGET)
    yield row("fit with augmented data / the bare step", fit(case.source))
    what = f"fit, a checkpoint in {case.steps} steps / the bare step"
    yield row(what, fit(checkpoint_every=case.steps))
    yield row("Checkpoints.save, calling it / a step", saving(case, config.repeats, plain))
    inputs = beside(lambda: case.source.inputs(0, case.steps))
    yield row("inputs on the host / the bare step", inputs)


def bare(case: Case, same: Same, *, watch: int) -> Callable[[], None]:
    """Return what takes the steps of a piece, one call each, and waits for the last."""
    recipe = recipe_of(case, 1, watch=watch)
    step = jax.jit(train.make_step(case.net, recipe), donate_argnums=0)
    state = train.start(case.net, recipe)

    def run() -> None:
        nonlocal state
        metrics = None
        for _ in range(case.steps):
            state, metrics = step(state, **same.arrays)
        jax.block_until_ready((state, metrics))

    return run


def recipe_of(case: Case, pieces: int, **options: Any) -> train.Recipe:
    """Return a recipe of so many pieces that cannot diverge."""
    calm: Any = {"learning_rate": 0.01, "schedule": "constant"}
    return train.Recipe(steps=case.steps * pieces, **calm, **options)


def in_pauses(
    case: Case, repeats: int, source: train.Source, plain: Callable[[], None], **options: Any
) -> Pairs:
    """Return the seconds of every piece of a run, and of the bare steps in the pause after it."""
    recipe = recipe_of(case, repeats + 1, test_every=case.steps, **options)
    observer = InPauses(plain)
    images, labels = next(case.source.once())
    few = images[:8], labels[:8]
    with tempfile.TemporaryDirectory() as folder:
        train.fit(case.net, source, recipe, folder=folder, test=few, observers=[observer])
    return observer.pairs


def saving(case: Case, repeats: int, plain: Callable[[], None]) -> Pairs:
    """Return what a call of ``save`` takes, times the steps of a piece, and the piece between."""
    state = train.start(case.net, recipe_of(case, 1))
    timed: Pairs = []
    with tempfile.TemporaryDirectory() as folder, train.Checkpoints(folder) as checkpoints:
        for step in range(repeats + 1):
            saved = seconds(lambda step=step: checkpoints.save(step, state))
            timed.append((saved * case.steps, seconds(plain)))
    return timed[1:]


def tables(found: dict[str, Any], config: Config) -> Iterator[Table]:
    """Yield a table for each network; times are of one step."""
    for case in dict.fromkeys(row["case"] for row in found["rows"]):
        yield _report.comparisons(case, [row for row in found["rows"] if row["case"] == case])
