"""Ctrl-C while the command still imports: one line and exit code 130, and no traceback."""

import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

COMMANDS = ("convjax", "convjax.exe", "experiments/__main__.py")
"""Ends of the paths of programs that are this project's own."""


def end(*_: Any) -> None:
    """End the process at once: an import that is interrupted may raise anything."""
    os.write(2, b"interrupted\n")
    os._exit(130)


def end_while_importing() -> None:
    """Have Ctrl-C end the process, where it is the command; nothing else is changed.

    ``convjax.command.start`` gives the signal back once all is imported.
    """
    program = Path(sys.argv[0] if sys.argv else "").as_posix()
    own = any(f"/{program}".endswith(f"/{name}") for name in COMMANDS)
    alone = multiprocessing.parent_process() is None
    first = threading.current_thread() is threading.main_thread()
    if own and alone and first and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)
