"""He et al. 2015, Table 6: does ResNet-n reach its published error on CIFAR-10?

    python -m experiments cifar --depths 20 --folder cifar-10-batches-bin

For whoever has the data and a GPU: ``--folder`` holds the files of CIFAR-10's binary version. By
default everything is as section 4.2 of the paper has it: depths 20, 32, 44, 56, 110 and 1202; 3x3
convolutions of 16, 32 and 64 channels, batch norm, no dropout, shortcuts without parameters (option
A: every second place, zeros for the channels), He's initialisation; 64,000 steps of 128 images by
SGD with momentum 0.9, not Nesterov's; learning rate 0.1, divided by 10 at 32,000 and 48,000; weight
decay 1e-4 on everything; 4 pixels of padding, a random cut, a random flip; the mean of every pixel
subtracted; one view to test on; float32.

What the paper leaves open, or does in another way:

- Warm-up of ResNet-110: the paper trains at 0.01 until the training error is below 80 %, "about 400
  iterations", and goes on at 0.1. Here the rate rises linearly from 0.01 to 0.1 over 400 steps: the
  schedule stays a function of the step. ResNet-1202, "trained as described above", has it too.
- The decay 1e-4 w is added to the gradient before momentum, and the rate multiplies the momentum,
  as in PyTorch; the paper's framework has the rate inside. They differ for some steps after the
  rate does.
- Brightness lies in [0, 1] rather than in [0, 255]: the norm behind the first convolution takes any
  factor out.
- The schedule was found on a split of 45,000 and 5,000 images; ``--validation 5000`` trains on the
  former and tests on the latter, chosen at random. Without it all 50,000 are trained on.
- ResNet-1202 computes activations again in the backward pass (``remat`` "sqrt"), to save memory.

``--config experiments/configs/cifar_short.toml`` is another schedule, of 5.4e15 FLOP, meant to
reach 94 % on one modern GPU in a minute or two: what ``train.Recipe`` can express of airbench's
settings. It has NOT been measured: neither data nor GPU were at hand.

Options and folders of runs, resnetDEPTH-SEED, are as those of ``train``. What departs from the
paper is named, and then the published error is shown but not judged.

Pass, for each depth: every loss is finite and the mean loss falls; by the paper's settings, the
test error at the end, in the mean of the runs, is within 0.5 points of the published one, for
ResNet-110 the mean 6.61 of the paper's five runs; and with ``--reach`` every run has that test
accuracy.

Takes hours on a GPU by the paper's settings. For a look at it on a CPU in minutes:
``--network width=4 --steps 60 --boundaries 30 45``.

Reference: He et al., Deep Residual Learning for Image Recognition, 2015, arXiv:1512.03385; Jordan,
94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024, arXiv:2404.00498.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from rich.console import Group

from convjax import data, lab
from convjax.lab import Columns, Criterion
from convjax.lab import train as training

FAMILY = "resnet20_cifar"
# Test errors in per cent, Table 6; of ResNet-110 the mean of five runs, the best of which is 6.43.
PUBLISHED = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61, 1202: 7.93}
TOLERANCE = 0.5
# The depths that the paper starts slowly, and for how long.
SLOW, WARMUP, WARMUP_FROM = (110, 1202), 400, 0.1


APART = ("depth",)
draw = training.draw
SHOWS = True


@dataclasses.dataclass(frozen=True)
class Settings(training.Training):
    """What every run takes; by default as the paper has it."""

    folder: Path = Path("cifar-10-batches-bin")
    """Where the files of CIFAR-10's binary version lie."""
    validation: int = 0
    """Training images that are held out and tested on in the place of the test images."""
    whole: training.Flag = True
    """Whether the files must hold the 10,000 images that they have in the archive."""
    crop: int = 4
    """Pixels of padding out of which every training image is cut at random."""
    flip: training.Flag = True
    """Whether training images are mirrored by chance."""
    standardise: Literal["pixels", "channels"] = "pixels"
    """Subtract the mean of every pixel; or mean and standard deviation of every channel."""
    reach: float | None = None
    """Test accuracy that the run must reach, between 0 and 1, for the verdict."""
    batch_size: int = 128
    steps: int = 64_000
    """How many to take."""
    options: tuple[str, ...] | None = ("momentum=0.9",)
    schedule: str = "steps"
    """What becomes of the learning rate: constant, linear, cosine, steps."""
    boundaries: tuple[int, ...] = (32_000, 48_000)
    """Steps at which the schedule "steps" multiplies."""
    warmup: int | None = None
    """Steps over which the learning rate first rises; without it, 400 of depths 110 and 1202."""
    warmup_from: float = WARMUP_FROM
    """Share of the learning rate at which that begins."""
    weight_decay: float = 1e-4
    decayed: str = "all"
    """Which: kernels, all."""
    remat: str | None = None
    """What the backward pass computes again: none, unit, sqrt; without it, sqrt of depth 1202."""
    watch: int = 500
    dispatch: int = 100
    test_every: int = 2000
    checkpoint_every: int = 2000


@dataclasses.dataclass(frozen=True)
class Run(Settings):
    """One run."""

    depth: int = 20
    """Weighted layers."""

    @property
    def called(self) -> str:
        """What the network is called."""
        return f"ResNet-{self.depth}"

    def __str__(self) -> str:
        return f"{self.called}, seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Config(training.Runs, Settings):
    """Options; without any, the paper's ResNet-20."""

    depths: tuple[int, ...] = (20,)
    """Weighted layers, 6n + 2: 20, 32, 44, 56, 110, 1202 in the paper."""
    out: Path = Path("results/cifar")
    """Folder for the table, the figures, and the folders of the runs, resnetDEPTH-SEED."""


def cells(config: Config) -> list[Run]:
    """Return the runs, the shallow networks first; look at data and networks before."""
    lab.check_several(config, "depths")
    every = []
    for n in config.depths:
        for seed in training.seeds_of(config):
            out = config.out / f"resnet{n}-{seed}"
            every.append(completed(lab.cell_of(Run, config, depth=n, seed=seed, out=out)))
    training.look_at(every, config, prepared)
    return every


def measure(run: Run) -> Columns:
    """Train, or go on, in the folder ``run.out``; return what ``convjax.lab.train`` makes."""
    return training.carried_out(run, prepared)


def completed(run: Run) -> Run:
    """Return the run with what follows from the depth filled in."""
    warmup = WARMUP if run.depth in SLOW and run.schedule == "steps" else 0
    remat = "sqrt" if run.depth == 1202 else "none"
    return dataclasses.replace(
        run,
        warmup=warmup if run.warmup is None else run.warmup,
        remat=remat if run.remat is None else run.remat,
    )


# They say where and how it is computed, or what is looked at; not what the numbers are.
FREE = (*training.HARMLESS, "seed", "folder", "remat")
FREE += ("watch", "dispatch", "test_every", "checkpoint_every")


def departures(run: Run) -> list[str]:
    """Return what is not as the paper has it, one each: ``"steps 10 (64000)"``."""
    paper = completed(Run(depth=run.depth))
    names = [field.name for field in dataclasses.fields(run) if field.name not in FREE]
    found = [(name, getattr(run, name), getattr(paper, name)) for name in names]
    apart = [
        f"{name} {_text(ours)} ({_text(theirs)})" for name, ours, theirs in found if ours != theirs
    ]
    if run.depth not in PUBLISHED:
        apart.append(f"depth {run.depth} ({_text(tuple(PUBLISHED))})")
    return apart


def _text(value: Any) -> str:
    return (" ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


@contextlib.contextmanager
def prepared(run: Run) -> Iterator[training.Subject]:
    """Lend the network and the data of a run."""
    apart = departures(run)
    facts: dict[str, Any] = {
        "depth": run.depth,
        "published": PUBLISHED.get(run.depth, float("nan")),
        "reach": float("nan") if run.reach is None else run.reach,
        "departures": ", ".join(apart),
    }
    made = training.subject(FAMILY, run, read(run), facts=facts, preset={"depth": run.depth})
    told = f"not as in the paper: {'; '.join(apart)}" if apart else "settings: the paper's"
    yield made._replace(remarks=(*made.remarks, told))


@functools.lru_cache(maxsize=1)
def read(run: Run) -> data.Sets:
    """Return CIFAR-10, with the images to test on; what was looked at is what is trained on."""
    pair, told = data.cifar10(run.folder, whole=run.whole), "CIFAR-10"
    if run.validation:
        pair, held = data.hold_out(*pair, run.validation)
        told += ", tested on images held out"
    else:
        held = data.cifar10(run.folder, "test", whole=run.whole)
    return data.sets(
        pair,
        held,
        batch_size=run.batch_size,
        seed=run.seed,
        augment=data.Augment(crop=run.crop, flip=run.flip),
        classes=10,
        by=run.standardise,
        told=told,
    )


def judge(columns: Columns) -> list[Criterion]:
    """Return the criteria of any run; by the paper's settings, the published error too."""
    made = training.finite_and_falling(columns)
    if not training.fact(columns, "departures"):
        mean = ", mean of the runs" if len(training.accuracies(columns)) > 1 else ""
        claim = f"test error of ResNet-{training.fact(columns, 'depth'):.0f}, %{mean}"
        published = float(training.fact(columns, "published"))
        allowed: dict[str, Any] = {"absolute": TOLERANCE, "why": "Table 6"}
        made.append(lab.within(claim, error(columns), published, **allowed))
    return [*made, *training.accuracy_reached(columns)]


def error(columns: Columns) -> float:
    """Return the test error in per cent, in the mean of the runs."""
    return float(100 * (1 - training.accuracies(columns).mean()))


def table(columns: Columns) -> Group:
    """Return our error beside the published ones, and what ``train`` shows."""
    ours, depth = error(columns), int(training.fact(columns, "depth"))
    every = training.accuracies(columns)
    told = f"{ours:.2f}" + (f" ± {every.std() * 100:.2f}" if len(every) > 1 else "")
    rows = []
    for n in sorted({*PUBLISHED, depth}):
        theirs, own = PUBLISHED.get(n), n == depth
        away = f"{ours - theirs:+.2f}" if theirs and own else ""
        rows.append((f"ResNet-{n}", told if own else "", f"{theirs:.2f}" if theirs else "", away))
    by = "not by" if training.fact(columns, "departures") else "by"
    title = f"Test error on CIFAR-10, %, {by} the paper's settings"
    beside = lab.plain_table(title, ("network", "ours", "He et al. 2015", "difference"), rows)
    for column in beside.columns[1:]:
        column.justify = "right"
    shown = (training.scores(columns), training.speed(columns), *training.layers(columns))
    return training.stacked([beside, *shown])
