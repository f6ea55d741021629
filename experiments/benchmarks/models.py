"""How long a whole training step takes, against plain lax, Keras and PyTorch.

    python -m experiments bench-models --torch-python /path/to/a/python/with/torch

A step is forward in train mode, mean cross-entropy, backward, stochastic gradient descent with
momentum, and the update of the batch statistics; the networks are MobileNetV1, MobileNetV2,
ResNet-50, Xception, and ResNet-56 for CIFAR, in float32, and those that ``--networks`` names:
Inception v3, EfficientNet-B0 and ConvNeXt-Tiny as well. convjax lowers its convolutions as it
sees fit; beside it stand the same expression on ``jax.lax``'s convolutions, Keras on its JAX
backend, and PyTorch with timm, in a process of its own, channels_last and contiguous, of which the
faster counts, and through ``torch.compile``, which needs a compiler of C++, where ``--versus``
says so. Everything alternates within one run; times are medians, ratios are of medians.

Takes some ten minutes on two cores, most of them for compiling, lax and Keras; for a look at it,
``--networks mobilenet_v1 --versus torch``.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from matplotlib.figure import Figure
from rich.table import Table

from convjax import lab, ops
from experiments.benchmarks import _report, benchmark, keras_networks, networks
from experiments.benchmarks._peer import Peer, torch_peer
from experiments.benchmarks.timing import alternate, geometric_mean, median

# Small, so that no network fits its one batch within a run: gradients near 0 take longer.
LEARNING_RATE = 0.001
MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and the batch that it is trained on."""

    name: str
    title: str  # how it is written in tables
    build: Callable[..., nnx.Module]  # build(rngs=...) returns it
    size: int  # height and width of the images
    batch: int

    # Of the batch.
    shape = property(lambda self: (self.batch, self.size, self.size, 3))


_CASES = (
    Case("mobilenet_v1", "MobileNetV1", networks.mobilenet_v1, 96, 16),
    Case("mobilenet_v2", "MobileNetV2", networks.mobilenet_v2, 96, 16),
    Case("resnet_50", "ResNet-50", networks.resnet_50, 64, 16),
    Case("xception", "Xception", networks.xception, 96, 8),
    Case("resnet_56", "ResNet-56", networks.resnet_56, 32, 64),
    Case("inception_v3", "Inception v3", networks.inception_v3, 107, 8),
    Case("efficientnet_b0", "EfficientNet-B0", networks.efficientnet_b0, 96, 16),
    Case("convnext_tiny", "ConvNeXt-Tiny", networks.convnext_tiny, 64, 16),
)
CASES = {case.name: case for case in _CASES}
main = partial(benchmark.run, __name__)


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Options):
    """Options."""

    networks: tuple[str, ...] = tuple(CASES)[:5]
    versus: tuple[Literal["lax", "keras", "torch", "compiled"], ...] = ("lax", "keras", "torch")
    """Whom to compare with; nothing after it leaves all of them out."""
    torch_python: str | None = None
    """Python that has torch, timm and NumPy; without it this one, if it has torch."""
    batch_size: int | None = None
    """Images in a batch; without it, each network's own number."""
    size: int | None = None
    """Height and width of the images; without it, each network's own."""


def check(config: Config) -> None:
    """Refuse what cannot be run, before anything is."""
    if not config.networks:
        raise ValueError("networks is empty; give at least one.")
    for name in config.networks:
        if name not in CASES:
            raise ValueError(lab.unknown("network", name, CASES))
    lab.check_least(config, batch_size=1, size=1)
    for case in cases(config):
        if "keras" in config.versus:
            keras_networks.check(case.name, case.size)
        images = jax.ShapeDtypeStruct(case.shape, jnp.float32)
        with lab.refusing(f"{case.title}: "):
            jax.eval_shape(lambda x, case=case: case.build(rngs=nnx.Rngs(0))(x), images)


def cases(config: Config) -> list[Case]:
    """Return the networks to measure, with the sizes that the options give them."""
    given = {"batch": config.batch_size, "size": config.size}
    given = {name: value for name, value in given.items() if value is not None}
    return [dataclasses.replace(CASES[name], **given) for name in dict.fromkeys(config.networks)]


def measure(config: Config) -> dict[str, Any]:
    """Measure every network, one after the other."""
    wanted, kept = bool({"torch", "compiled"} & set(config.versus)), config.keep_memory
    with torch_peer(config.torch_python, wanted=wanted, keep_memory=kept) as peer:
        todo = benchmark.one_by_one(cases(config), lambda case: case.title)
        rows = [measured(case, config, peer) for case in todo]
    keras = keras_networks.import_keras().__version__ if "keras" in config.versus else None
    return {"torch": peer and peer.versions, "keras": keras, "rows": rows}


def measured(case: Case, config: Config, peer: Peer | None) -> dict[str, Any]:
    """Return one network's row: samples, medians, and convjax's time over that of the others."""
    start = nnx.split(case.build(rngs=nnx.Rngs(0)), nnx.Param, ...)
    timed = {"convjax": convjax_training(case, start, "auto")}
    if "lax" in config.versus:
        timed["lax"] = convjax_training(case, start, "lax")
    if "keras" in config.versus:
        made = keras_networks.training(case.name, case.size, LEARNING_RATE, MOMENTUM)
        timed["Keras"] = Training(*made, case)
    spec, torch, compiled = torch_spec(case), {}, {}
    if peer and "torch" in config.versus:
        torch = {f"PyTorch {name}": timer for name, timer in peer.timers(spec, True).items()}
    if peer and "compiled" in config.versus:
        (timer,) = peer.timers(spec, True, ["channels_last"], compiled=True).values()
        compiled = {"PyTorch compiled": timer}
    samples = alternate(timed, repeats=config.repeats, elsewhere=torch | compiled)
    medians = {name: median(times) for name, times in samples.items()}
    best = min(torch, key=medians.__getitem__, default=None)
    seconds = {name: medians[name] for name in timed}
    if best is not None:
        seconds["PyTorch"] = medians[best]
    seconds |= {name: medians[name] for name in compiled}
    return {
        "network": case.name,
        "size": case.size,
        "batch": case.batch,
        "seconds": seconds,
        "ratios": {n: seconds["convjax"] / s for n, s in seconds.items() if n != "convjax"},
        "best_of_torch": best,
        "samples": samples,
    }


def torch_spec(case: Case, **more: Any) -> dict[str, Any]:
    """Return a training step as PyTorch's process is told it."""
    spec = {"what": "network", "name": case.name, "batch": case.batch, "size": case.size, "seed": 0}
    return spec | {"learning_rate": LEARNING_RATE, "momentum": MOMENTUM, **more}


class Training:
    """A network in training: each call is one step, which overwrites its copy of the state.

    Args:
      loss: ``loss(params, rest, images, labels) -> (loss, rest)``.
      update: ``update(params, gradients, moving) -> (params, moving)``.
      state: the first ``(params, rest, moving)``.
      case: whose batch it is.
    """

    def __init__(
        self, loss: Callable[..., Any], update: Callable[..., Any], state: Any, case: Case
    ):
        def step(state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
            params, rest, moving = state
            differentiated = jax.value_and_grad(loss, has_aux=True)
            (value, rest), gradients = differentiated(params, rest, images, labels)
            params, moving = update(params, gradients, moving)
            return (params, rest, moving), value

        self.state = jax.tree.map(jnp.copy, state)
        labels = jnp.arange(case.batch, dtype=jnp.int32) % 10
        self.batch = jax.random.normal(jax.random.key(1), case.shape), labels
        self.step = jax.jit(step, donate_argnums=0).lower(state, *self.batch).compile()

    def __call__(self) -> Any:
        """Take a step; return the new state and the loss before it."""
        self.state, loss = self.step(self.state, *self.batch)
        return self.state, loss


def convjax_training(case: Case, start: Any, lowering: str, dtype: str = "float32") -> Training:
    """Return a network, split into graph, parameters and rest, in training by a lowering.

    In bfloat16 parameters and norms stay float32.
    """
    graphdef, params, rest = start
    of_lowered = networks.loss_of(graphdef, partial(networks.lower, dtype))

    def loss(params: Any, rest: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
        return of_lowered(params, rest, images.astype(dtype), labels)

    optimiser = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)

    def update(params: Any, gradients: Any, moving: Any) -> tuple[Any, Any]:
        updates, moving = optimiser.update(gradients, moving, params)
        return optax.apply_updates(params, updates), moving

    with ops.default_lowering(lowering):
        state = params, rest, optimiser.init(params)
        return Training(loss, update, state, case)


def tables(found: dict[str, Any], config: Config) -> Iterator[Table]:
    """Yield times and ratios, and the ratios' geometric means."""
    others = list(dict.fromkeys(name for row in found["rows"] for name in row["ratios"]))
    means = {n: geometric_mean(row["ratios"].get(n) for row in found["rows"]) for n in others}
    last = {"network": "geometric mean", "seconds": {}, "ratios": means}

    def time(row: dict[str, Any], name: str) -> float | None:
        return _report.milliseconds(row["seconds"].get(name))

    yield _report.table(
        "A training step (ms), and convjax / the other",
        [*found["rows"], *([last] if len(found["rows"]) > 1 else [])],
        ("network", lambda row: CASES[row["network"]].title if "batch" in row else row["network"]),
        ("batch", lambda row: "{batch}x{size}x{size}".format(**row) if "batch" in row else ""),
        *((name, partial(time, name=name)) for name in ("convjax", *others)),
        *((f"/ {name}", lambda row, name=name: row["ratios"].get(name)) for name in others),
    )


def figure(found: dict[str, Any]) -> Figure | None:
    """Draw convjax's time over that of the others."""
    panel = {
        CASES[row["network"]].title: {name: [ratio] for name, ratio in row["ratios"].items()}
        for row in found["rows"]
    }
    return _report.ratios("A training step", {"": panel})
