"""What a gradient profile costs, in ratios against a plain gradient in the same run.

    python -m experiments bench-profile

Four comparisons: a profile of ResNet-56 against the gradient of its loss with respect to its
parameters and images; the first profile of a process, with its compilation, against the first such
gradient; compiling a profile of depth 10,000 against one of depth 100, plain and residual; and
the gradient through a scan of convolutions by ``convjax.ops.conv`` against the same by ``jax.lax``.
Everything alternates within one run.

Takes some five minutes on two cores.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from rich.table import Table

from convjax import gradflow, lab, models
from experiments.benchmarks import _report, benchmark
from experiments.benchmarks._rows import Spec
from experiments.benchmarks.computations import by_convjax, by_lax
from experiments.benchmarks.networks import loss_of
from experiments.benchmarks.timing import comparison, pairs

FIRST = (("resnet50", 64), ("mobilenetv2_100", 96))
"""Networks whose first profile is timed, and the size of their images."""
CONV = Spec("conv", 32, 32, 32, 16, 16, kernel_size=(3, 3), padding=(1, 1))
main = partial(benchmark.run, __name__)


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Options):
    """Options."""

    depth: int = 56
    """Depth of the ResNet for CIFAR."""
    batch_size: int = 64
    """Images of 32x32 in its batch."""
    deep: int = 10_000
    """Depth of the deep stack."""
    shallow: int = 100
    """Depth that it is compared with."""


def measure(config: Config) -> dict[str, Any]:
    """Return a row for each comparison."""
    what = f"profile of ResNet-{config.depth}, batch {config.batch_size} / its gradient"
    both = profile_and_gradient(config.batch_size, config.depth)
    rows = [comparison(what, pairs(*both, config.repeats))]
    few = min(3, config.repeats)
    for name, size in FIRST:
        what = f"first profile of {name}, {size}x{size}, batch 4 / its first gradient"
        rows.append(comparison(what, pairs(*first_profile_and_gradient(name, size), few)))
    for shortcut in ("none", "identity"):
        deep, shallow = (compile_profile(d, shortcut) for d in (config.deep, config.shallow))
        what = f"compiling a profile of depth {config.deep} / of {config.shallow}, shortcut "
        rows.append(comparison(what + shortcut, pairs(deep, shallow, few)))
    what = "gradient through a scan of six 3x3 convolutions, ops.conv / lax"
    ours, theirs = (scanned_convolutions(conv) for conv in (by_convjax(CONV), by_lax(CONV)))
    return {"rows": [*rows, comparison(what, pairs(ours, theirs, config.repeats))]}


Both = tuple[Callable[[], Any], Callable[[], Any]]


def profile_and_gradient(batch_size: int, depth: int = 56, size: int = 32) -> Both:
    """Return a profile of a ResNet for CIFAR, with all that it holds, and its plain gradient."""
    return _both(models.resnet_cifar(depth, rngs=nnx.Rngs(0)), size, batch_size, 10)


def first_profile_and_gradient(name: str, size: int) -> Both:
    """Return the same two of another network, compiled anew each time."""
    return compiled_anew(*_both(models.create(name, rngs=nnx.Rngs(0)), size, 4, 1000))


def compiled_anew(first: Callable[[], Any], second: Callable[[], Any]) -> Both:
    """Return the same two, each after all that is compiled has been forgotten."""

    def anew(run: Callable[[], Any]) -> Any:
        jax.clear_caches()
        return run()

    return partial(anew, first), partial(anew, second)


def _both(net: nnx.Module, size: int, batch_size: int, classes: int) -> tuple[Any, Any]:
    images = jax.random.normal(jax.random.key(1), (batch_size, size, size, 3))
    labels = jnp.arange(batch_size) % classes
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    loss = loss_of(graphdef)

    def of(params: Any, images: jax.Array) -> jax.Array:
        return loss(params, rest, images, labels)[0]

    gradient = jax.jit(jax.value_and_grad(of, (0, 1)))

    def profile() -> Any:
        return gradflow.profile(net, images, loss=lab.cross_entropy, targets=labels, train=True)

    return profile, partial(gradient, params, images)


def compile_profile(depth: int, shortcut: str) -> Callable[[], None]:
    """Return what traces, lowers and compiles a profile of a stack."""
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 16))
    build = partial(models.deep_stack, depth, 16, shortcut=shortcut)
    shapes = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))

    def run() -> None:
        # A function of its own each time, so that nothing is found in a cache.
        def measure(net: Any, x: jax.Array) -> Any:
            return gradflow.profile(net, x, cotangent=jax.random.key(2), train=True)

        jax.jit(measure).lower(shapes, x).compile()

    return run


def scanned_convolutions(conv: Callable[..., jax.Array]) -> Callable[[], Any]:
    """Return the gradient through a scan of 3x3 convolutions."""
    x = jax.random.normal(jax.random.key(1), (32, 32, 32, 16))
    kernels = jax.random.normal(jax.random.key(2), (6, 3, 3, 16, 16)) / 12

    def loss(x: jax.Array, kernels: jax.Array) -> jax.Array:
        return jnp.sum(jax.lax.scan(lambda x, k: (jnp.tanh(conv(x, k)), None), x, kernels)[0])

    return partial(jax.jit(jax.grad(loss, (0, 1))), x, kernels)


def tables(found: dict[str, Any], config: Config) -> Iterator[Table]:
    """Yield all comparisons."""
    yield _report.comparisons("A gradient profile", found["rows"])
