"""How long a whole training step takes, against plain lax, Keras and PyTorch.

    python -m experiments bench-models --torch-python /path/to/a/python/with/torch

A step is forward in train mode, mean cross-entropy, backward, stochastic gradient descent with
momentum, and the update of the batch statistics; the networks are MobileNetV1, MobileNetV2,
ResNet-50, Xception, and ResNet-56 for CIFAR, in float32. convjax lowers its convolutions as it
sees fit; beside it stand the same expression on ``jax.lax``'s convolutions, Keras on its JAX
backend, and PyTorch with timm, in a process of its own, channels_last and contiguous, of which the
faster counts. Everything alternates within one run; times are medians, ratios are of medians.

Prints a table, draws it, and saves every sample as JSON. Takes some ten minutes on two cores, most
of them for compiling, lax and Keras; for a look at it, ``--networks mobilenet_v1 --versus torch``.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from convjax import lab, ops, plots, study
from convjax.lab import Ticker, cross_entropy
from experiments.benchmarks import _report, keras_networks, networks
from experiments.benchmarks._models_figure import bars
from experiments.benchmarks._peer import LAYOUTS, TorchPeer, torch_peer
from experiments.benchmarks.timing import alternate, geometric_mean, median

STEM = "bench_models"
# Small, so that no network fits its one batch within a run: gradients near 0 take longer.
LEARNING_RATE = 0.001
MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and the batch that it is trained on.

    Attributes:
      name: its key in ``CASES``, and its name everywhere.
      title: how it is written in tables.
      build: ``build(rngs=...)`` returns it.
      size: height and width of the images.
      batch: number of images.
    """

    name: str
    title: str
    build: Callable[..., nnx.Module]
    size: int
    batch: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the batch."""
        return (self.batch, self.size, self.size, 3)


_CASES = (
    Case("mobilenet_v1", "MobileNetV1", networks.mobilenet_v1, 96, 16),
    Case("mobilenet_v2", "MobileNetV2", networks.mobilenet_v2, 96, 16),
    Case("resnet_50", "ResNet-50", networks.resnet_50, 64, 16),
    Case("xception", "Xception", networks.xception, 96, 8),
    Case("resnet_56", "ResNet-56", networks.resnet_56, 32, 64),
)
CASES = {case.name: case for case in _CASES}


@dataclasses.dataclass(frozen=True)
class Config(lab.CommandOptions):
    """Options."""

    networks: tuple[str, ...] = tuple(CASES)
    """Which networks."""
    versus: tuple[Literal["lax", "keras", "torch"], ...] = ("lax", "keras", "torch")
    """Whom to compare with; nothing after it leaves all of them out."""
    torch_python: str | None = None
    """Python that has torch, timm and NumPy; without it this one, if it has torch."""
    batch_size: int | None = None
    """Images in a batch; without it, each network's own number."""
    size: int | None = None
    """Height and width of the images; without it, each network's own."""
    repeats: int = 7
    """Steps measured of each; fewer, but three, of one that takes more than a second."""
    keep_memory: bool = True
    """Whether both processes keep the memory that they free (convjax.study.keep_memory)."""
    out: Path = Path("results/bench-models")
    """Folder for the results; it is made if it is not there."""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark from the command line and return the exit code."""
    about, _, _ = (__doc__ or "").partition("\n")
    config = lab.parse(Config, argv, command="python -m experiments bench-models", about=about)
    if config.keep_memory:
        study.keep_memory()
    lab.use_platform(config.platform)
    check(config)
    with lab.refusing():
        study.check_writable(config.out)
    wanted = "torch" in config.versus
    python, kept = config.torch_python, config.keep_memory
    with torch_peer(python, wanted=wanted, keep_memory=kept) as peer:
        rows = run(config, peer)
        torch = None if peer is None else peer.versions
    keras = keras_networks.import_keras().__version__ if "keras" in config.versus else None
    path = config.out / f"{STEM}.json"
    _report.save_json(path, rows=rows, config=config, torch=torch, keras=keras)
    report(config, rows)
    return 0


def check(config: Config) -> None:
    """Refuse what cannot be run, before anything is."""
    if not config.networks:
        raise lab.UsageError("networks is empty; give at least one.")
    for name in config.networks:
        if name not in CASES:
            raise lab.UsageError(lab.unknown("network", name, CASES))
    for option in ("batch_size", "size", "repeats"):
        value = getattr(config, option)
        if value is not None and value < 1:
            raise lab.UsageError(f"{option} = {value} is too small; it must be at least 1.")
    if "keras" in config.versus:
        keras_networks.import_keras()
        for case in cases(config):
            keras_networks.check_size(case.name, case.size)
    for case in cases(config):
        images = jax.ShapeDtypeStruct(case.shape, jnp.float32)
        with lab.refusing(f"{case.title}: "):
            jax.eval_shape(lambda x, case=case: case.build(rngs=nnx.Rngs(0))(x), images)


def cases(config: Config) -> list[Case]:
    """Return the networks to measure, with the sizes that the options give them."""
    given = {"batch": config.batch_size, "size": config.size}
    given = {name: value for name, value in given.items() if value is not None}
    chosen = dict.fromkeys(config.networks)
    return [dataclasses.replace(CASES[name], **given) for name in chosen]


def run(config: Config, peer: TorchPeer | None) -> list[dict[str, Any]]:
    """Measure every network, one after the other."""
    todo = cases(config)
    rows = []
    with Ticker(len(todo)) as ticker:
        for case in todo:
            ticker.begin(case.title)
            rows.append(measured(case, config, peer))
            ticker.finish(case.title)
    return rows


def measured(case: Case, config: Config, peer: TorchPeer | None) -> dict[str, Any]:
    """Return one network's row: samples, medians, and convjax's time over that of the others."""
    start = nnx.split(case.build(rngs=nnx.Rngs(0)), nnx.Param, ...)
    timed: dict[str, Any] = {"convjax": convjax_training(case, start, "auto")}
    if "lax" in config.versus:
        timed["lax"] = convjax_training(case, start, "lax")
    if "keras" in config.versus:
        timed["Keras"] = keras_training(case)
    with torch_timers(case, peer) as timers:
        samples = alternate({**timed, **timers}, repeats=config.repeats)
    medians = {name: median(times) for name, times in samples.items()}
    best = min(timers, key=medians.__getitem__, default=None)
    seconds = {name: medians[name] for name in timed}
    if best is not None:
        seconds["PyTorch"] = medians[best]
    return {
        "network": case.name,
        "size": case.size,
        "batch": case.batch,
        "seconds": seconds,
        "ratios": {n: seconds["convjax"] / s for n, s in seconds.items() if n != "convjax"},
        "best_of_torch": best,
        "samples": samples,
    }


class Training:
    """A network in training: each call is one step, which overwrites the state.

    Args:
      step: ``step(state, images, labels) -> (state, loss)``.
      state: the first one, a pytree of arrays; a copy is made of it.
      case: the network's batch.
    """

    def __init__(self, step: Callable[..., Any], state: Any, case: Case):
        self.state = jax.tree.map(jnp.copy, state)
        self.batch = (
            jax.random.normal(jax.random.key(1), case.shape),
            jnp.arange(case.batch, dtype=jnp.int32) % 10,
        )
        self.step = jax.jit(step, donate_argnums=0).lower(state, *self.batch).compile()

    def __call__(self) -> Any:
        """Take a step; return the new state and the loss before it."""
        self.state, loss = self.step(self.state, *self.batch)
        return self.state, loss


def convjax_training(case: Case, start: Any, lowering: str) -> Training:
    """Return a network in training, its convolutions lowered as asked.

    Args:
      case: the network's batch.
      start: the network, split into its graph, its parameters and the rest.
      lowering: ``"auto"`` or ``"lax"``.
    """
    graphdef, params, rest = start
    optimiser = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)

    def loss(params: Any, rest: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
        net = nnx.merge(graphdef, params, rest, copy=True)
        value = cross_entropy(net(images, train=True), labels)
        return value, nnx.split(net, nnx.Param, ...)[2]

    def step(state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
        params, rest, moving = state
        differentiated = jax.value_and_grad(loss, has_aux=True)
        (value, rest), gradients = differentiated(params, rest, images, labels)
        updates, moving = optimiser.update(gradients, moving, params)
        return (optax.apply_updates(params, updates), rest, moving), value

    with lowered_by(lowering):
        return Training(step, (params, rest, optimiser.init(params)), case)


def lowered_by(name: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which what is traced has its convolutions lowered so."""
    return contextlib.nullcontext() if name == "auto" else ops.default_lowering(name)


def keras_training(case: Case) -> Training:
    """Return the same network of Keras in training."""
    made = keras_networks.training(
        case.name, case.size, learning_rate=LEARNING_RATE, momentum=MOMENTUM
    )
    return Training(*made, case)


@contextlib.contextmanager
def torch_timers(case: Case, peer: TorchPeer | None) -> Any:
    """Yield what times the network's step in PyTorch, by memory format."""
    if peer is None:
        yield {}
        return
    spec = {"what": "network", "name": case.name, "batch": case.batch, "size": case.size, "seed": 0}
    peer.prepare(spec)
    timers = {f"PyTorch {name}": peer.timer(name, backward=True) for name in LAYOUTS}
    try:
        for timer in timers.values():
            timer.time(1)
    except RuntimeError as error:
        raise lab.UsageError(
            f"PyTorch cannot train {case.title} ({error}); leave torch out of --versus."
        ) from error
    yield timers
    peer.release()


def report(config: Config, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table, draw the figure, and say where everything is."""
    others = list(dict.fromkeys(name for row in rows for name in row["ratios"]))
    console = _report.console()
    console.print(table(rows, others))
    written = [config.out / f"{STEM}.json"]
    if others:
        found = {CASES[row["network"]].title: row["ratios"] for row in rows}
        written += plots.save(bars(found), config.out / STEM)
    for path in written:
        console.print(str(path), soft_wrap=True)


def table(rows: Sequence[Mapping[str, Any]], others: Sequence[str]) -> Any:
    """Return times and ratios, and the ratios' geometric means."""
    heads = ["network", "batch", "convjax", *others, *(f"/ {name}" for name in others)]
    cells = [
        [
            CASES[row["network"]].title,
            f"{row['batch']}x{row['size']}x{row['size']}",
            *(_report.milliseconds(row["seconds"].get(name)) for name in ("convjax", *others)),
            *(_report.number(row["ratios"].get(name), 3) for name in others),
        ]
        for row in rows
    ]
    if len(rows) > 1 and others:
        means = [geometric_mean(row["ratios"].get(name) for row in rows) for name in others]
        blank = [""] * (2 + len(others))
        cells.append(["geometric mean", *blank, *(_report.number(mean, 3) for mean in means)])
    return _report.table("A training step (ms), and convjax / the other", heads, cells)
