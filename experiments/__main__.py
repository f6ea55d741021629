"""List the experiments, or run one: ``python -m experiments [name] [options]``."""

import importlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from convjax.command import start

HERE = Path(__file__).parent
PROGRAM = ("python", "-m", "experiments")


def main(argv: Sequence[str]) -> int:
    """Run the experiment that the first word names, and return its exit code."""
    from convjax.lab import commands

    known = found()
    if not argv or argv[0] in ("-h", "--help"):
        print("Experiments (--help after a name explains its options):\n")
        print(commands.listing(known, f"{' '.join(PROGRAM)} "))
        return 0
    return commands.call(argv, known, "experiment")


def found() -> dict:
    """Return every experiment and benchmark that has a file here, and the report of them all."""
    from convjax.lab import commands, report

    known = {"report": commands.Command((report.__doc__ or "").partition(":")[0], report.main)}
    known |= commands.of_the_room(PROGRAM)
    for before, folder in (("", HERE), ("bench-", HERE / "benchmarks")):
        for path, module, about in commands.modules(folder):
            at = ".".join(commands.home_of(path).relative_to(HERE.parent).parts)
            name = before + commands.name_of_file(path)
            if commands.defines(module, "main"):
                known[name] = commands.Command(about, partial(_called, at))
            elif commands.asks(module):
                known[name] = commands.Command(about, partial(_asked, at, name))
    return known


def _called(module: str, argv: Sequence[str]) -> int:
    return importlib.import_module(module).main(argv)


def _asked(module: str, name: str, argv: Sequence[str]) -> int:
    from convjax import lab

    asked = lab.experiment(importlib.import_module(module))
    return lab.run(asked, argv, [*PROGRAM, name])


if __name__ == "__main__":
    sys.exit(start("experiments.__main__", sys.argv[1:]))
