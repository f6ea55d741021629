"""The options of a run of training: every field of ``train.Recipe``, and where the run lives."""

import dataclasses
import inspect
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from flax import nnx

from convjax import lab, models, train

# With the value written out, so that a TOML file can say true and false as well.
Flag = Annotated[bool, tyro.conf.FlagConversionOff]

RGB = 3
MOMENTUM = {"momentum": 0.9, "nesterov": True}


def _of_recipe(**defaults: Any) -> Any:
    """Return the fields of ``train.Recipe`` as options, with what it says of each as help."""
    told = inspect.getdoc(train.Recipe) or ""
    told = told.partition("Attributes:\n")[2].partition("\nRaises:")[0]
    helps = dict(re.findall(r"^  (\w+): (.+(?:\n    .*)*)", told, re.MULTILINE))
    made = []
    for field in dataclasses.fields(train.Recipe):
        kind = Annotated[field.type, tyro.conf.arg(help=_plain(helps[field.name]))]
        default = defaults.get(field.name, field.default)
        made.append((field.name, kind, dataclasses.field(default=default)))
    return dataclasses.make_dataclass("OfRecipe", made, frozen=True)


def _plain(text: str) -> str:
    """Return a docstring's words as they are written on a command line."""
    plain = re.sub(r"``[\"']?(.*?)[\"']?``", r"\1", " ".join(text.split()))
    return plain[0].upper() + plain[1:]


OfRecipe = _of_recipe(weight_decay=5e-4, watch=10, test_every=100, checkpoint_every=100)


@dataclasses.dataclass(frozen=True)
class Training(OfRecipe):
    """What every run of training takes: every field of ``train.Recipe``, and where it lives."""

    network: tuple[str, ...] = ()
    """Options of the network, such as width=8 norm=group. With in_features=1 or 4 the pictures of a
    folder or a stream become grey, or have an alpha."""
    batch_size: int = 64
    """Images in a step, over all devices."""
    seed: int = 0
    """Of initial values, order of the images, augmentation and dropout."""
    options: tuple[str, ...] | None = None
    """Further arguments of the optimiser, such as momentum=0.9 nesterov=false; without it,
    momentum=0.9 nesterov=true for sgd."""
    warmup: int | None = None
    """Steps over which the learning rate first rises."""
    remat: str | None = None
    """What the backward pass computes again, to save memory: none, unit, sqrt."""
    weights: Path | None = None
    """File of pretrained weights that the network begins with, as models.load_weights takes it. A
    classifier of other classes begins anew, and a first kernel for RGB is adapted to the images."""
    freeze_up_to: str | None = None
    """Path of a unit that is not trained, nor what comes before it, such as stage2."""
    frozen_statistics: Literal["frozen", "moving"] = "frozen"
    """What becomes of the running statistics of the batch norms there: frozen, moving."""
    devices: int | None = None
    """How many share each batch; without it, one."""
    tensorboard: Flag = False
    """Whether to write events for TensorBoard, into the folder's tensorboard."""
    out: Path = Path("results")
    """Folder of the run."""

    @property
    def called(self) -> str:
        """What the network is called."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Runs(lab.Options):
    """What every grid of runs takes."""

    runner: Literal["local", "ray", "slurm", "here"] = "here"
    """Where runs are trained: this process, processes of this machine, a Ray cluster, Slurm. In
    this one by default: a run takes all that the machine has, and shows how far it has come."""
    seeds: int = 1
    """Runs of each kind: of seed, seed + 1, …"""


# What may change between two calls of one run: it leaves the numbers as they are.
HARMLESS = ("out", "devices", "tensorboard", "readers", "reach")


def seeds_of(config: Any) -> range:
    """Return the seeds of the runs, of which there must be one."""
    lab.check_least(config, seeds=1)
    return range(config.seed, config.seed + config.seeds)


def frozen_of(options: Training, net: nnx.Module) -> models.Split | None:
    """Return what is frozen of a network, or None."""
    if options.freeze_up_to is None:
        if options.frozen_statistics != "frozen":
            raise lab.UsageError(
                f"--frozen-statistics {options.frozen_statistics} has no effect without "
                "--freeze-up-to."
            )
        return None
    return models.freeze(net, options.freeze_up_to, statistics=options.frozen_statistics)


def recipe_of(options: Training) -> train.Recipe:
    """Return the recipe that the options describe."""
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(train.Recipe)}
    usual = MOMENTUM if options.optimiser == "sgd" else {}
    words = options.options
    given["options"] = usual if words is None else pairs("options", words)
    return train.Recipe(**given | {"warmup": options.warmup or 0, "remat": options.remat or "none"})


def pairs(option: str, words: Sequence[str]) -> dict[str, Any]:
    """Return words of the form NAME=VALUE as a dictionary; a value is TOML's, or else text."""
    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not (name and sign and value):
            raise lab.UsageError(
                f"{option}: {word!r} is not of the form NAME=VALUE, as width=8 is."
            )
        value = value.lower() if value.lower() in ("true", "false") else value
        try:
            found[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name] = value
    return found


def in_full(argv: Sequence[str], option: str = "--name") -> list[str]:
    """Return the command line with a name that stands first written out as an option."""
    bare = bool(argv) and not argv[0].startswith("-")
    return [option, *argv] if bare else [*argv]
