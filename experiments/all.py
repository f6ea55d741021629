"""Every experiment at its default size, one after the other, and the report of them all.

    python -m experiments all

Each runs as ``python -m experiments NAME`` does, in a process of its own, into a folder of its own
under ``--out``. Cells that are there already are not measured again: stopped, or killed, the same
command goes on where it was. At the end stands a table of the verdicts, and ``report.html``.

Left out are ``cifar``, which needs data that cannot be shipped, ``inspect``, which needs to be told
a network, and the benchmarks, whose timings need a machine that does nothing else.
"""

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from convjax import lab, study

LEFT_OUT = ("cifar", "inspect")
FOLDERS = (Path(__file__).parent, Path(lab.__file__).parent)
NAMES = tuple(n for folder in FOLDERS for n in lab.questions(folder) if n not in LEFT_OUT)
# A run of training has the whole machine, unless a runner is named.
WHOLE = (("workers", "train", None),)
SAID = {0: "holds", 1: "FAILS", 2: "refused", 130: "interrupted"}


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options; those of where and how are handed to every experiment."""

    only: tuple[str, ...] = ()
    """Experiments to run; without any, all of them."""
    runner: Literal["local", "ray", "slurm", "here"] | None = None
    """Where cells are measured; without it, each experiment's own choice, mostly "local"."""
    seeds: int | None = None
    """How many of each; without it, each experiment's own number."""


def main(argv: Sequence[str]) -> int:
    """Run them and return 0 where every criterion of every experiment holds."""
    about = (__doc__ or "").partition("\n")[0]
    config = lab.parse(Config, argv, command="python -m experiments all", about=about)
    for name in config.only:
        if name not in NAMES:
            raise lab.UsageError(lab.unknown("experiment", name, NAMES))
    with lab.refusing():
        lab.check_effect(config, config.runner or "local")
        if not config.dry_run:
            study.check_writable(config.out)
    rows = []
    for name in config.only or NAMES:
        print(f"== {name}", flush=True)
        start = time.monotonic()
        code = call([name, *handed_on(config, name)])
        said, took = SAID.get(code, f"exit code {code}"), time.monotonic() - start
        rows.append((name, said, f"{took:.0f} s"))
        if code == 130:
            return code
        print(flush=True)
    if config.dry_run:
        return 0
    heads = ("experiment", "verdict", "took")
    lab.console().print(lab.plain_table("All experiments", heads, rows))
    written = call(["report", str(config.out)])
    return written or int(any(said != SAID[0] for _, said, _ in rows))


def handed_on(config: Config, name: str) -> list[str]:
    """Return the options that an experiment is given."""
    given = ["--out", str(config.out / name)]
    for option in ("platform", "runner", "workers", "address", "seeds", "time_limit"):
        value = getattr(config, option)
        if value is not None and (option, name, config.runner) not in WHOLE:
            given += [f"--{option.replace('_', '-')}", str(value)]
    given += ["--slurm", *config.slurm] if config.slurm else []
    given += ["--retry"] if config.retry else []
    return [*given, "--dry-run"] if config.dry_run else given


def call(argv: Sequence[str]) -> int:
    """Run ``python -m experiments`` with these arguments and return its exit code."""
    process = subprocess.Popen([sys.executable, "-m", "experiments", *argv])
    while True:
        try:
            code = process.wait()
            # Interrupted while it was importing, it ended by the signal itself.
            return 130 if code == -signal.SIGINT else code
        except KeyboardInterrupt:
            # The terminal told the experiment too: it says what is kept, and ends.
            continue
