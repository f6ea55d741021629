"""PyTorch in a process of its own, on another interpreter if need be."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from convjax import lab, study

SCRIPT = Path(__file__).with_name("torch_peer.py")
Layout = Literal["channels_last", "contiguous"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
GRACE_S = 10
# PyTorch's idle threads spin for a while, on the cores that JAX is timed on next: 10 ms by default.
# Without any spinning, its small operations take up to twice as long, which would flatter JAX. So
# they spin for about 1 ms, no shorter than it matters, and the peer answers only after that.
SPIN = {"GOMP_SPINCOUNT": "30000", "KMP_BLOCKTIME": "1"}


class TorchPeer:
    """A process that prepares and times computations in PyTorch, to be used in a ``with``.

    It runs ``torch_peer.py``, which needs torch and NumPy alone, and is asked and answers in lines
    of JSON. It times itself, so that the way there and back is in no figure.

    Args:
      python: the interpreter.
      keep_memory: whether it keeps the memory that it frees, as `study.keep_memory` does.

    Raises:
      UsageError: on entering, if the interpreter cannot be started or has no PyTorch.
      RuntimeError: later, with PyTorch's own message, if it refuses or dies.

    Example::

        with TorchPeer("/path/to/python") as peer:
            peer.prepare({"what": "conv", ...})
            samples = alternate({"torch": peer.timer("channels_last")}, repeats=7)
    """

    def __init__(self, python: str, *, keep_memory: bool = False):
        self.python = python
        self.keep_memory = keep_memory
        self.versions: dict[str, Any] = {}
        """Versions of PyTorch and its Python, and its number of threads."""

    def __enter__(self) -> "TorchPeer":
        self._stderr = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                [self.python, str(SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
                env=_environment(self.keep_memory),
            )
        except OSError as error:
            self._stderr.close()
            raise self._refusal(error.strerror or str(error)) from error
        try:
            self.versions = self._ask({"do": "versions"})
        except RuntimeError as error:
            self._end()
            raise self._refusal(str(error)) from error
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def prepare(self, spec: Mapping[str, Any]) -> None:
        """Take up a computation: ``what`` it is, and what ``torch_peer.py`` asks of that."""
        self._ask({"do": "prepare", "spec": dict(spec)})

    def release(self) -> None:
        """Give the memory of the computation back."""
        self._ask({"do": "release"})

    def timer(self, layout: Layout, *, backward: bool = False) -> "PeerTimer":
        """Return what times the prepared computation, for ``alternate``."""
        return PeerTimer(self, layout, backward)

    def time(self, layout: Layout, *, backward: bool, count: int) -> float:
        """Return the seconds that ``count`` runs of the prepared computation take together."""
        asked = {"do": "time", "layout": layout, "backward": backward, "count": count}
        return float(self._ask(asked)["seconds"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None and pipe_out is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            pipe_in.write(json.dumps(request) + "\n")
            pipe_in.flush()
            line = pipe_out.readline()
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            raise RuntimeError(self._last_words(line)) from None
        if not isinstance(answer, dict) or "error" in answer:
            raise RuntimeError(answer["error"] if isinstance(answer, dict) else line.strip())
        return answer

    def _last_words(self, line: str) -> str:
        """Say why an answer is none."""
        if line.strip():
            return f"it answered {line.strip()[:80]!r}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        return said[-1] if said else f"it ended with exit code {self._process.poll()}"

    def _refusal(self, why: str) -> lab.UsageError:
        return lab.UsageError(
            f"cannot measure PyTorch with {self.python!r} ({why}); give --torch-python the path of "
            f"a Python that has torch and numpy, or leave torch out of --versus."
        )

    def _end(self) -> None:
        """Close its standard input, which ends it; kill it only if it stays."""
        try:
            # Closes both pipes and waits.
            self._process.communicate(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._stderr.close()


def _environment(keep_memory: bool) -> dict[str, str]:
    # A waiting policy of the user's would override the above.
    kept = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return kept | SPIN | (study.keeping_memory() if keep_memory else {})


class PeerTimer:
    """Times what a peer has prepared, as ``alternate`` asks for it."""

    def __init__(self, peer: TorchPeer, layout: Layout, backward: bool):
        self.peer = peer
        self.layout: Layout = layout
        self.backward = backward

    def time(self, count: int) -> float:
        """Return the seconds that ``count`` runs take together, measured over there."""
        return self.peer.time(self.layout, backward=self.backward, count=count)


@contextlib.contextmanager
def torch_peer(
    python: str | None, *, wanted: bool = True, keep_memory: bool = False
) -> Iterator[TorchPeer | None]:
    """Start PyTorch's process, or yield None and say so in one line where there is no PyTorch.

    Args:
      python: the interpreter; None is this one, if it has PyTorch.
      wanted: False yields None without a word.
      keep_memory: as of `TorchPeer`.

    Raises:
      UsageError: the interpreter was asked for and cannot be used.
    """
    if wanted and python is None:
        if importlib.util.find_spec("torch") is not None:
            python = sys.executable
        else:
            print(
                "No PyTorch in this Python: it is left out. --torch-python names one that has it.",
                file=sys.stderr,
            )
    if not wanted or python is None:
        yield None
        return
    with TorchPeer(python, keep_memory=keep_memory) as peer:
        yield peer
