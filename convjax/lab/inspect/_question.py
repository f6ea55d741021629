"""The question of inspect: its options, the network and batch that they name, and its command."""

import dataclasses
import importlib
import shlex
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from convjax import lab, study
from convjax.lab import Columns, console
from convjax.lab.inspect._subject import Request, Subject, measured, subject


@dataclasses.dataclass(frozen=True)
class Config(lab.CommandOptions):
    """Options; the name may stand first, without its --name."""

    name: str = ""
    """The network: a name that models.list() knows."""
    weights: Path | None = None
    """File of weights: .safetensors, .pth, or a Keras .h5; without it, they are random."""
    reference: Literal["torch", "keras"] = "torch"
    """Whose details it follows: timm's and torchvision's, or Keras's, as a .h5 file needs."""
    images: Path | None = None
    """Folder of pictures, or of class folders; without it, the batch is noise."""
    batch: int = 8
    """Images, a random choice of the folder."""
    size: int | None = None
    """Their height and width; without it, what models.preprocessing says."""
    num_classes: int | None = None
    """Outputs of the network; without it, as many as its name stands for."""
    train: bool | None = None
    """--train for batch statistics, --no-train for running ones; without it, batch statistics for
    fresh weights, running ones for loaded."""
    depth: int = 2
    """How far down units are shown in the tables, 1 for those of the network itself."""
    seed: int = 0
    """Of fresh weights, of noise, and of the draw of images."""
    out: Path = Path("results/inspect")
    """Folder for the table and the figure; it is made if it is not there."""


def cells(config: Config) -> list[Request]:
    """Return what is asked for.

    Raises:
      ValueError: an option out of its range.
    """
    for option, least in (("batch", 1), ("size", 1), ("num_classes", 1), ("depth", 1)):
        value = getattr(config, option)
        if value is not None and value < least:
            raise lab.UsageError(f"{option} = {value} is too small; it must be at least {least}.")
    return [Request(**{f.name: getattr(config, f.name) for f in dataclasses.fields(Request)})]


def chosen(config: Config) -> Subject:
    """Return the network and the batch that the options name."""
    (request,) = cells(config)
    return subject(request)


def measure(request: Request) -> Columns:
    """Return one row for every unit: what it costs, what was measured, what theory expects.

    Raises:
      ValueError: an unknown name (with the nearest), weights that do not fit, no image to be read.
    """
    return measured(subject(request))


def main(argv: Sequence[str], command: Sequence[str] = ("convjax", "inspect")) -> int:
    """Run the experiment from the command line and return the exit code."""
    asked = lab.experiment(importlib.import_module("convjax.lab.inspect"))
    config = lab.parse(
        Config,
        in_full(argv),
        command=f"{shlex.join(command)} NAME",
        about=asked.about.partition("\n")[0],
        default=Config(out=Path("results/inspect")),
    )
    lab.use_platform(config.platform)
    with lab.refusing():
        study.check_writable(config.out)
        start = time.perf_counter()
        what = chosen(config)
        shown = console()
        shown.print("\n".join(what.remarks), soft_wrap=True)
        shown.print(f"\n{what.cost.text(config.depth)}\n", soft_wrap=True)
        try:
            columns = measured(what)
        except KeyboardInterrupt:
            console(stderr=True).print("interrupted: nothing was kept")
            return 130
    about = {
        "command": shlex.join([*command, *argv]),
        "cells": 1,
        "seconds": time.perf_counter() - start,
        "environments": [{**study.environment(), "cells": 1, "hosts": [socket.gethostname()]}],
    }
    return lab.conclude(asked, config, columns, about)


def in_full(argv: Sequence[str]) -> list[str]:
    """Return the command line with a name that stands first, and bare --train, written out."""
    words = list(argv)
    if words and not words[0].startswith("-"):
        words[:0] = ["--name"]
    full = []
    for word, following in zip(words, [*words[1:], "-"], strict=False):
        bare = word == "--train" and following.startswith("-")
        full += {"--no-train": ["--train", "False"]}.get(word, [word, "True"] if bare else [word])
    return full
