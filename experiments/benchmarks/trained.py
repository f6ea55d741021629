"""What does theory still say of a network once it is trained? Nothing is timed here.

    python -m experiments bench-trained

Networks for CIFAR are trained on digits. Before the first step, and after some, the gradient of the
loss on one batch of the training set is measured at every layer and held against
``gradflow.predict``, which is given the batch and the gradient at the output: with the variances
that initialisers declare, and with those of the kernels as they are.

Takes some ten minutes on two cores.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.table import Table

from convjax import data, gradflow, lab, models
from experiments.benchmarks import _report, benchmark
from experiments.benchmarks.networks import loss_of
from experiments.benchmarks.timing import median

BATCH = 64
KERNELS = ("declared", "measured")
main = partial(benchmark.run, __name__)


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Options):
    """Options."""

    depth: int = 20
    """Depth of the networks, 6n + 2."""
    width: int = 16
    """Features of their first stage."""
    steps: tuple[int, ...] = (0, 5, 20, 100, 400)
    """After how many steps theory is held against the network."""
    seeds: int = 3
    """Initializations of each network."""


def networks(config: Config) -> dict[str, Callable[[nnx.Rngs], nnx.Module]]:
    """Return what is trained, by name."""
    build = partial(models.resnet_cifar, config.depth, width=config.width, in_features=1)
    return {
        "residual": lambda rngs: build(rngs=rngs),
        "plain": lambda rngs: build(shortcut="none", rngs=rngs),
        "residual, pre-activation": lambda rngs: build(order="pre", rngs=rngs),
        "residual, no norm": lambda rngs: build(norm="none", branch_scale=0.5, rngs=rngs),
    }


def check(config: Config) -> None:
    """Refuse steps that do not follow one another, and networks that there are not."""
    lab.check_least(config, seeds=1)
    if not config.steps or list(config.steps) != sorted({*config.steps}) or config.steps[0] < 0:
        raise ValueError(f"steps={config.steps} must rise, from 0 or later")
    nnx.eval_shape(lambda: next(iter(networks(config).values()))(nnx.Rngs(0)))


def measure(config: Config) -> dict[str, Any]:
    """Return a row for each network, seed, number of steps and way to take the variances."""
    images, labels = map(jnp.asarray, data.digits("train"))
    rows, made = [], networks(config)
    cells = [(name, seed) for name in made for seed in range(config.seeds)]
    for name, seed in benchmark.one_by_one(cells, lambda cell: f"{cell[0]}, seed {cell[1]}"):
        run = trained(made[name](nnx.Rngs(seed)), images, labels, config.steps, seed)
        for steps, net in run:
            for found in held(net, images[:BATCH], labels[:BATCH]):
                rows.append({"network": name, "seed": seed, "steps": steps} | found)
    return {"rows": rows}


def trained(
    net: nnx.Module, images: Any, labels: Any, steps: Sequence[int], seed: int
) -> Iterator[tuple[int, nnx.Module]]:
    """Yield the network after so many steps of one run: SGD with momentum, batches of 64."""
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    optimiser = optax.sgd(0.05, momentum=0.9)
    gradient = jax.value_and_grad(loss_of(graphdef), has_aux=True)

    @jax.jit
    def step(params: Any, rest: Any, state: Any, images: Any, labels: Any) -> tuple[Any, Any, Any]:
        (_, rest), found = gradient(params, rest, images, labels)
        updates, state = optimiser.update(found, state, params)
        return optax.apply_updates(params, updates), rest, state

    random, state = np.random.default_rng(seed), optimiser.init(params)
    for i in range(steps[-1] + 1):
        if i in steps:
            yield i, nnx.merge(graphdef, params, rest, copy=True)
        of = random.choice(len(images), BATCH, replace=False)
        params, rest, state = step(params, rest, state, images[of], labels[of])


def held(net: nnx.Module, images: Any, labels: Any) -> Iterator[dict[str, Any]]:
    """Yield how far theory is away from a network, in log norm, for both kinds of variances.

    ``whole`` is the gain of the gradient from the output to the first layer, ``gains`` those from
    each layer to the one before it.
    """
    profile = gradflow.profile(net, images, loss=lab.cross_entropy, targets=labels, train=True)
    logits = net(images, train=True)
    back = jax.grad(lambda logits: lab.cross_entropy(logits, labels))(logits)
    for kernels in KERNELS:
        found = gradflow.predict(net, images, train=True, cotangent=back, kernels=kernels)
        expected = np.array([unit.gradient_log_norm for unit in found.units])
        measured = np.array([profile[unit.path].gradient.log_norm for unit in found.units])
        gains = np.diff(measured) - np.diff(expected)
        yield {
            "kernels": kernels,
            "loss": float(lab.cross_entropy(logits, labels)),
            "gain": float(measured[0] - measured[-1]),
            "whole": float(-gains.sum()),
            "gains": gains.tolist(),
        }


def tables(found: dict[str, Any], config: Config) -> Iterator[Table]:
    """Yield a row for each network and number of steps: means and medians over the seeds."""
    rows = []
    for name in networks(config):
        for steps in config.steps:
            of = [r for r in found["rows"] if (r["network"], r["steps"]) == (name, steps)]
            row = {"network": name, "steps": steps}
            row |= {key: float(np.mean([r[key] for r in of])) for key in ("loss", "gain")}
            for kernels in KERNELS:
                each = [r for r in of if r["kernels"] == kernels]
                gains = np.abs(np.concatenate([r["gains"] for r in each]))
                row[kernels] = f"{np.mean(np.abs([r['whole'] for r in each])):.2f}"
                row[kernels] += f", {median(gains):.3f}, {gains.max():.2f}"
            rows.append(row)
    yield _report.table(
        "The gradient's gain in log norm: how far theory is away (whole; a layer: median, most)",
        rows,
        ("network", lambda row: row["network"]),
        ("steps", lambda row: str(row["steps"])),
        ("loss", lambda row: f"{row['loss']:.3f}"),
        ("gain", lambda row: f"{row['gain']:+.2f}"),
        *((f"by {kernels} variances", lambda row, k=kernels: row[k]) for kernels in KERNELS),
    )
