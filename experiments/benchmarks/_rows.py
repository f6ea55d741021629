"""What bench-ops measures: the layers of eight networks, from ``layers.json`` and from here."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from convjax import lab

Kind = Literal["depthwise", "pointwise", "dense", "grouped", "norm", "pool", "activation"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Pair = tuple[int, int]

# Networks of small images, measured in batches this many times as large.
SMALL = {"cifar_resnet": 8, "digits_stack": 8}
# Where norms and activations stand in the networks: height and width, channels.
IMAGES = (
    ("resnet50", 112, 64),
    ("mobilenetv1_100", 56, 128),
    ("mobilenetv1_100", 28, 256),
    ("mobilenetv1_100", 14, 512),
    ("cifar_resnet", 32, 16),
)
# The same with kernel, stride and padding.
MAX_POOLS = (
    ("resnet50", 112, 64, 3, 2, 1),
    ("legacy_xception", 147, 128, 3, 2, 1),
    ("legacy_xception", 37, 728, 3, 2, 1),
    ("inception_v3", 35, 288, 3, 2, 0),
)
AVG_POOLS = (("inception_v3", 35, 256, 3, 1, 1), ("inception_v3", 17, 768, 3, 1, 1))
GLOBAL_POOLS = (("resnet50", 7, 2048), ("mobilenetv1_100", 7, 1024), ("cifar_resnet", 8, 64))
ACTIVATIONS = ("relu", "relu6", "gelu", "silu")
NAMES = {
    "batch_norm": "batch norm",
    "max_pool": "max pool",
    "avg_pool": "average pool",
    "global_avg_pool": "global average pool",
}


@dataclasses.dataclass(frozen=True)
class Spec:
    """One computation, in the terms that both frameworks are told it in."""

    what: str
    batch: int
    height: int
    width: int
    in_features: int
    out_features: int
    kernel_size: Pair = (1, 1)
    strides: Pair = (1, 1)
    padding: Pair = (0, 0)
    kernel_dilation: Pair = (1, 1)
    feature_group_count: int = 1
    name: str = ""
    dtype: str = "float32"
    seed: int = 0

    @property
    def kind(self) -> Kind:
        """The group whose geometric mean this counts in."""
        if self.what == "conv":
            if self.feature_group_count > 1:
                alone = self.feature_group_count == self.in_features
                return "depthwise" if alone else "grouped"
            return "pointwise" if self.kernel_size == (1, 1) else "dense"
        if self.what == "activation":
            return "activation"
        return "norm" if self.what == "batch_norm" else "pool"

    @property
    def text(self) -> str:
        """The layer as people write it."""
        image = f"{self.batch}x{self.height}x{self.width}x{self.in_features}"
        window = f"{_pair(self.kernel_size, 'x', whole=True)} /{_pair(self.strides, 'x')}"
        if self.what == "conv":
            dilated = self.kernel_dilation != (1, 1)
            groups = self.feature_group_count
            return (
                f"{image} -> {self.out_features}, {window}"
                + (f", dilation {_pair(self.kernel_dilation, 'x')}" if dilated else "")
                + (f", {groups} groups" if groups > 1 else "")
            )
        if self.what in ("max_pool", "avg_pool"):
            return f"{image}, {NAMES[self.what]} {window}"
        return f"{image}, {self.name or NAMES[self.what]}"

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Window, channels of a group, output channels."""
        return (*self.kernel_size, self.in_features // self.feature_group_count, self.out_features)

    @property
    def output_size(self) -> Pair:
        """Height and width of the output."""
        if self.what == "global_avg_pool":
            return (1, 1)
        sizes = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                (self.height, self.width),
                self.kernel_size,
                self.strides,
                self.padding,
                self.kernel_dilation,
                strict=True,
            )
        ]
        return sizes[0], sizes[1]

    def flops(self, backward: bool) -> int:
        """Two for each product of a convolution; three times as many with both gradients."""
        if self.what != "conv":
            return 0
        products = self.batch * math.prod(self.output_size) * math.prod(self.kernel_shape)
        return 2 * products * (3 if backward else 1)

    def bytes(self, backward: bool) -> int:
        """Return what has to pass through the memory, if every array passes once.

        Forward: input and kernel in, output out. With the gradients, the output's cotangent in as
        well, and the gradients of input and kernel out: twice as much. The scale and bias of a norm
        count for nothing.
        """
        numbers = self.batch * self.height * self.width * self.in_features
        numbers += self.batch * math.prod(self.output_size) * self.out_features
        if self.what == "conv":
            numbers += math.prod(self.kernel_shape)
        return numbers * (2 if self.dtype == "bfloat16" else 4) * (2 if backward else 1)


@dataclasses.dataclass(frozen=True)
class Row:
    """A computation and where it stands."""

    network: str
    count: int
    """How often the network has it; 0 where nobody counted."""
    spec: Spec

    @property
    def text(self) -> str:
        """The layer as people write it, with its network."""
        return f"{self.network} {self.spec.text}"


def rows(batch_size: int, dtype: str) -> list[Row]:
    """Return every row, convolutions first."""
    layers = json.loads(Path(__file__).with_name("layers.json").read_text(encoding="utf-8"))
    return [parse(layer, batch_size, dtype) for layer in layers] + _others(batch_size, dtype)


def parse(layer: dict[str, Any], batch_size: int, dtype: str) -> Row:
    """Return the row of an entry of ``layers.json``."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in layer.items()
        if name not in ("network", "count")
    }
    network = layer["network"]
    batch = batch_size * SMALL.get(network, 1)
    return Row(network, layer["count"], Spec("conv", batch, dtype=dtype, **fields))


def _others(batch_size: int, dtype: str) -> list[Row]:
    def row(network: str, what: str, size: int, channels: int, **more: Any) -> Row:
        batch = batch_size * SMALL.get(network, 1)
        return Row(network, 0, Spec(what, batch, size, size, channels, channels, **more))

    made = [row(net, "batch_norm", n, c, dtype=dtype) for net, n, c in IMAGES]
    for what, pools in (("max_pool", MAX_POOLS), ("avg_pool", AVG_POOLS)):
        for net, n, c, k, s, p in pools:
            slide = {"kernel_size": (k, k), "strides": (s, s), "padding": (p, p)}
            made.append(row(net, what, n, c, dtype=dtype, **slide))
    made += [row(net, "global_avg_pool", n, c, dtype=dtype) for net, n, c in GLOBAL_POOLS]
    for name in ACTIVATIONS:
        made += [row(net, "activation", n, c, dtype=dtype, name=name) for net, n, c in IMAGES]
    return made


def _pair(pair: Pair, between: str, *, whole: bool = False) -> str:
    same = pair[0] == pair[1] and not whole
    return str(pair[0]) if same else between.join(map(str, pair))


def choose(
    networks: Sequence[str], kinds: Sequence[Kind], batch: int, dtype: str = "float32"
) -> list[Row]:
    """Return the rows of some networks, or of all if none is named, that are of some kinds.

    Raises:
      UsageError: if a network is unknown, the batch empty, or no row is left.
    """
    if batch < 1:
        raise lab.UsageError("--batch-size must be 1 or more.")
    every = rows(batch, dtype)
    known = {row.network for row in every}
    for name in networks:
        if name not in known:
            raise lab.UsageError(lab.unknown("network", name, known))
    chosen = [r for r in every if r.network in (networks or known) and r.spec.kind in kinds]
    if not chosen:
        raise lab.UsageError("none of these networks has layers of these kinds; choose others.")
    return chosen
