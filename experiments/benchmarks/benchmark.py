"""What every benchmark does beside measuring: options, refusals, printing, keeping the numbers.

A benchmark is a file of this folder that defines ``main = partial(benchmark.run, __name__)``,
``Config``, whose base is ``Options``, and

- ``measure(config)``, which returns what is kept: its ``rows``, and what else there is by name;
- ``tables(found, config)``, which yields what is printed of that;
- where it has them, ``check(config)``, which raises a ValueError for what cannot be measured, and
  ``figure(found)``, which returns a figure or None.
"""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from convjax import lab, plots, study

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Options(lab.CommandOptions):
    """Options of every benchmark."""

    repeats: int = 7
    """Runs of each; the median counts."""
    keep_memory: bool = True
    """Whether processes keep the memory that they free (convjax.study.keep_memory)."""


def run(module: str, argv: Sequence[str]) -> int:
    """Run a benchmark, an imported module, by its options and return the exit code."""
    own: Any = sys.modules[module]
    stem = f"bench_{module.rpartition('.')[2]}"
    name = stem.replace("_", "-")
    about, _, _ = own.__doc__.partition("\n")
    default = own.Config(out=Path("results", name))
    command = f"python -m experiments {name}"
    config = lab.parse(own.Config, argv, command=command, about=about, default=default)
    if config.keep_memory:
        study.keep_memory()
    lab.use_platform(config.platform)
    with lab.refusing():
        lab.check_least(config, repeats=1)
        getattr(own, "check", lambda config: None)(config)
        study.check_writable(config.out)
    loads = [_load()]
    found = own.measure(config)
    loads.append(_load())
    written = [keep(config.out / f"{stem}.json", config, found, loads)]
    console = lab.console(130)
    for table in own.tables(found, config):
        console.print(table, "")
    if drawn := getattr(own, "figure", lambda found: None)(found):
        written += plots.save(drawn, config.out / stem)
    busy = " and ".join(f"{load:.1f}" for load in loads)
    console.print(f"Load of the machine at the beginning and the end: {busy}.")
    console.print(*written, sep="\n", soft_wrap=True)
    return 0


def keep(path: Path, config: Options, found: dict[str, Any], loads: Sequence[float]) -> Path:
    """Write what was measured, with the options, the versions and the load of the machine.

    What was there before is replaced at once, so that a process may end while it writes.
    """
    environment = study.environment() | {"torch": found.get("torch")}
    kept = {"config": dataclasses.asdict(config), "environment": environment, "loads": loads}
    kept |= {name: value for name, value in found.items() if name != "torch"}
    whole = path.with_suffix(".part")
    whole.write_text(json.dumps(kept, indent=1, default=str) + "\n", encoding="utf-8")
    return whole.replace(path)


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def one_by_one(things: Sequence[T], name: Callable[[T], str]) -> Iterator[T]:
    """Yield things that are measured one after the other, and say how far it has come."""
    with lab.Ticker(len(things)) as ticker:
        for thing in things:
            ticker.begin(name(thing))
            yield thing
            ticker.finish(name(thing))
