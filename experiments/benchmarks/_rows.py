"""What bench-ops measures: the layers of eight networks, from ``layers.json`` and from here."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

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
POOLS = (
    ("max_pool", "resnet50", 112, 64, 3, 2, 1),
    ("max_pool", "legacy_xception", 147, 128, 3, 2, 1),
    ("max_pool", "legacy_xception", 37, 728, 3, 2, 1),
    ("max_pool", "inception_v3", 35, 288, 3, 2, 0),
    ("avg_pool", "inception_v3", 35, 256, 3, 1, 1),
    ("avg_pool", "inception_v3", 17, 768, 3, 1, 1),
)
GLOBAL_POOLS = (("resnet50", 7, 2048), ("mobilenetv1_100", 7, 1024), ("cifar_resnet", 8, 64))
ACTIVATIONS = ("relu", "relu6", "gelu", "silu")


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
        if self.what != "conv":
            other: dict[str, Kind] = {"activation": "activation", "batch_norm": "norm"}
            return other.get(self.what, "pool")
        if self.feature_group_count > 1:
            return "depthwise" if self.feature_group_count == self.in_features else "grouped"
        return "pointwise" if self.kernel_size == (1, 1) else "dense"

    @property
    def text(self) -> str:
        """The layer as people write it."""
        image = f"{self.batch}x{self.height}x{self.width}x{self.in_features}"
        window = f"{self.kernel_size[0]}x{self.kernel_size[1]} /{_pair(self.strides)}"
        if self.what != "conv":
            name = self.name or self.what.replace("avg", "average").replace("_", " ")
            return f"{image}, {name} {window}" if self.what[3:] == "_pool" else f"{image}, {name}"
        text = f"{image} -> {self.out_features}, {window}"
        if self.kernel_dilation != (1, 1):
            text += f", dilation {_pair(self.kernel_dilation)}"
        if self.feature_group_count > 1:
            text += f", {self.feature_group_count} groups"
        return text

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Window, channels of a group, output channels."""
        return (*self.kernel_size, self.in_features // self.feature_group_count, self.out_features)

    @property
    def output_size(self) -> tuple[int, ...]:
        """Height and width of the output."""
        if self.what == "global_avg_pool":
            return (1, 1)
        window = (self.kernel_size, self.strides, self.padding, self.kernel_dilation)
        sides = zip((self.height, self.width), *window, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides)

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


def _pair(pair: Pair) -> str:
    return "x".join(dict.fromkeys(map(str, pair)))


class Row(NamedTuple):
    """A computation, where it stands, and how often; 0 where nobody counted."""

    network: str
    count: int
    spec: Spec

    @property
    def text(self) -> str:
        """The layer as people write it, with its network."""
        return f"{self.network} {self.spec.text}"


def rows(batch_size: int, dtype: str) -> list[Row]:
    """Return every row, convolutions first."""
    made = []
    for entry in _entries():
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in entry.items()
        }
        network, count = fields.pop("network"), fields.pop("count")
        batch = batch_size * SMALL.get(network, 1)
        made.append(Row(network, count, Spec(batch=batch, dtype=dtype, **fields)))
    return made


def _entries() -> Iterator[dict[str, Any]]:
    for layer in json.loads(Path(__file__).with_name("layers.json").read_text(encoding="utf-8")):
        yield {"what": "conv", **layer}

    def other(what: str, network: str, size: int, channels: int, **more: Any) -> dict[str, Any]:
        image = {"height": size, "width": size, "in_features": channels, "out_features": channels}
        return {"what": what, "network": network, "count": 0, **image, **more}

    for image in IMAGES:
        yield other("batch_norm", *image)
    for what, network, size, channels, k, s, p in POOLS:
        window = {"kernel_size": (k, k), "strides": (s, s), "padding": (p, p)}
        yield other(what, network, size, channels, **window)
    for image in GLOBAL_POOLS:
        yield other("global_avg_pool", *image)
    for name in ACTIVATIONS:
        for image in IMAGES:
            yield other("activation", *image, name=name)


def choose(
    networks: Sequence[str], kinds: Sequence[Kind], batch: int, dtype: str = "float32"
) -> list[Row]:
    """Return the rows of some networks, or of all if none is named, that are of some kinds.

    Raises:
      ValueError: if a network is unknown, the batch empty, or no row is left.
    """
    if batch < 1:
        raise ValueError(f"batch_size={batch} must be at least 1")
    every = rows(batch, dtype)
    known = {row.network for row in every}
    for name in networks:
        if name not in known:
            raise ValueError(lab.unknown("network", name, known))
    chosen = [r for r in every if r.network in (networks or known) and r.spec.kind in kinds]
    if not chosen:
        raise ValueError("none of these networks has layers of these kinds; choose others.")
    return chosen
