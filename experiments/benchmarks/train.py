"""What training costs beside the bare compiled step, in ratios within the same run.

    python -m experiments bench-train

Runs ``train.fit`` in pieces, and in the pauses between them, when nothing is under way, the bare
compiled step as often on one batch: with few and with many steps a dispatch, with the norms of
every layer watched, with images augmented, with checkpoints. Prints the median of the ratios beside
its target, where it has one, and saves all of them as JSON.

Takes about twelve minutes on two cores, most of it ResNet-20 with the larger batch.
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from convjax import data, lab, models, study, train
from experiments.benchmarks import _report
from experiments.benchmarks.timing import median

STEM = "bench_train"
TARGET = 1.03
Pairs = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Config(lab.CommandOptions):
    """Options."""

    batch_sizes: tuple[int, ...] = (128, 32)
    """Batches of 32x32 images for ResNet-20; none of them leaves it out."""
    steps: int = 20
    """Steps of a piece with ResNet-20."""
    small_steps: int = 200
    """Steps of a piece with the small network on digits."""
    dispatches: tuple[int, ...] = (1, 10, 20)
    """Steps a dispatch; the last is that of the other comparisons."""
    repeats: int = 7
    """Pieces of each comparison; the median counts."""
    keep_memory: bool = True
    """Whether the process keeps the memory that it frees (convjax.study.keep_memory)."""
    out: Path = Path("results/bench-train")
    """Folder for the numbers; it is made if it is not there."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, where its batches come from, and how many steps are timed together.

    Attributes:
      name: what the table calls it.
      net: the network.
      source: its data, augmented.
      steps: of a piece.
    """

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


class InPauses:
    """Times a run from test to test, and another function while it pauses; an observer.

    At a test nothing else is under way. The piece before the first one compiles and is left out.

    Args:
      other: what runs in the pauses.
    """

    def __init__(self, other: Callable[[], None]):
        self.other = other
        self.pairs: Pairs = []
        self.began: float | None = None
        self.ended = 0.0

    def begin(self, first: int, stop: int, batch_size: int) -> None:
        """Wait for the first piece."""

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

    def end(self) -> None:
        """Keep what was measured."""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark from the command line and return the exit code."""
    about, _, _ = (__doc__ or "").partition("\n")
    config = lab.parse(Config, argv, command="python -m experiments bench-train", about=about)
    if config.keep_memory:
        study.keep_memory()
    lab.use_platform(config.platform)
    with lab.refusing():
        study.check_writable(config.out)
    loads = [os.getloadavg()[0]]
    rows = [row for case in cases(config) for row in measured(case, config)]
    loads.append(os.getloadavg()[0])
    report(rows, loads)
    path = config.out / f"{STEM}.json"
    _report.save_json(path, rows=rows, config=config, loads=loads)
    print(path)
    return 0


def cases(config: Config) -> Iterator[Case]:
    """Yield what is trained."""
    digits = data.resident(*data.digits("train"), batch_size=64, augment=data.Augment(crop=1))
    small = models.resnet_cifar(8, width=8, in_features=1, rngs=nnx.Rngs(0))
    yield Case("ResNet-8 on digits, batch 64", small, digits, config.small_steps)
    for size in config.batch_sizes:
        random, count = np.random.default_rng(0), max(1024, size)
        pixels = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
        labels = random.integers(0, 10, count).astype(np.int32)
        augment = data.Augment(crop=4, flip=True)
        shared = {"batch_size": size, "augment": augment, "mean": 0.5, "std": 0.25}
        net = models.resnet_cifar(20, rngs=nnx.Rngs(0))
        source = data.resident(pixels, labels, **shared)
        yield Case(f"ResNet-20 of CIFAR, batch {size}", net, source, config.steps)


def measured(case: Case, config: Config) -> Iterator[dict[str, Any]]:
    """Yield the rows of one network."""
    last = config.dispatches[-1]
    same = Same(*next(case.source.once()))
    plain, watched, always = (bare(case, same, watch=watch) for watch in (0, 10, 1))

    def loop(what: str, target: float | None, **options: Any) -> dict[str, Any]:
        source = options.pop("source", same)
        pairs = in_pauses(case, config, source, plain, {"dispatch": last, **options})
        return row(case, what, pairs, target)

    for dispatch in config.dispatches:
        yield loop(f"fit, {dispatch} a dispatch / the bare step", TARGET, dispatch=dispatch)
    pairs = alternating(watched, plain, config.repeats)
    yield row(case, "step with watch=10 / the bare step", pairs, TARGET)
    pairs = alternating(always, plain, config.repeats)
    yield row(case, "step with watch=1 / the bare step", pairs)
    yield loop("fit with watch=10 / the bare step", TARGET, watch=10)
    yield loop("fit with augmented data / the bare step", None, source=case.source)
    what = f"fit, a checkpoint in {case.steps} steps / the bare step"
    yield loop(what, None, checkpoint_every=case.steps)
    yield row(case, "Checkpoints.save, calling it / a step", saving(case, config, plain))
    pairs = alternating(lambda: case.source.inputs(0, case.steps), plain, config.repeats)
    yield row(case, "inputs on the host / the bare step", pairs)


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
    shared = {"learning_rate": 0.01, "schedule": "constant"}
    return train.Recipe(steps=case.steps * pieces, **{**shared, **options})


def in_pauses(
    case: Case,
    config: Config,
    source: train.Source,
    plain: Callable[[], None],
    options: Mapping[str, Any],
) -> Pairs:
    """Return the seconds of every piece of a run, and of the bare steps in the pause after it."""
    recipe = recipe_of(case, config.repeats + 1, test_every=case.steps, **options)
    observer = InPauses(plain)
    images, labels = next(case.source.once())
    with tempfile.TemporaryDirectory() as folder:
        few = (images[:8], labels[:8])
        train.fit(case.net, source, recipe, folder=folder, test=few, observers=[observer])
    return observer.pairs


def alternating(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> Pairs:
    """Return the seconds of both in turn, after one run of each that is not counted."""
    first()
    second()
    return [(seconds(first), seconds(second)) for _ in range(repeats)]


def saving(case: Case, config: Config, plain: Callable[[], None]) -> Pairs:
    """Return what a call of ``save`` takes, times the steps of a piece, and the piece between."""
    state = train.start(case.net, recipe_of(case, 1))
    pairs: Pairs = []
    with tempfile.TemporaryDirectory() as folder, train.Checkpoints(folder) as checkpoints:
        for step in range(config.repeats + 1):
            saved = seconds(lambda step=step: checkpoints.save(step, state))
            pairs.append((saved * case.steps, seconds(plain)))
    return pairs[1:]


def seconds(function: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def row(case: Case, what: str, pairs: Pairs, target: float | None = None) -> dict[str, Any]:
    """Return a row: medians of one step, the median of the ratios, and their range."""
    first, second = (median(times) / case.steps for times in zip(*pairs, strict=True))
    ratios = sorted(one / other for one, other in pairs)
    return {
        "case": case.name,
        "what": what,
        "first_s": first,
        "second_s": second,
        "ratio": median(ratios),
        "least": ratios[0],
        "most": ratios[-1],
        "target": target,
    }


def report(rows: Sequence[Mapping[str, Any]], loads: Sequence[float]) -> None:
    """Print a table for each network, and how busy the machine was."""
    console = _report.console()
    columns = ["first / second, one step", "first (ms)", "second (ms)", "ratio", "range", "target"]
    for case in dict.fromkeys(row["case"] for row in rows):
        lines = [
            [
                row["what"],
                _report.milliseconds(row["first_s"]),
                _report.milliseconds(row["second_s"]),
                f"{row['ratio']:.3f}",
                f"{row['least']:.3f} to {row['most']:.3f}",
                f"{row['target']} {'met' if row['ratio'] <= row['target'] else 'missed'}"
                if row["target"]
                else "",
            ]
            for row in rows
            if row["case"] == case
        ]
        console.print(_report.table(case, columns, lines))
        console.print()
    busy = " and ".join(f"{load:.1f}" for load in loads)
    console.print(f"Load of the machine at the beginning and the end: {busy}.")
