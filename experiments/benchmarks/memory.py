"""What rematerialisation saves in memory and costs in time, on the residual networks of CIFAR.

    python -m experiments bench-memory

For each depth and each ``remat``, prints what a gradient holds in memory beside its result, as XLA
has planned it (``memory_analysis``; nothing need be run for that), and how long a gradient of a
smaller batch takes. Saves both as JSON. Statistics are of the batch, images 32x32.

Takes about three minutes on two cores, most of it compilation.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from rich.table import Table

from convjax import lab, models, nn, study
from convjax.lab import console, cross_entropy
from experiments.benchmarks.timing import alternate, median

MODES = ("none", "unit", "sqrt")
IMAGE = (32, 32, 3)


@dataclasses.dataclass(frozen=True)
class Config(lab.CommandOptions):
    """Options."""

    depths: tuple[int, ...] = (20, 110, 1202)
    """Depths of the networks, 6n + 2."""
    batch_size: int = 128
    """Images in the batch whose memory is read."""
    timed_batch_size: int = 4
    """Images in the batch that is timed; 0 times nothing."""
    repeats: int = 5
    """Gradients timed of each; the median counts."""
    out: Path = Path("results/bench-memory")
    """Folder for the numbers; it is made if it is not there."""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark from the command line and return the exit code."""
    about, _, _ = (__doc__ or "").partition("\n")
    config = lab.parse(Config, argv, command="python -m experiments bench-memory", about=about)
    lab.use_platform(config.platform)
    with lab.refusing():
        study.check_writable(config.out)
        rows = [row for depth in config.depths for row in measured(depth, config)]
    console().print(table(rows, config))
    written = {"rows": rows, "environment": study.environment()}
    path = config.out / "bench_memory.json"
    path.write_text(json.dumps(written, indent=1, default=str) + "\n", encoding="utf-8")
    print(path)
    return 0


def measured(depth: int, config: Config) -> list[dict[str, Any]]:
    """Return one row for each ``remat``: bytes, and seconds if they are asked for."""
    shapes = nnx.eval_shape(lambda: models.resnet_cifar(depth, rngs=nnx.Rngs(0)))
    rows = []
    for remat in MODES:
        memory = compiled(shapes, remat, config.batch_size).memory_analysis()
        if memory is None:
            raise ValueError(f"XLA tells nothing of its memory on {jax.default_backend()}")
        held = {"temporary": memory.temp_size_in_bytes, "result": memory.output_size_in_bytes}
        rows.append({"depth": depth, "remat": remat, **held})
    if config.timed_batch_size:
        seconds = timed(depth, shapes, config)
        rows = [row | {"seconds": seconds[row["remat"]]} for row in rows]
    return rows


def timed(depth: int, shapes: nnx.Module, config: Config) -> dict[str, list[float]]:
    """Return the seconds of gradients, by ``remat``, measured in turn."""
    net = models.resnet_cifar(depth, rngs=nnx.Rngs(0))
    _, params, rest = nnx.split(net, nnx.Param, ...)
    size = config.timed_batch_size
    images = jax.random.normal(jax.random.key(1), (size, *IMAGE))
    steps = {remat: compiled(shapes, remat, size) for remat in MODES}

    def run(step: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: step(params, rest, images, jnp.arange(size) % 10)

    return alternate({remat: run(step) for remat, step in steps.items()}, repeats=config.repeats)


def compiled(shapes: nnx.Module, remat: str, batch_size: int) -> Any:
    """Return the compiled gradient of a loss, with the statistics that the batch moved."""
    graphdef, params, rest = nnx.split(shapes, nnx.Param, ...)

    def loss(params, rest, images, labels):
        net = nnx.merge(graphdef, params, rest, copy=True)
        nn.rematerialise(net, remat)
        value = cross_entropy(net(images, train=True), labels)
        return value, nnx.split(net, nnx.Param, ...)[2]

    images = jax.ShapeDtypeStruct((batch_size, *IMAGE), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return step.lower(params, rest, images, labels).compile()


def table(rows: Sequence[dict[str, Any]], config: Config) -> Table:
    """Return the rows as a table; ratios are to the same network with ``remat`` none."""
    columns = ("depth", "remat", f"MB, batch {config.batch_size}", "of none")
    if config.timed_batch_size:
        columns += (f"seconds, batch {config.timed_batch_size}", "of none")
    shown = Table(*columns, box=None)
    plain = {row["depth"]: row for row in rows if row["remat"] == "none"}
    for row in rows:
        base = plain[row["depth"]]
        cells = [
            str(row["depth"]),
            row["remat"],
            f"{row['temporary'] / 1e6:,.1f}",
            f"{row['temporary'] / base['temporary']:.3f}",
        ]
        if config.timed_batch_size:
            taken = median(row["seconds"])
            cells += [f"{taken:.3f}", f"{taken / median(base['seconds']):.2f}"]
        shown.add_row(*cells)
    return shown
