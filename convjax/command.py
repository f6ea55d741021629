"""The command ``convjax``: ask a question about networks, and see what there is to ask."""

import gc
import importlib
import io
import signal
import sys

from convjax import _interrupt


def main() -> int:
    """Run the command line of ``convjax`` and return its exit code."""
    return start("convjax.lab.commands", sys.argv[1:])


def start(module: str, argv: list[str]) -> int:
    """Import a module, call its ``main(argv)``, and return the exit code.

    What is missing is said in a sentence, and Ctrl-C ends it without a traceback, also while it is
    importing.
    """
    # Tracing makes millions of objects and hardly a cycle: collecting less often saves a tenth.
    gc.set_threshold(50_000, 20, 20)
    # A file's name may hold what the terminal cannot show, and is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    before = signal.getsignal(signal.SIGINT)
    free = before in (signal.default_int_handler, _interrupt.end)
    try:
        if free:
            signal.signal(signal.SIGINT, _interrupt.end)
        importlib.import_module("convjax.lab.commands")
        called = importlib.import_module(module).main
        if free:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return called(argv)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in ("convjax", "experiments"):
            raise
        print(f"error: {error.name} is missing: pip install 'convjax[lab]'", file=sys.stderr)
        return 2
