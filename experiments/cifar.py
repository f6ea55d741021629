"""He et al. 2015, Table 6: does ResNet-n reach its published error on CIFAR-10?

    python -m experiments cifar --depth 20 --folder cifar-10-batches-bin

For whoever has the data and a GPU: ``--folder`` holds the files of CIFAR-10's binary version, as
``cifar-10-batches-bin`` does. By default everything is as section 4.2 of the paper has it: depths
20, 32, 44, 56, 110 and 1202; 3x3 convolutions of 16, 32 and 64 channels, batch norm, no dropout,
shortcuts without parameters (option A: every second place, zeros for the channels), He's
initialisation; 64,000 steps of 128 images by SGD with momentum 0.9, not Nesterov's; learning rate
0.1, divided by 10 at 32,000 and 48,000; weight decay 1e-4 on everything; 4 pixels of padding, a
random cut, a random flip; the mean of every pixel subtracted; one view to test on; float32.

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
  former and tests on the latter, drawn at random. Without it all 50,000 are trained on.
- ResNet-1202 computes activations again in the backward pass (``remat`` "sqrt"), to save memory.

``--config experiments/configs/cifar_short.toml`` is another schedule, of 5.4e15 FLOP, meant to
reach 94 % on one modern GPU in a minute or two. It takes what ``train.Recipe`` can express of
airbench's settings. It has NOT been measured: neither data nor GPU were at hand.

Every option of ``train`` that is a field of ``train.Recipe`` is one here; what departs from the
paper is named, and then the published error is shown but not judged. The folder keeps what that of
``train`` keeps, and the same command goes on where the run was stopped.

Pass: every loss is finite and the mean loss falls; by the paper's settings, the test error at the
end is within 0.5 points of the published one, for ResNet-110 the mean 6.61 of the paper's five
runs; and with ``--reach`` that test accuracy.

Takes hours on a GPU by the paper's settings. For a look at it on a CPU in minutes:
``--network width=4 --steps 60 --boundaries 30 45``.

Reference: He et al., Deep Residual Learning for Image Recognition, 2015, arXiv:1512.03385; Jordan,
94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024, arXiv:2404.00498.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from convjax import data
from experiments import _cli, _outcome, _train_columns
from experiments import _train_data as sets
from experiments._outcome import Columns, Criterion, Experiment, that, within
from experiments._train_columns import draw, fact, final
from experiments._train_options import APART, Flag, Training
from experiments._train_run import Subject, carried_out, subject, trained

# Test errors in per cent, Table 6; of ResNet-110 the mean of five runs, the best of which is 6.43.
PUBLISHED = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61, 1202: 7.93}
TOLERANCE = 0.5
# The depths that the paper starts slowly, and for how long.
SLOW, WARMUP, WARMUP_FROM = (110, 1202), 400, 0.1
OUT = Path("results/cifar")


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Options; without any, the paper's ResNet-20."""

    depth: int = 20
    """Weighted layers, 6n + 2: 20, 32, 44, 56, 110, 1202 in the paper."""
    folder: Path = Path("cifar-10-batches-bin")
    """Where the files of CIFAR-10's binary version lie."""
    validation: int = 0
    """Training images that are held out and tested on in the place of the test images."""
    whole: Flag = True
    """Whether the files must hold the 10,000 images that they have in the archive."""
    crop: int = 4
    """Pixels of padding out of which every training image is cut at random."""
    flip: Flag = True
    """Whether training images are mirrored by chance."""
    standardise: Literal["pixels", "channels"] = "pixels"
    """Subtract the mean of every pixel; or mean and standard deviation of every channel."""
    reach: float | None = None
    """Test accuracy that the run must reach, between 0 and 1, for the verdict."""
    batch_size: int = 128
    """Images in a step, over all devices."""
    steps: int = 64_000
    """How many to take."""
    options: tuple[str, ...] | None = ("momentum=0.9",)
    """Further arguments of the optimiser."""
    schedule: str = "steps"
    """What becomes of the learning rate: constant, linear, cosine, steps."""
    boundaries: tuple[int, ...] = (32_000, 48_000)
    """Steps at which the schedule "steps" multiplies."""
    warmup: int | None = None
    """Steps over which the learning rate first rises; without it, 400 of depths 110 and 1202."""
    warmup_from: float = WARMUP_FROM
    """Share of the learning rate at which that begins."""
    weight_decay: float = 1e-4
    """How strongly weights are drawn to 0."""
    decayed: str = "all"
    """Which: kernels, all."""
    remat: str | None = None
    """What the backward pass computes again: none, unit, sqrt; without it, sqrt of depth 1202."""
    watch: int = 500
    """Steps between two that log the norms of every layer; 0 logs none and draws no waterfall."""
    dispatch: int = 100
    """Steps that one call into the device takes."""
    test_every: int = 2000
    """Steps between tests; 0 tests at the end only."""
    checkpoint_every: int = 2000
    """Steps between checkpoints; 0 writes one at the end only."""
    out: Path = OUT
    """Folder of the run; without it, results/cifar/resnetDEPTH-SEED."""


def measure(config: Config) -> Columns:
    """Train, or go on, in the folder ``out``; return what ``_train_columns.columns`` makes of it.

    Raises:
      ValueError: files that are missing or damaged, an option out of range, a folder of another
        run.
      Diverged: the loss or the gradient left its range.
    """
    config = completed(config)
    with prepared(config) as what:
        return trained(what, config)


def completed(config: Config) -> Config:
    """Return the options with what follows from the depth filled in."""
    warmup = WARMUP if config.depth in SLOW and config.schedule == "steps" else 0
    remat = "sqrt" if config.depth == 1202 else "none"
    return dataclasses.replace(
        config,
        warmup=warmup if config.warmup is None else config.warmup,
        remat=remat if config.remat is None else config.remat,
    )


# They say where and how it is computed, or what is looked at; not what the numbers are.
FREE = (*APART, "seed", "folder", "remat")
FREE += ("watch", "dispatch", "test_every", "checkpoint_every")


def departures(config: Config) -> list[str]:
    """Return what is not as the paper has it, one each: ``"steps 10 (64000)"``."""
    paper = completed(Config(depth=config.depth))
    names = [field.name for field in dataclasses.fields(config) if field.name not in FREE]
    found = [(name, getattr(config, name), getattr(paper, name)) for name in names]
    apart = [
        f"{name} {_text(ours)} ({_text(theirs)})" for name, ours, theirs in found if ours != theirs
    ]
    if config.depth not in PUBLISHED:
        apart.append(f"depth {config.depth} ({_text(tuple(PUBLISHED))})")
    return apart


def _text(value: Any) -> str:
    return (" ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


@contextlib.contextmanager
def prepared(config: Config) -> Iterator[Subject]:
    """Lend the network and the data that the options name."""
    if config.reach is not None and not 0 <= config.reach <= 1:
        raise _cli.UsageError(f"reach = {config.reach} must lie between 0 and 1.")
    apart = departures(config)
    facts: dict[str, Any] = {
        "depth": config.depth,
        "published": PUBLISHED.get(config.depth, float("nan")),
        "reach": float("nan") if config.reach is None else config.reach,
        "departures": ", ".join(apart),
    }
    made = subject(
        "resnet20_cifar",
        config,
        read(config),
        facts=facts,
        preset={"depth": config.depth},
        called=f"ResNet-{config.depth}",
    )
    told = f"not as in the paper: {'; '.join(apart)}" if apart else "settings: the paper's"
    yield dataclasses.replace(made, remarks=(*made.remarks, told))


def read(config: Config) -> sets.Sets:
    """Return CIFAR-10, with the images to test on."""
    sets.cifar_files("cifar10", config.folder)
    augment = data.Augment(crop=config.crop, flip=config.flip)
    cut = sets.Cut(config.batch_size, config.seed, augment)
    pair = data.cifar10(config.folder, whole=config.whole)
    told = "CIFAR-10"
    if config.validation:
        pair, held = sets.divided(pair, config.validation, 0)
        told += ", tested on images held out"
    else:
        held = data.cifar10(config.folder, "test", whole=config.whole)
    pixels = config.standardise == "pixels"
    return sets.resident(pair, held, cut, told=told, classes=10, pixels=pixels)


def judge(columns: Columns) -> list[Criterion]:
    """Return the criteria of any run; by the paper's settings, the published error too."""
    made = _train_columns.judge(columns)
    accuracy = final(columns)[1]
    if not fact(columns, "departures"):
        made.append(
            within(
                f"test error of ResNet-{fact(columns, 'depth'):.0f}, %",
                100 * (1 - accuracy),
                float(fact(columns, "published")),
                absolute=TOLERANCE,
                why="Table 6",
            )
        )
    reach = fact(columns, "reach")
    if reach == reach:
        made.append(
            that("test accuracy", accuracy >= reach, f"{accuracy:.2%}", f"at least {reach:.0%}")
        )
    return made


def table(columns: Columns) -> Table:
    """Return our error beside the published ones, and what ``train`` shows."""
    ours, depth = 100 * (1 - final(columns)[1]), int(fact(columns, "depth"))
    depths = sorted({*PUBLISHED, depth})
    rows = [
        (
            f"ResNet-{n}",
            f"{ours:.2f}" if n == depth else "",
            f"{PUBLISHED[n]:.2f}" if n in PUBLISHED else "",
            f"{ours - PUBLISHED[n]:+.2f}" if n == depth and n in PUBLISHED else "",
        )
        for n in depths
    ]
    theirs = "not by" if fact(columns, "departures") else "by"
    title = f"Test error on CIFAR-10, %, {theirs} the paper's settings"
    beside = _outcome.plain_table(title, ("network", "ours", "He et al. 2015", "difference"), rows)
    for column in beside.columns[1:]:
        column.justify = "right"
    return _train_columns.stacked(
        [
            beside,
            _train_columns.scores(columns),
            _train_columns.speed(columns),
            *_train_columns.layers(columns),
        ]
    )


EXPERIMENT = Experiment("cifar", __doc__ or "", Config, measure, judge, draw, table)


def main(argv: Sequence[str]) -> int:
    """Run the experiment from the command line and return the exit code."""
    about = EXPERIMENT.about.partition("\n")[0]
    config = completed(_cli.parse(Config, argv, name="cifar", about=about))
    if config.out == OUT:
        config = dataclasses.replace(config, out=OUT / f"resnet{config.depth}-{config.seed}")
    return carried_out(EXPERIMENT, config, prepared)
