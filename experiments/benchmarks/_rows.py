"""The layers of ten networks, as ``layers.json`` has them, and the options that choose some."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from convjax import lab
from experiments.benchmarks import benchmark

Kind = Literal[
    "depthwise",
    "pointwise",
    "dense",
    "grouped",
    "transposed",
    "volume",
    "norm",
    "pool",
    "activation",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
Sizes = tuple[int, ...]

# Networks of small images, measured in batches this many times as large.
SMALL = {"cifar_resnet": 8, "digits_stack": 8}


@dataclasses.dataclass(frozen=True)
class Spec:
    """One computation, in the terms that both frameworks are told it in."""

    what: str
    batch: int
    height: int
    width: int
    in_features: int
    out_features: int
    kernel_size: Sizes = (1, 1)
    strides: Sizes = (1, 1)
    padding: Sizes = (0, 0)
    kernel_dilation: Sizes = (1, 1)
    feature_group_count: int = 1
    name: str = ""
    dtype: str = "float32"
    seed: int = 0
    depth: int = 0
    """Size of the first of three spatial axes; 0 where there are two."""

    @property
    def spatial(self) -> Sizes:
        """The image's spatial shape."""
        return (self.depth, self.height, self.width)[not self.depth :]

    @property
    def is_convolution(self) -> bool:
        """Whether it has a kernel."""
        return self.what in ("conv", "conv_transpose")

    @property
    def kind(self) -> Kind:
        """The group whose geometric mean this counts in."""
        if self.depth or self.what == "conv_transpose":
            return "volume" if self.depth else "transposed"
        if self.what != "conv":
            other: dict[str, Kind] = {"activation": "activation", "batch_norm": "norm"}
            return other.get(self.what, "pool")
        if self.feature_group_count > 1:
            return "depthwise" if self.feature_group_count == self.in_features else "grouped"
        return "pointwise" if self.kernel_size == (1, 1) else "dense"

    @property
    def text(self) -> str:
        """The layer as people write it."""
        image = _by(self.batch, *self.spatial, self.in_features)
        window = f"{_by(*self.kernel_size)} /{_sizes(self.strides)}"
        if not self.is_convolution:
            name = self.name or self.what.replace("avg", "average").replace("_", " ")
            return f"{image}, {name} {window}" if self.what[3:] == "_pool" else f"{image}, {name}"
        text = f"{image} -> {self.out_features}, {window}"
        if self.kernel_dilation != (1, 1):
            text += f", dilation {_sizes(self.kernel_dilation)}"
        if self.feature_group_count > 1:
            text += f", {self.feature_group_count} groups"
        return text + ", transposed" * (self.what == "conv_transpose")

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Window, channels of a group, output channels."""
        return (*self.kernel_size, self.in_features // self.feature_group_count, self.out_features)

    @property
    def output_size(self) -> Sizes:
        """Spatial shape of the output."""
        if self.what == "global_avg_pool":
            return (1, 1)
        window = (self.kernel_size, self.strides, self.padding, self.kernel_dilation)
        sides = zip(self.spatial, *window, strict=True)
        if self.what == "conv_transpose":
            return tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in sides)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides)

    def flops(self, backward: bool) -> int:
        """Two for each product of a convolution; three times as many with both gradients."""
        if not self.is_convolution:
            return 0
        places = self.spatial if self.what == "conv_transpose" else self.output_size
        products = self.batch * math.prod(places) * math.prod(self.kernel_shape)
        return 2 * products * (3 if backward else 1)

    def bytes(self, backward: bool) -> int:
        """Return what has to pass through the memory, if every array but a norm's scale does once.

        With the gradients, the output's cotangent as well, and the gradients of input and kernel.
        """
        numbers = self.batch * math.prod(self.spatial) * self.in_features
        numbers += self.batch * math.prod(self.output_size) * self.out_features
        if self.is_convolution:
            numbers += math.prod(self.kernel_shape)
        return numbers * (2 if self.dtype == "bfloat16" else 4) * (2 if backward else 1)


def _by(*sizes: int) -> str:
    return "x".join(map(str, sizes))


def _sizes(sizes: Sizes) -> str:
    return _by(*dict.fromkeys(sizes))


class Row(NamedTuple):
    """A computation, where it stands, and how often; 0 where nobody counted."""

    network: str
    count: int
    spec: Spec


def rows(batch_size: int, dtype: str) -> list[Row]:
    """Return every row, convolutions first."""
    made = []
    for layer in json.loads(Path(__file__).with_name("layers.json").read_text(encoding="utf-8")):
        network, count = layer.pop("network"), layer.pop("count", 0)
        fields: dict[str, Any] = {"what": "conv", "batch": batch_size * SMALL.get(network, 1)}
        fields |= {name: tuple(v) if isinstance(v, list) else v for name, v in layer.items()}
        made.append(Row(network, count, Spec(**fields, dtype=dtype)))
    return made


@dataclasses.dataclass(frozen=True)
class Options(benchmark.Options):
    """Options of the benchmarks that measure layers."""

    networks: tuple[str, ...] = ()
    """Whose layers; without it, all of them."""
    kinds: tuple[Any, ...] = KINDS
    batch_size: int = 8
    """Images in a batch; eight times as many for the networks of small images."""
    slow_seconds: float = 1.0
    """What takes longer than this is run less often, but three times at least."""


def choose(config: Options, dtype: str = "float32") -> list[Row]:
    """Return the rows of the networks and kinds that the options name; refuse what is unknown."""
    with lab.refusing():
        lab.check_least(config, batch_size=1)
    every = rows(config.batch_size, dtype)
    known = {row.network for row in every}
    for name in sorted(set(config.networks) - known):
        raise lab.UsageError(lab.unknown("network", name, known))
    wanted = config.networks or known
    chosen = [row for row in every if row.network in wanted and row.spec.kind in config.kinds]
    if not chosen:
        raise lab.UsageError("none of these networks has layers of these kinds; choose others.")
    return chosen
