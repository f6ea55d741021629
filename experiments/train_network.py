"""Train any network of the zoo on digits, CIFAR, your arrays or your pictures, and watch it.

    python -m experiments train
    python -m experiments train NAME --data cifar10 --path cifar-10-batches-bin

NAME is one of ``models.list()``; the network is given the images' channels and as many outputs as
there are classes. Without a name it is He et al.'s residual network for small images, of 8 layers
and 16 channels. The defaults are the digits': depth, decay and mixup were chosen on blocks of 360
training images held out; they are the third choice, and the first to reach 97 % of the test images
with each of the seeds 0 to 4. Other data want others; CIFAR-10 for instance
``--steps 16000 --weight-decay 5e-4 --mixup 0 --crop 4 --flip True --average 0.999``.

Data, all of it on your disk:

- digits: 8x8, out of scikit-learn; the last 360, written by others, are for testing.
- cifar10, cifar100: ``--path`` holds the files of the binary version.
- npz: ``--path`` is a file with ``x_train``, ``y_train``, ``x_test``, ``y_test``, or with
  ``images`` and ``labels``, of which ``--share`` is held out.
- folder: ``--path`` holds class folders, of which ``--share`` is held out, or ``train`` and
  ``test`` with class folders each; the pictures are kept in memory.
- stream: ``--path`` holds ``train`` and ``val``, as ImageNet's does; ``--workers`` processes read.

Every field of ``train.Recipe`` is an option, and may stand in a TOML file, ``--config``. The folder
keeps ``metrics.jsonl``, checkpoints, ``waterfall.png`` (the gradient of every layer at every
watched step, redrawn while it trains) and, asked for by ``--tensorboard True``, events for
TensorBoard; at the end ``train.parquet`` and a figure. Ctrl-C stops the run. The same command goes
on from the last checkpoint, and ends with the bits of a run that was never stopped.

Pass: every loss is finite; after an epoch and 20 steps or more, the last tenth's mean loss is lower
than the first's; and with ``--reach`` the test accuracy at the end, of the averaged weights where
they are kept. The run without options must reach 97 % on the digits within two minutes on two
cores, compilation included.

NaN or infinity ends the run with exit code 1; the message names step, unit and checkpoint.

The run without options takes 25 to 28 seconds of processor time.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from convjax import data
from experiments import _cli, _train_columns
from experiments import _train_data as sets
from experiments._outcome import Columns, Criterion, Experiment, digits, that
from experiments._train_columns import draw, fact, final, table
from experiments._train_options import APART, Flag, Training, named
from experiments._train_run import Subject, carried_out, subject, trained

# Without a name: a family, and the option of it that makes it small.
FAMILY, SMALL, CALLED = "resnet20_cifar", {"depth": 8}, "ResNet-8"
OUT = Path("results/train")
REACHED, SECONDS = 0.97, 120.0


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Options; the name may stand first, without its --name."""

    name: str = ""
    """The network: a name that models.list() knows; without it, ResNet-8 for small images."""
    data: Literal["digits", "cifar10", "cifar100", "npz", "folder", "stream"] = "digits"
    """What it learns."""
    path: Path | None = None
    """Where that lies: a folder, or the .npz file."""
    size: int | None = None
    """Height and width that images are resized to; without it, as they are, and pictures of a
    folder or a stream as models.preprocessing says."""
    share: float = 0.2
    """Of the images of a folder or a file that is not split, held out for testing."""
    crop: int = 1
    """Pixels of padding out of which every training image is cut at random."""
    flip: Flag = False
    """Whether training images are mirrored by chance."""
    cutout: int = 0
    """Side of a hole in every training image, in pixels."""
    mixup: float = 0.5
    """Parameter of the Beta distribution by which two images are mixed; 0 mixes none."""
    workers: int = 2
    """Processes that read a stream."""
    reach: float | None = None
    """Test accuracy that the run must reach, between 0 and 1, for the verdict."""
    steps: int = 800
    """How many to take."""
    weight_decay: float = 5e-3
    """How strongly weights are drawn to 0."""
    label_smoothing: float = 0.1
    """Share of each label that is spread over all classes."""
    average: float = 0.99
    """Decay of the moving average of the weights, which is then what is judged; 0 keeps none."""
    out: Path = OUT
    """Folder of the run; without it, results/train/NAME-DATA-SEED."""


def measure(config: Config) -> Columns:
    """Train, or go on, in the folder ``out``; return what ``_train_columns.columns`` makes of it.

    Raises:
      ValueError: an unknown name, an option out of range, data that cannot be read, a folder of
        another run.
      Diverged: the loss or the gradient left its range.
    """
    with prepared(config) as what:
        return trained(what, config)


@contextlib.contextmanager
def prepared(config: Config) -> Iterator[Subject]:
    """Lend the network and the data that the options name."""
    check(config)
    with opened(config) as found:
        reach = REACHED if config.reach is None and is_default(config) else config.reach
        facts = {
            "reach": float("nan") if reach is None else reach,
            "most_seconds": SECONDS if is_default(config) else float("nan"),
        }
        if config.name:
            yield subject(config.name, config, found, facts=facts)
        else:
            yield subject(FAMILY, config, found, facts=facts, preset=SMALL, called=CALLED)


def check(config: Config) -> None:
    """Refuse what cannot be done, before anything is read."""
    if config.data != "digits" and config.path is None:
        raise _cli.UsageError(f"--data {config.data} needs --path, where it lies.")
    if config.data == "digits" and config.path is not None:
        raise _cli.UsageError("the digits come with scikit-learn; leave --path out, or say --data.")
    if config.size is not None and config.size < 1:
        raise _cli.UsageError(f"size = {config.size} is too small; it must be at least 1.")
    if config.reach is not None and not 0 <= config.reach <= 1:
        raise _cli.UsageError(f"reach = {config.reach} must lie between 0 and 1.")


def is_default(config: Config) -> bool:
    """Tell whether nothing but the seed and the folder was asked for."""
    default = Config(seed=config.seed)
    names = [field.name for field in dataclasses.fields(config) if field.name not in APART]
    return all(getattr(config, name) == getattr(default, name) for name in names)


@contextlib.contextmanager
def opened(config: Config) -> Iterator[sets.Sets]:
    """Lend the data."""
    augment = data.Augment(
        crop=config.crop, flip=config.flip, cutout=config.cutout, mixup=config.mixup
    )
    cut = sets.Cut(config.batch_size, config.seed, augment, config.size)
    path, name = config.path or Path(), config.name or FAMILY
    if config.data == "stream":
        with sets.stream(path, name, cut, config.workers) as found:
            yield found
    elif config.data == "folder":
        yield sets.folder(path, name, cut, config.share)
    elif config.data == "npz":
        yield sets.npz(path, cut, config.share)
    elif config.data == "digits":
        yield sets.digits(cut)
    else:
        yield sets.cifar(config.data, path, cut)


def judge(columns: Columns) -> list[Criterion]:
    """Return the criteria of any run, and those of accuracy and time where they are asked for."""
    made = _train_columns.judge(columns)
    reach, most = fact(columns, "reach"), fact(columns, "most_seconds")
    if reach == reach:
        accuracy = final(columns)[1]
        made.append(
            that("test accuracy", accuracy >= reach, f"{accuracy:.2%}", f"at least {reach:.0%}")
        )
    if most == most and fact(columns, "first") == 0:
        took = float(fact(columns, "seconds"))
        made.append(that("wall time", took <= most, f"{digits(took)} s", f"at most {most:.0f} s"))
    return made


EXPERIMENT = Experiment("train", __doc__ or "", Config, measure, judge, draw, table)


def main(argv: Sequence[str]) -> int:
    """Run the experiment from the command line and return the exit code."""
    about = EXPERIMENT.about.partition("\n")[0]
    config = _cli.parse(Config, named(argv), name="train NAME", about=about)
    if config.out == OUT:
        folder = OUT / f"{config.name or CALLED.lower()}-{config.data}-{config.seed}"
        config = dataclasses.replace(config, out=folder)
    return carried_out(EXPERIMENT, config, prepared)
