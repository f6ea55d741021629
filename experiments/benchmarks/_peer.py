"""PyTorch in a process of its own, on another interpreter if need be."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from convjax import lab, study
from experiments.benchmarks.timing import Timer

SCRIPT = Path(__file__).with_name("torch_peer.py")
LAYOUTS = ("channels_last", "contiguous")
GRACE_S = 10
# PyTorch's idle threads spin for a while, on the cores that JAX is timed on next: 10 ms by default.
# Without any spinning, its small operations take up to twice as long, which would flatter JAX. So
# they spin for about 1 ms, no shorter than it matters, and the peer answers only after that.
SPIN = {"GOMP_SPINCOUNT": "30000", "KMP_BLOCKTIME": "1"}


class Peer:
    """A process that times computations in PyTorch; ``versions`` are those of what it runs on.

    It runs ``torch_peer.py``, which needs torch and NumPy alone, and is asked and answers in lines
    of JSON. It times itself, so that the way there and back is in no figure. A UsageError has
    PyTorch's own message, if it refuses or dies.
    """

    def __init__(self, python: str, process: subprocess.Popen[str], stderr: Any):
        self.python, self.process, self.stderr = python, process, stderr
        self.versions = self._answer()

    def timers(
        self,
        spec: Mapping[str, Any],
        backward: bool,
        layouts: Sequence[str] = LAYOUTS,
        **how: bool,
    ) -> dict[str, Timer]:
        """Return what times a computation in PyTorch's own terms, by memory format.

        It runs on the GPU where JAX does; ``compiled=True`` asks for ``torch.compile``.
        """
        asked = {"spec": dict(spec), "backward": backward, **how}
        if jax.default_backend() == "gpu":
            asked["device"] = "cuda"
        return {name: partial(self._time, asked | {"layout": name}) for name in layouts}

    def _time(self, asked: dict[str, Any], count: int) -> float:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(asked | {"count": count}) + "\n")
            self.process.stdin.flush()
        return self._answer()["seconds"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        why = self.process.stdout.readline().strip()
        with contextlib.suppress(json.JSONDecodeError):
            answer = json.loads(why)
            if isinstance(answer, dict) and "error" not in answer:
                return answer
            why = answer["error"] if isinstance(answer, dict) else why
        raise refusal(self.python, why or self._last_words())

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_S)
        self.stderr.seek(0)
        said = self.stderr.read().strip().splitlines()
        return said[-1] if said else f"it ended with exit code {self.process.poll()}"


def refusal(python: str, why: str) -> lab.UsageError:
    """Return the error that PyTorch cannot be measured."""
    return lab.UsageError(
        f"cannot measure PyTorch with {python!r} ({why}); give --torch-python the path of a Python "
        "that has torch, NumPy and, for networks, timm, or leave torch out of --versus."
    )


@contextlib.contextmanager
def torch_peer(
    python: str | None, *, wanted: bool = True, keep_memory: bool = False
) -> Iterator[Peer | None]:
    """Start PyTorch's process, or yield None and say so in one line where there is no PyTorch.

    Args:
      python: the interpreter; None is this one, if it has PyTorch.
      wanted: False yields None without a word.
      keep_memory: whether it keeps the memory that it frees, as `study.keep_memory` does.
    """
    if wanted and jax.default_backend() not in ("cpu", "gpu"):
        wanted = False
        print("PyTorch is left out: it is compared on CPU and GPU only.", file=sys.stderr)
    if wanted and python is None and importlib.util.find_spec("torch") is None:
        wanted = False
        told = "No PyTorch in this Python: it is left out. --torch-python names one that has it."
        print(told, file=sys.stderr)
    if not wanted:
        yield None
        return
    python = python or sys.executable
    # A waiting policy of the user's would override the time of spinning.
    kept = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    kept |= SPIN | (study.keeping_memory() if keep_memory else {})
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        try:
            process = subprocess.Popen([python, str(SCRIPT)], env=kept, stderr=stderr, **pipes)
        except OSError as error:
            raise refusal(python, str(error)) from error
        try:
            yield Peer(python, process, stderr)
        finally:
            try:
                process.communicate(timeout=GRACE_S)  # closes the pipes, which ends it
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
