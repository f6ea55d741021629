"""What rematerialisation saves in memory and costs in time, on the residual networks of CIFAR.

    python -m experiments bench-memory

For each depth and each ``remat``, tells what a gradient holds in memory beside its result, as XLA
has planned it (``memory_analysis``; nothing need be run for that), and how long a gradient of a
smaller batch takes. Statistics are of the batch, images 32x32.

Takes about three minutes on two cores, most of it compilation.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from rich.table import Table

from convjax import lab, models, nn
from experiments.benchmarks import _report, benchmark
from experiments.benchmarks.networks import loss_of
from experiments.benchmarks.timing import alternate, median

MODES = ("none", "unit", "sqrt")
main = partial(benchmark.run, __name__)


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Options):
    """Options."""

    depths: tuple[int, ...] = (20, 110, 1202)
    """Depths of the networks, 6n + 2."""
    batch_size: int = 128
    """Images in the batch whose memory is read."""
    timed_batch_size: int = 4
    """Images in the batch that is timed; 0 times nothing."""
    repeats: int = 5


def check(config: Config) -> None:
    """Refuse depths that no network has."""
    for depth in config.depths:
        shapes_of(depth)


def shapes_of(depth: int) -> nnx.Module:
    """Return the network without its arrays."""
    return nnx.eval_shape(lambda: models.resnet_cifar(depth, rngs=nnx.Rngs(0)))


def measure(config: Config) -> dict[str, Any]:
    """Return one row for each depth and ``remat``: bytes, and seconds if they are asked for."""
    rows = []
    for depth in benchmark.one_by_one(config.depths, str):
        seconds = timed(depth, config) if config.timed_batch_size else {}
        for remat in MODES:
            memory = compiled(depth, remat, config.batch_size).memory_analysis()
            if memory is None:
                where = jax.default_backend()
                raise lab.UsageError(f"XLA tells nothing of its memory on {where}.")
            row = {"temporary": memory.temp_size_in_bytes, "result": memory.output_size_in_bytes}
            row |= {"seconds": seconds[remat]} if seconds else {}
            rows.append({"depth": depth, "remat": remat} | row)
    return {"rows": rows}


def timed(depth: int, config: Config) -> dict[str, list[float]]:
    """Return the seconds of gradients, by ``remat``, measured in turn."""
    _, params, rest = nnx.split(models.resnet_cifar(depth, rngs=nnx.Rngs(0)), nnx.Param, ...)
    size = config.timed_batch_size
    images = jax.random.normal(jax.random.key(1), (size, 32, 32, 3))
    arrays = params, rest, images, jnp.arange(size) % 10
    steps = {remat: partial(compiled(depth, remat, size), *arrays) for remat in MODES}
    return alternate(steps, repeats=config.repeats)


def compiled(depth: int, remat: str, batch_size: int) -> Any:
    """Return the compiled gradient of a loss, with the statistics that the batch moved."""
    graphdef, params, rest = nnx.split(shapes_of(depth), nnx.Param, ...)
    loss = loss_of(graphdef, lambda net: nn.rematerialise(net, remat))
    images = jax.ShapeDtypeStruct((batch_size, 32, 32, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return step.lower(params, rest, images, labels).compile()


def tables(found: dict[str, Any], config: Config) -> Iterator[Table]:
    """Yield the rows; ratios are to the same network with ``remat`` none."""
    plain = {row["depth"]: row for row in found["rows"] if row["remat"] == "none"}
    columns: list[_report.Column] = [
        ("depth", lambda row: str(row["depth"])),
        ("remat", lambda row: row["remat"]),
        (f"MB, batch {config.batch_size}", lambda row: f"{row['temporary'] / 1e6:,.1f}"),
        ("of none", lambda row: row["temporary"] / plain[row["depth"]]["temporary"]),
    ]
    if config.timed_batch_size:
        columns += [
            (f"s, batch {config.timed_batch_size}", lambda row: median(row["seconds"])),
            ("of none", lambda r: median(r["seconds"]) / median(plain[r["depth"]]["seconds"])),
        ]
    yield _report.table("A gradient", found["rows"], *columns)
