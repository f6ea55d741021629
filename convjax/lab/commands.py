"""The command ``convjax``, and what it has in common with ``python -m experiments``."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from convjax.lab._checks import unknown
from convjax.lab._experiment import experiment
from convjax.lab._find import asks, bound, imported, load, modules, name_of_file, questions
from convjax.lab._options import UsageError, calling, refusing, speaking_plainly
from convjax.lab._run import run

USAGE = """\
convjax run FILE.py [options]  ask the question of a file; --help after it explains its options
convjax inspect NAME           what a network costs, and its gradient profile, on your images;
                               NAME is one of models.list(), or yours: path/to/file.py:make
convjax train [NAME]           train a network on digits, CIFAR, your arrays or pictures, and watch
convjax list [FOLDER]          the questions that stand in a folder
convjax report FOLDER          one HTML page of what a folder of results holds
"""


class Command(NamedTuple):
    """What can be called by a name.

    Attributes:
      about: what it does, in a line.
      main: ``main(argv) -> exit code``.
    """

    about: str
    main: Callable[[Sequence[str]], int]


def main(argv: Sequence[str]) -> int:
    """Run the command line of ``convjax`` and return its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    commands = {
        "run": Command("", _run),
        "list": Command("", _list),
        **of_folder(Path(__file__).parent, ["convjax"]),
    }
    return call(argv, commands, "command")


def of_folder(folder: Path, program: Sequence[str], before: str = "") -> dict[str, Command]:
    """Return the questions of a folder, and its modules with a ``main(argv)`` of their own.

    Args:
      folder: of a package.
      program: the words before their names.
      before: what their names begin with.
    """
    found = {}
    for path, module, about in modules(folder):
        if path != Path(__file__) and ("main" in bound(module) or asks(module)):
            name = f"{before}{name_of_file(path)}"
            found[name] = Command(about, partial(_called, path, [*program, name]))
    return found


def _called(path: Path, command: Sequence[str], argv: Sequence[str]) -> int:
    module = imported(path)
    if hasattr(module, "main"):
        return module.main(argv)
    return run(experiment(module), argv, command)


def call(argv: Sequence[str], commands: Mapping[str, Command], what: str) -> int:
    """Call the command that the first word names; say plainly what cannot be done.

    Args:
      argv: its name, and its own arguments.
      commands: by their names.
      what: the name is the name of.
    """
    with speaking_plainly():
        if argv[0] not in commands:
            raise UsageError(unknown(what, argv[0], commands))
        return commands[argv[0]].main(argv[1:])


def listing(commands: Mapping[str, Command], before: str) -> str:
    """Return what there is to call, one line each."""
    wide = max(map(len, commands))
    return "\n".join(f"  {before}{name:{wide}}  {one.about}" for name, one in commands.items())


def _run(argv: Sequence[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        return main([])
    if not argv or argv[0].startswith("-"):
        raise UsageError("say which file asks the question: convjax run FILE.py [options]")
    with refusing(), calling(argv[0]):
        asked = experiment(load(argv[0]))
    return run(asked, argv[1:], ["convjax", "run", argv[0]])


def _list(argv: Sequence[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        return main([])
    if len(argv) > 1:
        raise UsageError(f"convjax list takes one folder, not {shlex.join(argv)}.")
    folder = Path(argv[0] if argv else ".")
    with refusing():
        found = questions(folder)
    if not found:
        raise UsageError(f"no question stands in {str(folder)!r}: no file there defines Config")
    commands = {shlex.quote(str(path)): Command(about, _run) for path, about in found.values()}
    print(listing(commands, "convjax run "))
    return 0
