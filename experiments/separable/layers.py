"""Layers that stand in for a full convolution: what they count, what they take, what they move."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import jax
from flax import nnx

from convjax import cost, nn
from experiments.benchmarks.computations import compiled
from experiments.benchmarks.timing import alternate

FULL, SPLIT, DEEP, DEEP_SPLIT = "full", "split", "depthwise", "depthwise, split"
POINT, PAIR, NECK = "pointwise", "pair", "bottleneck"
LAYERS = (FULL, SPLIT, DEEP, DEEP_SPLIT, POINT, PAIR, NECK)
NARROWER = 4

COMPARED = {SPLIT: FULL, DEEP_SPLIT: DEEP, DEEP: POINT, POINT: FULL, PAIR: FULL, NECK: FULL}
"""What each is compared with."""

DIRECTIONS = {"forward": False, "with gradients": True}
PLACE = ("size", "channels", "kernel_size")
COUNTS = ("multiply_adds", "parameters", "traffic_bytes")


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer on one image: as many channels out as in."""

    layer: str
    size: int
    channels: int
    kernel_size: int

    @property
    def place(self) -> dict[str, int]:
        """Where it is measured."""
        return {axis: getattr(self, axis) for axis in PLACE}


def leaves(layer: str, channels: int, k: int, rngs: nnx.Rngs) -> dict[str, nnx.Module]:
    """Return a layer's convolutions in order, k x k where they have a window."""
    full, deep, point = nn.Conv, nn.DepthwiseConv, nn.PointwiseConv
    wide, narrow = channels, channels // NARROWER
    made: dict[str, dict[str, tuple[Any, ...]]] = {
        FULL: {"conv": (full, wide, wide, (k, k))},
        SPLIT: {"column": (full, wide, wide, (k, 1)), "row": (full, wide, wide, (1, k))},
        DEEP: {"depthwise": (deep, wide, (k, k))},
        DEEP_SPLIT: {"column": (deep, wide, (k, 1)), "row": (deep, wide, (1, k))},
        POINT: {"pointwise": (point, wide, wide)},
        PAIR: {"depthwise": (deep, wide, (k, k)), "pointwise": (point, wide, wide)},
        NECK: {
            "reduce": (point, wide, narrow),
            "conv": (full, narrow, narrow, (k, k)),
            "expand": (point, narrow, wide),
        },
    }
    how: dict[str, Any] = {"use_bias": False, "kernel_init": "he", "rngs": rngs}
    return {name: kind(*given, **how) for name, (kind, *given) in made[layer].items()}


def said(layer: str, channels: int, k: int) -> Fraction:
    """Return the share of multiply-adds, and of weights, that texts give for a layer.

    It is that of what the layer is compared with in ``COMPARED``.
    """
    window, narrower = Fraction(k * k), Fraction(1, NARROWER)
    return {
        SPLIT: Fraction(2, k),
        DEEP_SPLIT: Fraction(2, k),
        DEEP: window / channels,
        POINT: 1 / window,
        PAIR: Fraction(1, channels) + 1 / window,
        NECK: 2 * narrower / window + narrower**2,
    }[layer]


def cases(
    sizes: Sequence[int], channels: Sequence[int], kernel_sizes: Sequence[int]
) -> Iterator[list[Case]]:
    """Yield the layers that are measured together: those of one image and one window."""
    for (size, wide), k in itertools.product(zip(sizes, channels, strict=True), kernel_sizes):
        yield [Case(layer, size, wide, k) for layer in LAYERS]


def counted(case: Case, batch_size: int) -> dict[str, int]:
    """Return ``COUNTS``; what lies between two convolutions is written and read."""
    net = nnx.eval_shape(lambda: network(case))
    priced = cost(net, (batch_size, case.size, case.size, case.channels))
    return {name: getattr(priced.total, name) for name in COUNTS}


def network(case: Case) -> nn.Chain:
    """Return a case's layer alone."""
    return nn.Chain(leaves(case.layer, case.channels, case.kernel_size, nnx.Rngs(0)))


def timed(
    groups: Sequence[Sequence[Case]], batch_size: int, repeats: int
) -> Iterator[tuple[Case, str, list[float]]]:
    """Yield the seconds of every case in every round, by direction; a group alternates.

    Everything is compiled before anything is timed.
    """
    kinds = [list(itertools.product(group, DIRECTIONS)) for group in groups]
    ready = [{kind: _call(*kind, batch_size) for kind in group} for group in kinds]
    for calls in ready:
        # Ratios are taken round by round, so that a slow moment must not end a layer's rounds.
        named = {str(key): call for key, call in calls.items()}
        samples = alternate(named, repeats=repeats, min_seconds=0.01, slow_seconds=math.inf)
        for (case, direction), seconds in zip(calls, samples.values(), strict=True):
            yield case, direction, seconds


def _call(case: Case, direction: str, batch_size: int) -> Any:
    """Return what is timed, run once."""
    graphdef, params = nnx.split(network(case))
    kernels, tree = jax.tree.flatten(params)
    shape = (batch_size, case.size, case.size, case.channels)
    x = jax.random.normal(jax.random.key(1), shape)

    def function(x: jax.Array, *kernels: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, jax.tree.unflatten(tree, kernels))(x)

    call = compiled(function, (x, *kernels), DIRECTIONS[direction])
    jax.block_until_ready(call())
    return call
