"""What separable measures, part by part: counts, what is exact, times, and trained networks."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from experiments.benchmarks.computations import machine
from experiments.separable import kernels, layers

FEW_CHANNELS = 8


def row(topic: str, name: str, quantity: str, value: float, **where: int) -> dict[str, Any]:
    """Return one row; what does not apply to it is 0."""
    axes = dict.fromkeys((*layers.PLACE, "number", "seed"), 0)
    said = {"topic": topic, "name": name, "quantity": quantity, "value": float(value)}
    return said | axes | where


@dataclasses.dataclass(frozen=True)
class Counts:
    """What every layer counts; of few channels too, which none times."""

    sizes: tuple[int, ...]
    channels: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    batch_size: int

    def __str__(self) -> str:
        return "counts"

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield products, weights and bytes."""
        groups = layers.cases(self.sizes, self.channels, self.kernel_sizes)
        narrow = layers.cases(self.sizes[:1], (FEW_CHANNELS,), (3,))
        for case in (case for group in (*groups, *narrow) for case in group):
            for quantity, value in layers.counted(case, self.batch_size).items():
                yield row("counts", case.layer, quantity, value, **case.place)


@dataclasses.dataclass(frozen=True)
class Exact:
    """What is 0 if a sentence is right."""

    def __str__(self) -> str:
        return "what is exact"

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the differences."""
        for name, value in kernels.exact().items():
            yield row("exact", name, "", value)


@dataclasses.dataclass(frozen=True)
class Times:
    """What the machine allows, and the seconds of every layer in every round, in one stretch."""

    sizes: tuple[int, ...]
    channels: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    batch_size: int
    repeats: int

    def __str__(self) -> str:
        return "times"

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the machine's rates, and the seconds of every round."""
        rates = machine("float32")
        yield row("machine", "bytes per second", "", rates["bytes_per_s"])
        yield row("machine", "products per second", "", rates["flops_per_s"] / 2)
        groups = list(layers.cases(self.sizes, self.channels, self.kernel_sizes))
        for case, direction, seconds in layers.timed(groups, self.batch_size, self.repeats):
            for i, value in enumerate(seconds):
                yield row("time", case.layer, direction, value, number=i, **case.place)


@dataclasses.dataclass(frozen=True)
class Training:
    """Networks of one layer and window, trained seed by seed."""

    layer: str
    kernel_size: int
    width: int
    epochs: int
    seeds: int

    def __str__(self) -> str:
        return f"training, {self.layer}, {self.kernel_size}x{self.kernel_size}"

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield sizes, curves, accuracies and errors by rank."""
        k = self.kernel_size
        results = kernels.trained(self.layer, k, self.width, self.epochs, self.seeds)
        for seed, (size, found) in enumerate(results):
            where = {"kernel_size": k, "seed": seed}
            yield row("training", self.layer, "parameters", size, **where)
            for named, values in found.items():
                for number, value in enumerate(values, 1):
                    yield row(*named, value, number=number, **where)
