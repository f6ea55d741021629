"""What one call, or one argument, does for networks of other frameworks' own layers.

    python -m experiments bench-accelerate

Times the gradient of a loss: as the framework has it, by ``ops.accelerate``, and with layers of
Flax's that are given ``conv_general_dilated=convjax.ops.conv_general_dilated``. All alternate. The
networks: MobileNetV1 of ``flax.nnx``, ResNet-50 of ``flax.linen``, and MobileNetV2 of
``keras.applications`` on JAX, which needs Keras and is left out by ``--networks`` without it.

Takes about three minutes on two cores.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from rich.table import Table

from convjax import ops
from experiments.benchmarks import _report, benchmark, flax_networks, keras_networks
from experiments.benchmarks.timing import alternate, median

main = partial(benchmark.run, __name__)
Name = Literal["mobilenet_v1", "resnet_50", "keras_mobilenet_v2"]
TITLES = {
    "mobilenet_v1": "MobileNetV1, Flax NNX",
    "resnet_50": "ResNet-50, Flax Linen",
    "keras_mobilenet_v2": "MobileNetV2, Keras",
}
SIZES = {"mobilenet_v1": 96, "resnet_50": 64, "keras_mobilenet_v2": 96}
COLUMNS = ("as it is", "accelerated", "convjax's argument")


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Options):
    """Options."""

    networks: tuple[Name, ...] = ("mobilenet_v1", "resnet_50")
    """Which of them."""
    batch_size: int = 16
    """Images in the batch."""
    size: int | None = None
    """Their height and width; without it, each network's own."""
    units: int = 16
    """How many of Flax's networks' units, at most."""


def measure(config: Config) -> dict[str, Any]:
    """Return a row for each network: medians and samples by name."""
    todo = benchmark.one_by_one(list(dict.fromkeys(config.networks)), TITLES.__getitem__)
    return {"rows": [measured(name, config) for name in todo]}


def measured(name: Name, config: Config) -> dict[str, Any]:
    """Return a network's row."""
    plain, accelerated, argument = COLUMNS
    functions = {
        plain: gradient(name, config),
        accelerated: gradient(name, config, by=ops.accelerate),
    }
    if name in GRADIENTS:
        given: dict[str, Any] = {"conv_general_dilated": ops.conv_general_dilated}
        functions[argument] = gradient(name, config, **given)
    samples = alternate(functions, repeats=config.repeats)
    medians = {column: median(times) for column, times in samples.items()}
    return {"network": name, "seconds": medians, "samples": samples}


def gradient(
    name: Name, config: Config, by: Callable[[Any], Any] = lambda step: step, **options: Any
) -> Callable[[], Any]:
    """Return the gradient of a network's loss in its parameters, compiled when first run.

    Args:
      name: of the network.
      config: the options.
      by: what makes another function of it.
      **options: of Flax's convolutions.
    """
    size = config.size or SIZES[name]
    x = jax.random.normal(jax.random.key(1), (config.batch_size, size, size, 3))
    made = GRADIENTS[name](config.units, x, options) if name in GRADIENTS else of_keras(size)
    loss, params = made
    return partial(by(jax.jit(jax.grad(loss))), params, x)


def of_nnx(units: int, x: jax.Array, options: dict[str, Any]) -> tuple[Callable[..., Any], Any]:
    """Return MobileNetV1's mean square as a function of parameters and images, and parameters."""
    net = flax_networks.MobileNet(units, nnx.Rngs(0), **options)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(nnx.merge(graphdef, params, rest, copy=True)(x)))

    return loss, params


def of_linen(units: int, x: jax.Array, options: dict[str, Any]) -> tuple[Callable[..., Any], Any]:
    """Return ResNet-50's mean square as a function of parameters and images, and parameters."""
    net = flax_networks.ResNet(units, options)
    variables = jax.jit(net.init)(jax.random.key(0), x)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        given = {**variables, "params": params}
        return jnp.mean(jnp.square(net.apply(given, x, mutable=["batch_stats"])[0]))

    return loss, variables["params"]


def of_keras(size: int) -> tuple[Callable[..., Any], Any]:
    """Return Keras's MobileNetV2's mean square as a function of parameters and images, and them."""
    keras_networks.import_keras().utils.set_random_seed(0)
    net = keras_networks.network("mobilenet_v2", size)
    rest = [variable.value for variable in net.non_trainable_variables]

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(net.stateless_call(params, rest, x, training=True)[0]))

    return loss, [variable.value for variable in net.trainable_variables]


GRADIENTS = {"mobilenet_v1": of_nnx, "resnet_50": of_linen}


def tables(found: dict[str, Any], config: Config) -> Iterator[Table | str]:
    """Yield the times, and how many times as fast the others are as the first."""

    def time(row: dict[str, Any], column: str) -> float | None:
        return _report.milliseconds(row["seconds"].get(column))

    def faster(row: dict[str, Any], column: str) -> float | None:
        plain, other = row["seconds"][COLUMNS[0]], row["seconds"].get(column)
        return other and plain / other

    yield _report.table(
        f"A gradient (ms) of a batch of {config.batch_size}, and how many times as fast",
        found["rows"],
        ("network", lambda row: TITLES[row["network"]]),
        *((column, partial(time, column=column)) for column in COLUMNS),
        *((f"times: {column}", partial(faster, column=column)) for column in COLUMNS[1:]),
    )
