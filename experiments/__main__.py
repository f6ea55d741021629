"""List the experiments, or run one: ``python -m experiments [name] [options]``."""

import sys
from collections.abc import Sequence
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
    from convjax.lab import commands

    return {
        **commands.of_folder(Path(commands.__file__).parent, PROGRAM),
        **commands.of_folder(HERE, PROGRAM),
        **commands.of_folder(HERE / "benchmarks", PROGRAM, "bench-"),
    }


if __name__ == "__main__":
    sys.exit(start("experiments.__main__", sys.argv[1:]))
