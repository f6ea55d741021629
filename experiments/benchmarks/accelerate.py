"""What one call, or one argument, does for a network of Flax's own layers.

    python -m experiments bench-accelerate

Builds MobileNet's body of ``flax.nnx.Conv`` and ``flax.nnx.BatchNorm``, and times the gradient of
its loss: as Flax has it, by ``ops.accelerate``, and with layers that are given
``conv_general_dilated=convjax.ops.conv_general_dilated``. All alternate.

Takes about a minute on two cores.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from rich.table import Table

from convjax import ops
from experiments.benchmarks import _report, benchmark
from experiments.benchmarks.timing import alternate, median

# Howard et al. 2017, "MobileNets", table 1: features and stride of every separable convolution.
UNITS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2))
UNITS += ((1024, 1),)
main = partial(benchmark.run, __name__)


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Options):
    """Options."""

    batch_size: int = 16
    """Images in the batch."""
    size: int = 96
    """Their height and width."""
    units: int = len(UNITS)
    """How many of the separable convolutions."""


class MobileNet(nnx.Module):
    """MobileNetV1's convolutions, of Flax's layers."""

    def __init__(self, units: int, rngs: nnx.Rngs, **options: Any):
        features = 32
        self.stem = nnx.Conv(3, features, (3, 3), strides=2, rngs=rngs, **options)
        options |= {"use_bias": False, "rngs": rngs}
        layers: list[Any] = []
        for outputs, stride in UNITS[:units]:
            depthwise = {"strides": stride, "feature_group_count": features, **options}
            layers.append(nnx.Conv(features, features, (3, 3), **depthwise))
            layers += [nnx.BatchNorm(features, rngs=rngs), jax.nn.relu]
            layers.append(nnx.Conv(features, outputs, (1, 1), **options))
            layers += [nnx.BatchNorm(outputs, rngs=rngs), jax.nn.relu]
            features = outputs
        self.body = nnx.Sequential(*layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the last features' means, (batch, features)."""
        return jnp.mean(self.body(self.stem(x)), (1, 2))


def measure(config: Config) -> dict[str, Any]:
    """Return one row: medians and samples by name."""
    functions = {
        "Flax": gradient(config),
        "Flax, accelerated": gradient(config, by=ops.accelerate),
        "Flax with convjax": gradient(config, conv_general_dilated=ops.conv_general_dilated),
    }
    samples = alternate(functions, repeats=config.repeats)
    medians = {name: median(times) for name, times in samples.items()}
    return {"rows": [{"seconds": medians, "samples": samples}]}


def gradient(
    config: Config, by: Callable[[Any], Any] = lambda step: step, **options: Any
) -> Callable[[], Any]:
    """Return the gradient of the mean square of the network's outputs, compiled when first run.

    Args:
      config: the options.
      by: what makes another function of it.
      **options: of the network's convolutions.
    """
    net = MobileNet(config.units, nnx.Rngs(0), **options)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    x = jax.random.normal(jax.random.key(1), (config.batch_size, config.size, config.size, 3))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(nnx.merge(graphdef, params, rest, copy=True)(x)))

    return partial(by(jax.jit(jax.grad(loss))), params, x)


def tables(found: dict[str, Any], config: Config) -> Iterator[Table | str]:
    """Yield the times, and how many times as fast the others are as the first."""
    seconds = found["rows"][0]["seconds"]
    title = f"Gradient of MobileNetV1, batch {config.batch_size}, {config.size}x{config.size}"
    columns = ("", lambda name: name), ("ms", lambda name: _report.milliseconds(seconds[name]))
    yield _report.table(title, seconds, *columns)
    first, *others = seconds.values()
    faster = " and ".join(_report.number(first / other) for other in others)
    yield f"{faster} times as fast"
