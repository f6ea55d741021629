"""Malformed command lines of ``python -m experiments``, in this process."""

import contextlib
import dataclasses
import importlib
import io
import random
import re
import typing

from experiments.__main__ import found as experiments
from experiments.__main__ import main
from tests.fuzz import data as data  # which writes the files of CIFAR-10
from tests.fuzz import judge
from tests.fuzz.kinds import FOLDER
from tests.fuzz.room import Attempt

NUMBERS = ("abc", "nan", "inf", "-1", "", "1e999", "0x")


def module_of(name):
    """Return the module that a command stands in."""
    if name in ("report", "inspect", "train"):
        return "convjax.lab.report._write" if name == "report" else f"convjax.lab.{name}"
    folder = "benchmarks." if name.startswith("bench-") else ""
    own = name.removeprefix("bench-") if folder else name
    return f"experiments.{folder}{own.replace('-', '_')}"


class Commands:
    """Makes malformed command lines; each must end with a sentence and an exit code.

    They are dry runs where there are such, so that one that is taken does no work.
    """

    def __init__(self, calls=None, accepted=()):
        self.accepted = accepted
        self.lines = {}

    def attempts(self, source: random.Random) -> list[list[Attempt]]:
        """Return the malformed lines of every experiment, in an order that is drawn."""
        found = [
            [Attempt("experiments", "name", name, "") for name in ("claim", "", "--depth", "7")]
        ]
        for name in experiments():
            some = [*self._lines(name, importlib.import_module(module_of(name)))]
            source.shuffle(some)
            found.append(some)
        return found

    def _lines(self, name, module):
        config = getattr(module, "Config", None) or getattr(module, "Options", None)
        fields = {}
        if config is not None and dataclasses.is_dataclass(config):
            hints = typing.get_type_hints(config)
            fields = {f.name: hints[f.name] for f in dataclasses.fields(config)}
        yield Attempt(name, "--nothing", "7", "")
        yield Attempt(name, "--config", str(FOLDER / "missing.toml"), "")
        yield Attempt(name, "--platform", "abacus", "")
        dry = "dry_run" in fields and name not in EXEMPT
        for field, kind in fields.items():
            option = "--" + field.replace("_", "-")
            if field in ("out", "config", "platform", "path", "address", "folder"):
                continue
            text = str(kind)
            if "int" in text or "float" in text:
                yield from (
                    Attempt(name, option, v, "--dry-run" if dry else "")
                    for v in NUMBERS[: 4 if dry else 1]
                )
            elif "Literal" in text:
                yield Attempt(name, option, "nothing", "")

    def problem(self, attempt: Attempt) -> str | None:
        """Run a malformed line, and return what is wrong with its end."""
        argv = [attempt.name, attempt.argument, attempt.label]
        argv[1:1] = {"report": [str(FOLDER)], "cifar": ["--folder", str(FOLDER / "cifar")]}.get(
            attempt.name, []
        )
        if attempt.name == "experiments":
            argv = [attempt.label, "--nothing"]
        elif attempt.how:
            argv += [attempt.how, "--out", str(FOLDER / "out")]
        said = io.StringIO()

        def run():
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                return main(argv)

        done = judge.outcome(run, {})
        text = " ".join(said.getvalue().split())
        code = done.error.code if isinstance(done.error, SystemExit) else done.result
        if done.error is not None and not isinstance(done.error, SystemExit):
            return f"raised {type(done.error).__name__}: {done.error!s:.200}"
        if not code:
            key = f"({attempt.argument}: {attempt.label})"
            return None if key in self.accepted else f"was accepted: {text:.100}"
        word = attempt.argument.strip("-").removesuffix("s").replace("-", "[-_]")
        if "Traceback" in text or not text:
            return f"says {text:.200}"

        if attempt.name != "experiments" and not re.search(word, text):
            return f"names no {attempt.argument}: {text:.300}"
        return None


CALLS: dict[str, object] = {}
ACCEPTED: dict[str, str] = {}
EXEMPT = {
    "all": "its dry runs are those of all other experiments; words for numbers are tried",
    "cifar": "it reads 170 MB before it looks at a number; words for numbers are tried",
}
Room = Commands
