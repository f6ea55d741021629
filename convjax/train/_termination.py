"""SIGTERM, which clusters send before they take a machine away: a checkpoint, then the end."""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class _Ended(SystemExit):
    """Leads out of the run, whose checkpoint is whole."""


class Termination:
    """Notes SIGTERM while a run goes on, in the main thread of a process.

    The run asks ``due`` between two dispatches, saves, and says ``obey``. A second SIGTERM does
    what it would have done without this, at once. Where SIGTERM is ignored, it stays ignored.

    In a run of several processes JAX notes the signal and has all of them stop at one step.

    Args:
      folder: of the run, named in what is said.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked = False
        self._before: Any = signal.SIG_IGN
        self._said = ""
        self._calls = 0

    def __enter__(self) -> "Termination":
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._before = signal.getsignal(signal.SIGTERM)
            if self._before is None:  # not Python's, so Python could not put it back
                self._before = signal.SIG_IGN
            self._note_signals()
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self._give_back()
        if self._said and jax.process_index() == 0:
            print(self._said, file=sys.stderr, flush=True)
        if self.asked:
            self._hand_on()

    def due(self) -> bool:
        """Tell whether the run is to stop; every process asks once after each dispatch."""
        if jax.process_count() == 1:
            return self.asked
        self._calls += 1
        try:
            return multihost_utils.reached_preemption_sync_point(self._calls)
        except RuntimeError:  # the user switched JAX's service off
            return False

    def obey(self, step: int) -> None:
        """End the run, whose state of this step is saved; return if the user's handler does."""
        said = (
            f"SIGTERM: the checkpoint of step {step} is in {str(self.folder)!r}; the same call "
            "goes on from there"
        )
        if not callable(self._before):
            self._said = said
            raise _Ended(128 + signal.SIGTERM)
        print(said, file=sys.stderr, flush=True)
        self._give_back()
        self.asked = False
        self._before(signal.SIGTERM, None)
        self._note_signals()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self._give_back()
            self._hand_on()
        self.asked = True

    def _note_signals(self) -> None:
        if self._before is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, self._note)

    def _give_back(self) -> None:
        if self._before is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, self._before)

    def _hand_on(self) -> None:
        """Have SIGTERM do what it would have done, its handler being back."""
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGTERM)
