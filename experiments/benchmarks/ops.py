"""Convolutions, norms, pools and activations of convjax, timed against lax and PyTorch.

    python -m experiments bench-ops --torch-python /path/to/a/python/with/torch

Every layer of eight networks, forward (f), and forward with the gradients with respect to input and
kernel (fb). Everything alternates within one run; times are medians; PyTorch runs in a process of
its own, channels_last and contiguous, and the faster of the two counts. Convolutions by lax are
``jax.lax.conv_general_dilated``, differentiated by JAX. "Of bound" is the share of what the device
could do: the time of moving every array once, or of the arithmetic, whichever is longer, at the
rates of a large sum and a large product of matrices. A small row that stays in the cache can exceed
it, and one that lasts microseconds is all dispatch: on a GPU, give a large ``--batch-size``.

Prints tables; writes every number to ``bench_ops.json`` and a figure to ``bench_ops.png`` and
``.svg``. Takes ten to fifteen minutes on two cores, about half of it for lax, which ``--versus
torch`` leaves out; for a look at it in half a minute: ``--networks digits_stack --repeats 3``.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from convjax import lab, ops, study
from convjax.lab import Ticker
from experiments.benchmarks import _report, _results
from experiments.benchmarks._peer import LAYOUTS, TorchPeer, torch_peer
from experiments.benchmarks._results import DIRECTIONS, Result
from experiments.benchmarks._rows import KINDS, Kind, Row, Spec, choose
from experiments.benchmarks.computations import (
    Machine,
    by_convjax,
    by_lax,
    compiled,
    inputs,
    machine,
)
from experiments.benchmarks.timing import alternate

STEM = "bench_ops"


@dataclasses.dataclass(frozen=True)
class Config(lab.CommandOptions):
    """Options."""

    networks: tuple[str, ...] = ()
    """Only the layers of these networks; none is all."""
    kinds: tuple[Kind, ...] = KINDS
    """Only these kinds of layers."""
    versus: tuple[Literal["lax", "torch"], ...] = ("lax", "torch")
    """Whom to compare with; nothing after it is nobody. lax takes about half of the time."""
    batch_size: int = 8
    """Images in a batch; of cifar_resnet and digits_stack, eight times as many."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of all arrays."""
    lowering: str = "auto"
    """How convjax lowers its convolutions."""
    repeats: int = 7
    """Runs of each; the median counts."""
    slow_seconds: float = 1.0
    """What takes longer than this is run less often, but three times at least."""
    torch_python: str | None = None
    """Python that has torch and numpy; without it, this one, if it has them."""
    all: bool = False
    """Print every row (always done on a GPU or TPU)."""
    keep_memory: bool = True
    """Whether both processes keep the memory that they free (convjax.study.keep_memory)."""
    out: Path = Path("results/bench-ops")
    """Folder for the numbers and the figure; it is made if it is not there."""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark from the command line and return the exit code."""
    about, _, _ = (__doc__ or "").partition("\n")
    config = lab.parse(Config, argv, command="python -m experiments bench-ops", about=about)
    if config.keep_memory:
        study.keep_memory()
    lab.use_platform(config.platform)
    if config.repeats < 1:
        raise lab.UsageError("--repeats must be 1 or more.")
    chosen = choose(config.networks, config.kinds, config.batch_size, config.dtype)
    with lab.refusing():
        study.check_writable(config.out)
    with contextlib.ExitStack() as stack:
        with lab.refusing():
            stack.enter_context(lowering(config.lowering))
        python, kept = config.torch_python, config.keep_memory
        peer = stack.enter_context(torch_peer(python, wanted=wants_torch(config), keep_memory=kept))
        rates = machine(config.dtype)
        results = run(chosen, config, peer, rates)
        torch = None if peer is None else peer.versions
    _results.report(results, every=config.all or jax.default_backend() != "cpu")
    write(results, config, rates, torch)
    return 0


def write(
    results: Sequence[Result], config: Config, rates: Machine, torch: dict[str, Any] | None
) -> None:
    """Write the numbers and, if anything was compared, the figure; print where they are."""
    path = config.out / f"{STEM}.json"
    entries = [result.to_json() for result in results]
    _report.save_json(
        path, rows=entries, config=config, torch=torch, machine=dataclasses.asdict(rates)
    )
    print(path)
    if any(result.worst(name) for result in results for name in _results.OTHERS):
        print(*_results.draw(results, config.out / STEM), sep="\n")


def lowering(name: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which convjax lowers its convolutions that way."""
    with lab.refusing():
        return ops.default_lowering(name)


def wants_torch(config: Config) -> bool:
    """Say whether PyTorch is to be measured; on its CPU, it is no match for an accelerator."""
    if "torch" not in config.versus or jax.default_backend() == "cpu":
        return "torch" in config.versus
    print("PyTorch is left out: it is compared on CPU only.", file=sys.stderr)
    return False


def run(
    chosen: Sequence[Row], config: Config, peer: TorchPeer | None, rates: Machine
) -> list[Result]:
    """Measure every distinct computation once, and return a result for every row."""
    names: dict[Spec, str] = {}
    for row in chosen:
        names.setdefault(row.spec, row.text)
    measured = {}
    with Ticker(len(names)) as ticker:
        for spec, name in names.items():
            ticker.begin(name)
            measured[spec] = measure(spec, config, peer)
            ticker.finish(name)
    return [
        Result(
            row,
            measured[row.spec],
            {d: rates.bound(row.spec, backward) for d, backward in DIRECTIONS.items()},
        )
        for row in chosen
    ]


def measure(
    spec: Spec, config: Config, peer: TorchPeer | None
) -> dict[str, dict[str, list[float]]]:
    """Return the samples of one computation, by direction and by name."""
    if peer is not None:
        peer.prepare(dataclasses.asdict(spec))
    arguments = inputs(spec)
    samples = {}
    for direction, backward in DIRECTIONS.items():
        functions: dict[str, Any] = {
            name: compiled(function, arguments, backward)
            for name, function in jax_functions(spec, config)
        }
        if peer is not None:
            functions |= {layout: peer.timer(layout, backward=backward) for layout in LAYOUTS}
        samples[direction] = alternate(
            functions, repeats=config.repeats, slow_seconds=config.slow_seconds
        )
    if peer is not None:
        peer.release()
    return samples


def jax_functions(spec: Spec, config: Config) -> Iterator[tuple[str, Callable[..., jax.Array]]]:
    """Return what this process measures, by name."""
    yield "convjax", by_convjax(spec)
    if "lax" in config.versus and spec.what == "conv":
        yield "lax", by_lax(spec)
