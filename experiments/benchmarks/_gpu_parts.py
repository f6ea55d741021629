"""The parts of ``bench-gpu``, each a row after the other, and the sizes of what they measure."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from flax import nnx

import convjax
from convjax import gradflow, lab, models
from experiments import gradient_norms
from experiments.benchmarks import _right, networks
from experiments.benchmarks._peer import Peer
from experiments.benchmarks._results import DIRECTIONS
from experiments.benchmarks._rows import Spec
from experiments.benchmarks.computations import bound, by_convjax, by_lax, compiled, inputs
from experiments.benchmarks.models import CASES, Case, convjax_training, torch_spec
from experiments.benchmarks.profile import Both, compiled_anew, profile_and_gradient
from experiments.benchmarks.timing import alternate, comparison, median, pairs, seconds

DTYPES = ("float32", "bfloat16")
Task = tuple[str, Callable[[], dict[str, Any]]]
"""A row to be measured: what it is, and what measures it."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured."""

    channels: int  # of the operations that are held against float64
    every: int  # n-th of these operations
    layers: tuple[Spec, ...]
    cases: tuple[Case, ...]
    profiled: tuple[int, int, int]  # images in a batch, layers, height and width
    depth: int
    norms: gradient_norms.Config


def _layers(batch: int) -> Iterator[Spec]:
    """Yield one layer of each kind, then another of each."""
    conv = functools.partial(Spec, "conv", batch)
    wide: dict[str, Any] = {"kernel_size": (3, 3), "padding": (1, 1)}
    yield conv(56, 56, 128, 128, **wide, feature_group_count=128)  # MobileNetV1
    yield conv(56, 56, 64, 256)  # ResNet-50
    yield conv(56, 56, 64, 64, **wide)  # ResNet-50
    yield conv(56, 56, 128, 128, **wide, feature_group_count=32)  # ResNeXt-50
    yield Spec("batch_norm", batch, 56, 56, 256, 256)
    yield conv(56, 56, 96, 96, (7, 7), padding=(3, 3), feature_group_count=96)  # ConvNeXt
    yield conv(14, 14, 96, 576)  # MobileNetV2
    yield conv(14, 14, 256, 256, **wide)  # ResNet-50
    yield conv(14, 14, 512, 512, **wide, feature_group_count=32)  # ResNeXt-50
    yield Spec("batch_norm", batch, 14, 14, 1024, 1024)


FULL = Sizes(
    channels=64,
    every=1,
    layers=tuple(_layers(64)),
    cases=tuple(
        dataclasses.replace(CASES[name], batch=64, size=224)
        for name in ("resnet_50", "mobilenet_v2")
    ),
    profiled=(256, 56, 32),
    depth=10_000,
    norms=gradient_norms.Config(depths=(56,), data="gaussian"),
)
SMALL = Sizes(
    channels=8,
    every=11,
    layers=tuple(dataclasses.replace(s, height=8, width=8) for s in list(_layers(1))[:5]),
    cases=(Case("resnet_8", "ResNet-8", networks.resnet_8, 8, 2),),
    profiled=(2, 8, 8),
    depth=20,
    norms=gradient_norms.Config(
        depths=(6,), seeds=1, steps=1, norms=("none",), shortcuts=("none",), data="gaussian"
    ),
)


@dataclasses.dataclass(frozen=True)
class Bench:
    """What every part is given."""

    sizes: Sizes
    repeats: int
    peer: Peer | None
    rates: Callable[[str], dict[str, float]]  # of the device, by dtype

    def timed(self, here: Mapping[str, Any], elsewhere: Mapping[str, Any]) -> dict[str, Any]:
        """Return the samples and medians of functions and of PyTorch, or why it has none."""
        failed = {}
        measure = functools.partial(alternate, here, repeats=self.repeats)
        try:
            samples = measure(elsewhere=elsewhere)
        except lab.UsageError as error:
            samples, failed = measure(), {"torch_error": str(error)}
        seconds = {name: median(times) for name, times in samples.items()}
        return {"seconds": seconds, "samples": samples, **failed}

    def torch(self, spec: Mapping[str, Any], backward: bool, **how: bool) -> dict[str, Any]:
        """Return PyTorch's timer, where there is a PyTorch."""
        if self.peer is None:
            return {}
        (timer,) = self.peer.timers(spec, backward, ["channels_last"], **how).values()
        return {"torch": timer}


def right(bench: Bench) -> Iterator[Task]:
    """Hold every operation against float64 on the host."""

    def task(case: _right.Case) -> dict[str, Any]:
        errors = _right.errors(case)
        return {"errors": errors, "holds": all(e <= _right.ALLOWED[n] for n, e in errors.items())}

    for name, case in list(_right.cases(bench.sizes.channels).items())[:: bench.sizes.every]:
        yield name, functools.partial(task, case)


def layers(bench: Bench) -> Iterator[Task]:
    """Time layers, with gradients first, by convjax, lax and PyTorch."""

    def task(spec: Spec, direction: str) -> dict[str, Any]:
        backward, arguments = DIRECTIONS[direction], inputs(spec)
        functions = {"auto": by_convjax(spec)}
        if spec.is_convolution:
            functions["lax"] = by_lax(spec)
        here = {name: compiled(f, arguments, backward) for name, f in functions.items()}
        found = bench.timed(here, bench.torch(dataclasses.asdict(spec), backward))
        about = {"kind": spec.kind, "layer": spec.text, "dtype": spec.dtype, "direction": direction}
        least = bound(spec, backward, bench.rates(spec.dtype))
        return {**about, **found, "bound_seconds": least}

    for direction in ("fb", "f"):
        for spec in bench.sizes.layers:
            for dtype in DTYPES:
                told = f"{spec.text}, {dtype}, {direction}"
                one = dataclasses.replace(spec, dtype=dtype)
                yield told, functools.partial(task, one, direction)


def steps(bench: Bench) -> Iterator[Task]:
    """Time whole training steps by convjax, lax and PyTorch."""

    def task(case: Case, dtype: str) -> dict[str, Any]:
        net = case.build(rngs=nnx.Rngs(0))
        start = nnx.split(net, nnx.Param, ...)
        here = {name: convjax_training(case, start, name, dtype) for name in ("auto", "lax")}
        found = bench.timed(here, bench.torch(torch_spec(case, dtype=dtype), True))
        # Forward, and as much again for each of the two gradients.
        flops = 6 * convjax.cost(net, case.shape).multiply_adds
        least = flops / bench.rates(dtype)["flops_per_s"]
        return {**_about(case, dtype), **found, "bound_seconds": least}

    yield from _for_every_step(bench, task)


def compiled_steps(bench: Bench) -> Iterator[Task]:
    """Time PyTorch's training steps through ``torch.compile``."""

    def task(case: Case, dtype: str) -> dict[str, Any]:
        timer = bench.torch(torch_spec(case, dtype=dtype), True, compiled=True)
        samples = alternate({}, repeats=bench.repeats, elsewhere=timer)
        return {**_about(case, dtype), "seconds": {"compiled": median(samples["torch"])}}

    if bench.peer is not None:
        yield from _for_every_step(bench, task)


def _about(case: Case, dtype: str) -> dict[str, Any]:
    return {"network": case.title, "batch": case.batch, "size": case.size, "dtype": dtype}


def _for_every_step(bench: Bench, task: Callable[[Case, str], dict[str, Any]]) -> Iterator[Task]:
    """Yield each network and dtype, so that the first few are of every network and dtype."""
    for turn in range(len(DTYPES)):
        for i, case in enumerate(bench.sizes.cases):
            dtype = DTYPES[(i + turn) % len(DTYPES)]
            yield f"{case.title}, {dtype}", functools.partial(task, case, dtype)


def profile(bench: Bench) -> Iterator[Task]:
    """Compare a gradient profile with the plain gradient, run and compiled."""
    batch, depth, size = bench.sizes.profiled

    @functools.cache
    def both() -> Both:
        return profile_and_gradient(batch, depth, size)

    def once() -> dict[str, Any]:
        # What else is done once in a process has been, by the row before.
        profiled, plain = compiled_anew(*both())
        return comparison(first, [(seconds(profiled), seconds(plain))])

    what = f"profile of ResNet-{depth}, batch {batch}x{size}x{size} / its gradient"
    run, first = f"{what}, run", f"{what}, trace, compile and run"
    yield run, lambda: comparison(run, pairs(*both(), bench.repeats))
    yield first, once


def deep(bench: Bench) -> Iterator[Task]:
    """Profile stacks so deep that a plain gradient is 0 or infinite."""
    depth = bench.sizes.depth

    def task(shortcut: str) -> dict[str, Any]:
        net = models.deep_stack(depth, 16, shortcut=shortcut, rngs=nnx.Rngs(0))
        x = jax.random.normal(jax.random.key(1), (2, 8, 8, 16))
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            found = gradflow.profile(net, x, cotangent=jax.random.key(2), train=True)
            found.check()
            seconds.append(time.perf_counter() - start)
        logs = found.table()["gradient_log_norm"]
        growth = float(logs[0] - logs[-1])
        return {"shortcut": shortcut, "depth": depth, "seconds": seconds, "growth": growth}

    for shortcut in ("none", "identity"):
        yield f"depth {depth}, shortcut {shortcut}", functools.partial(task, shortcut)


def norms(bench: Bench) -> Iterator[Task]:
    """Run the experiment gradient-norms to its verdict."""
    measured: list[lab.Columns] = []

    def cell(networks: gradient_norms.Networks) -> dict[str, Any]:
        measured.append(gradient_norms.measure(networks))
        return {"measurements": len(measured[-1]["order"])}

    def verdict() -> dict[str, Any]:
        found = gradient_norms.judge(lab.joined(measured))
        return {"criteria": [dataclasses.asdict(criterion) for criterion in found]}

    for networks_ in gradient_norms.cells(bench.sizes.norms):
        yield str(networks_), functools.partial(cell, networks_)
    yield "verdict", verdict


# By when, as a share of the time, a part must have made room for the next.
PARTS: dict[str, tuple[float, Callable[[Bench], Iterator[Task]]]] = {
    "right": (0.22, right),
    "layers": (0.45, layers),
    "steps": (0.7, steps),
    "profile": (0.79, profile),
    "deep": (0.85, deep),
    "gradient-norms": (0.97, norms),
    "PyTorch compiled": (1.0, compiled_steps),
}
