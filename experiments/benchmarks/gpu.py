"""All that matters on a GPU, in one command of at most six minutes.

    python -m experiments bench-gpu

Asks of a machine with one GPU, most important first: is every operation right against float64 on
the host; how fast are layers and whole training steps beside ``jax.lax`` (cuDNN) and PyTorch
(channels_last, in a process of its own), in float32 and bfloat16, and which share of the device's
rates do they reach; what does a gradient profile cost; do 10,000 layers and ``gradient-norms`` come
to their end; and how fast is PyTorch compiled.

float32 products are those that JAX multiplies by default, of TF32 on NVIDIA's cards from Ampere on,
and PyTorch is allowed the same. Results are written after every row, so that what is measured is
kept when a part fails or the time is over; a part that takes too long makes room for the next.

Needs what convjax needs (jaxtyping, too), rich and matplotlib; PyTorch and timm where they are to
be compared. Without tyro it takes no options. Where there is no GPU it rehearses, in small sizes;
``python -m experiments bench-gpu --rehearse True`` does so anywhere.
"""

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from convjax import lab, plots
from experiments.benchmarks import _gpu_parts, _gpu_report, _report, benchmark
from experiments.benchmarks._peer import Peer, torch_peer
from experiments.benchmarks.computations import machine

tables, figure = _gpu_report.tables, _gpu_report.figure


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Options):
    """Options."""

    repeats: int = 5
    seconds: float = 330.0
    """After so many the command ends, whatever it has."""
    rehearse: bool | None = None
    """Small sizes; without it, where there is no GPU."""
    torch_python: str | None = None
    """Python that has torch, timm and NumPy; without it this one, if it has torch."""
    keep_memory: bool = False
    """As for other benchmarks, which run on CPU; here threads would wait for one allocator."""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; PyTorch's process needs memory of the GPU too."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return benchmark.run(__name__, argv)


def check(config: Config) -> None:
    """Refuse to measure in no time."""
    lab.check_positive(config, "seconds")


def measure(config: Config) -> dict[str, Any]:
    """Run the parts, one after the other, for as long as there is time."""
    start = time.monotonic()
    small = jax.default_backend() != "gpu" if config.rehearse is None else config.rehearse
    sizes = _gpu_parts.SMALL if small else _gpu_parts.FULL
    results = Results(config, rehearsal=small)
    with results.ending(config.seconds), contextlib.ExitStack() as stack:
        peer = results.start_torch(stack)
        bench = _gpu_parts.Bench(sizes, config.repeats, peer, results.rates)
        for name, (share, part) in _gpu_parts.PARTS.items():
            results.add(name, part(bench), start + share * config.seconds)
    return results.found


class Results:
    """What has been found so far, written after every row.

    Args:
      config: the options, with the folder.
      **about: the run.
    """

    def __init__(self, config: Config, **about: Any):
        self.config = config
        self.found: dict[str, Any] = {
            **about,
            "torch": None,
            "machine": {},
            "parts": {},
            "rows": [],
        }
        self.peer: Peer | None = None
        self._writing = threading.RLock()

    def start_torch(self, stack: contextlib.ExitStack) -> Peer | None:
        """Start PyTorch's process, or say why there is none."""
        try:
            self.peer = stack.enter_context(torch_peer(self.config.torch_python))
        except lab.UsageError as error:
            print(error, file=sys.stderr)
        self.found["torch"] = self.peer and self.peer.versions
        return self.peer

    def rates(self, dtype: str) -> dict[str, float]:
        """Return the device's rates, measured once."""
        if dtype not in self.found["machine"]:
            self.found["machine"][dtype] = machine(dtype)
        return self.found["machine"][dtype]

    def add(self, name: str, part: Iterator[_gpu_parts.Task], until: float) -> None:
        """Measure the rows of a part, one at least, until it has to make room for the next."""
        about = self.found["parts"][name] = {"rows": 0, "seconds": 0.0, "ended": "cut short"}
        start = time.monotonic()
        try:
            for what, task in part:
                if about["rows"] and time.monotonic() > until:
                    about["ended"] = f"out of time before: {what}"
                    return
                row = {"part": name, "what": what, **attempted(task)}
                with self._writing:
                    self.found["rows"].append(row)
                    about.update(rows=about["rows"] + 1, seconds=time.monotonic() - start)
                    self.write()
                told = row.get("error") or f"{row['took_s']:.1f} s"
                print(f"{name}: {what}: {told}", file=sys.stderr, flush=True)
        except Exception as error:
            about["ended"] = said(error)
        else:
            about["ended"] = "complete"

    def write(self) -> None:
        """Write everything so far, for people and for programs."""
        with self._writing:
            path = self.config.out / "bench_gpu.json"
            benchmark.keep(path, self.config, self.found, ())
            try:
                text = "\n".join(map(_report.markdown, tables(self.found, self.config)))
            except Exception as error:  # no table is worth the rows that are still to come
                text = f"No tables: {said(error)}\n"
            path.with_suffix(".md").write_text(text, encoding="utf-8")

    @contextlib.contextmanager
    def ending(self, seconds: float) -> Iterator[None]:
        """End the process after so many seconds, also in the midst of a compilation."""
        timer = threading.Timer(seconds, self.end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            self.write()

    def end(self) -> None:
        """Write what there is, and end the process."""
        with self._writing:
            try:
                self.write()
                if drawn := figure(self.found):
                    plots.save(drawn, self.config.out / "bench_gpu")
                print(f"out of time; what was measured is in {self.config.out}", file=sys.stderr)
                sys.stderr.flush()
            finally:
                if self.peer is not None:
                    self.peer.process.kill()
                os._exit(0)


def attempted(task: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the row that a task measures, or its error: the next may go well."""
    start = time.monotonic()
    try:
        row = task()
    except Exception as error:
        row = {"error": said(error)}
    return {**row, "took_s": time.monotonic() - start}


def said(error: Exception) -> str:
    """Return the beginning of what an error says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
