"""What one argument does for a network of Flax's own layers.

    python -m experiments bench-drop-in

Builds MobileNet's body of ``flax.nnx.Conv`` and ``flax.nnx.BatchNorm``, once as Flax has it and
once with ``conv_general_dilated=convjax.ops.conv_general_dilated``, and times the gradient of its
loss, both alternating. Saves the times as JSON.

Takes about a minute on two cores.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from convjax import lab, ops, study
from experiments.benchmarks import _report
from experiments.benchmarks.timing import alternate, median

# Howard et al. 2017, "MobileNets", table 1: features and stride of every separable convolution.
UNITS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2))
UNITS += ((1024, 1),)
STEM = "bench_drop_in"


@dataclasses.dataclass(frozen=True)
class Config(lab.CommandOptions):
    """Options."""

    batch_size: int = 16
    """Images in the batch."""
    size: int = 96
    """Their height and width."""
    units: int = len(UNITS)
    """How many of the separable convolutions."""
    repeats: int = 7
    """Runs of each; the median counts."""
    keep_memory: bool = True
    """Whether the process keeps the memory that it frees (convjax.study.keep_memory)."""
    out: Path = Path("results/bench-drop-in")
    """Folder for the numbers; it is made if it is not there."""


class MobileNet(nnx.Module):
    """MobileNetV1's convolutions, of Flax's layers."""

    def __init__(self, units: int, rngs: nnx.Rngs, **options: Any):
        features = 32
        self.stem = nnx.Conv(3, features, (3, 3), strides=2, rngs=rngs, **options)
        layers: list[Any] = []
        for outputs, stride in UNITS[:units]:
            depthwise = nnx.Conv(
                features,
                features,
                (3, 3),
                strides=stride,
                feature_group_count=features,
                use_bias=False,
                rngs=rngs,
                **options,
            )
            pointwise = nnx.Conv(features, outputs, (1, 1), use_bias=False, rngs=rngs, **options)
            layers += [depthwise, nnx.BatchNorm(features, rngs=rngs), jax.nn.relu]
            layers += [pointwise, nnx.BatchNorm(outputs, rngs=rngs), jax.nn.relu]
            features = outputs
        self.body = nnx.Sequential(*layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the last features' means, (batch, features)."""
        return jnp.mean(self.body(self.stem(x)), (1, 2))


def main(argv: Sequence[str]) -> int:
    """Run the benchmark from the command line and return the exit code."""
    about, _, _ = (__doc__ or "").partition("\n")
    config = lab.parse(Config, argv, command="python -m experiments bench-drop-in", about=about)
    if config.keep_memory:
        study.keep_memory()
    lab.use_platform(config.platform)
    with lab.refusing():
        study.check_writable(config.out)
    samples = alternate(
        {
            "Flax": gradient(config),
            "Flax with convjax": gradient(config, conv_general_dilated=ops.conv_general_dilated),
        },
        repeats=config.repeats,
    )
    seconds = {name: median(times) for name, times in samples.items()}
    lines = [[name, _report.milliseconds(time)] for name, time in seconds.items()]
    title = f"Gradient of MobileNetV1, batch {config.batch_size}, {config.size}x{config.size}"
    _report.console().print(_report.table(title, ["", "ms"], lines))
    first, second = seconds.values()
    print(f"{_report.number(first / second)} times as fast")
    path = config.out / f"{STEM}.json"
    _report.save_json(path, rows=[{"seconds": seconds, "samples": samples}], config=config)
    print(path)
    return 0


def gradient(config: Config, **options: Any) -> Callable[[], Any]:
    """Return the gradient of the mean square of the network's outputs, compiled when first run."""
    net = MobileNet(config.units, nnx.Rngs(0), **options)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    x = jax.random.normal(jax.random.key(1), (config.batch_size, config.size, config.size, 3))

    @jax.jit
    def compute(params: Any, x: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.mean(jnp.square(nnx.merge(graphdef, params, rest, copy=True)(x)))

        return jax.grad(loss)(params)

    return lambda: compute(params, x)
