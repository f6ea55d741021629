"""The question of train: its options, and the runs, data and criteria that they name."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from convjax import data, lab, models
from convjax.lab import Columns, Criterion, digits, that
from convjax.lab.train import _run as runs
from convjax.lab.train._columns import accuracy_reached, facts, finite_and_falling
from convjax.lab.train._options import HARMLESS, RGB, Flag, Runs, Training, pairs, seeds_of

# Without a name: a family, and the option of it that makes it small.
FAMILY, SMALL, CALLED = "resnet20_cifar", {"depth": 8}, "ResNet-8"
REACHED, SECONDS = 0.97, 120.0


SHOWS = True


@dataclasses.dataclass(frozen=True)
class Run(Training):
    """One run; the name may stand first on the command line, without its --name."""

    name: str = ""
    """The network: a name that models.list() knows; without it, ResNet-8 for small images."""
    data: Literal[
        "digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "npz", "folder", "stream"
    ] = "digits"
    """What it learns."""
    path: Path | None = None
    """Where that lies: a folder, or the .npz file; without it, Fashion-MNIST is looked for where
    the package dataset-fashion-mnist of Debian and Ubuntu puts it."""
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
    readers: int = 2
    """Processes that read a stream."""
    unreadable: Literal["stop", "skip"] = "stop"
    """What becomes of a picture of a stream that cannot be read: stop the run, or skip it."""
    reach: float | None = None
    """Test accuracy that the run must reach, between 0 and 1, for the verdict."""
    steps: int = 800
    """How many to take."""
    weight_decay: float = 5e-3
    """How strongly weights are pulled to 0."""
    label_smoothing: float = 0.1
    """Share of each label that is spread over all classes."""
    average: float = 0.99
    """Decay of the moving average of the weights, which is then what is judged; 0 keeps none."""

    @property
    def called(self) -> str:
        """What the network is called."""
        return self.name or CALLED

    def __str__(self) -> str:
        return f"{self.called} on {self.data}, seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Config(Runs, Run):
    """Options; the name may stand first, without its --name."""

    out: Path = Path("results/train")
    """Folder for the table, the figure, and the folders of the runs, NAME-DATA-SEED."""


def cells(config: Config) -> list[Run]:
    """Return the runs; look at the data and at what is trained, before anything is."""
    check(config)
    stem = f"{config.called.lower()}-{config.data}"
    every = [
        lab.cell_of(Run, config, seed=seed, out=config.out / f"{stem}-{seed}")
        for seed in seeds_of(config)
    ]
    runs.look_at(every, config, prepared)
    return every


def measure(run: Run) -> Columns:
    """Train, or go on, in the folder ``run.out``; return what ``_columns.columns`` makes."""
    return runs.carried_out(run, prepared)


@contextlib.contextmanager
def prepared(run: Run) -> Iterator[runs.Subject]:
    """Lend the network and the data of a run."""
    with opened(run) as found:
        reach = REACHED if run.reach is None and is_default(run) else run.reach
        known = {
            "reach": float("nan") if reach is None else reach,
            "most_seconds": SECONDS if is_default(run) else float("nan"),
        }
        preset = {} if run.name else SMALL
        yield runs.subject(run.name or FAMILY, run, found, facts=known, preset=preset)


def check(config: Config) -> None:
    """Refuse what cannot be done, before anything is read."""
    if config.data not in ("digits", "fashion-mnist") and config.path is None:
        raise lab.UsageError(f"--data {config.data} needs --path, where it lies.")
    if config.data == "digits" and config.path is not None:
        raise lab.UsageError("the digits come with scikit-learn; leave --path out, or say --data.")
    least = {"size": 1, "devices": 1, "readers": 0}
    lab.check_least(config, **{o: n for o, n in least.items() if getattr(config, o) is not None})
    if not 0 < config.share < 1:
        raise lab.UsageError(f"share = {config.share} must lie between 0 and 1.")


def is_default(run: Run) -> bool:
    """Tell whether nothing but the seed and the folder was asked for."""
    names = {field.name for field in dataclasses.fields(run)} - {*HARMLESS, "seed"}
    return all(getattr(run, name) == getattr(Run(), name) for name in names)


def opened(run: Run) -> data.Sets:
    """Return the data; close a stream."""
    pictures = run.data in ("folder", "stream")
    channels = pairs("network", run.network).get("in_features", RGB)
    find = data.find if run.data == "stream" else _found
    return find(
        run.data,
        run.path,
        batch_size=run.batch_size,
        seed=run.seed,
        augment=data.Augment(run.crop, run.flip, run.cutout, run.mixup),
        size=run.size,
        share=run.share,
        how=models.preprocessing(run.name or FAMILY) if pictures else None,
        workers=run.readers,
        unreadable=run.unreadable,
        channels=channels if pictures else RGB,
    )


# What was looked at before a run is what it trains on: it is read once.
_found = functools.lru_cache(maxsize=1)(data.find)


def judge(columns: Columns) -> list[Criterion]:
    """Return the criteria of any run, and those of accuracy and time where they are asked for."""
    made = [*finite_and_falling(columns), *accuracy_reached(columns)]
    timed = ~np.isnan(facts(columns, "most_seconds")) & (facts(columns, "first") == 0)
    if timed.any():
        took = float(facts(columns, "seconds")[timed].max())
        most = float(facts(columns, "most_seconds")[timed].min())
        made.append(that("wall time", took <= most, f"{digits(took)} s", f"at most {most:.0f} s"))
    return made
