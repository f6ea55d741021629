"""What a gradient profile costs, in ratios against a plain gradient in the same run.

    python -m experiments bench-profile

Prints, and saves as JSON, three comparisons: a profile of ResNet-56 against the gradient of its
loss with respect to its parameters; compiling a profile of depth 10,000 against one of depth 100,
plain and residual; and the gradient through a scan of convolutions by ``convjax.ops.conv`` against
the same by ``jax.lax``. Everything alternates within one run; times are medians.

Takes one to two minutes on two cores.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.table import Table

from convjax import gradflow, lab, models, ops, study
from convjax.lab import console, cross_entropy


@dataclasses.dataclass(frozen=True)
class Config(lab.CommandOptions):
    """Options."""

    batch_size: int = 64
    """Images of 32x32 in the batch for ResNet-56."""
    deep: int = 10_000
    """Depth of the deep stack."""
    shallow: int = 100
    """Depth that it is compared with."""
    repeats: int = 7
    """Runs of each; the median counts."""
    out: Path = Path("results/bench-profile")
    """Folder for the numbers; it is made if it is not there."""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark from the command line and return the exit code."""
    about, _, _ = (__doc__ or "").partition("\n")
    config = lab.parse(Config, argv, command="python -m experiments bench-profile", about=about)
    lab.use_platform(config.platform)
    with lab.refusing():
        study.check_writable(config.out)
    rows = [against_plain_gradient(config)]
    rows += [compiling(config, shortcut) for shortcut in ("none", "identity")]
    rows.append(scanned_convolutions(config))
    report(rows)
    written = {"rows": rows, "environment": study.environment()}
    path = config.out / "bench_profile.json"
    path.write_text(json.dumps(written, indent=1, default=str) + "\n", encoding="utf-8")
    print(path)
    return 0


def against_plain_gradient(config: Config) -> dict[str, Any]:
    """Profile ResNet-56 with everything that a profile holds, and take its plain gradient."""
    net = models.resnet_cifar(56, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(1), (config.batch_size, 32, 32, 3))
    labels = jnp.arange(config.batch_size) % 10
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    @jax.jit
    def gradient(params, images):
        def loss(params):
            net = nnx.merge(graphdef, params, rest, copy=True)
            return cross_entropy(net(images, train=True), labels)

        return jax.value_and_grad(loss)(params)

    def profile():
        return gradflow.profile(net, images, loss=cross_entropy, targets=labels, train=True)

    return compared(
        f"profile of ResNet-56, batch {config.batch_size} / its gradient",
        profile,
        lambda: gradient(params, images),
        config.repeats,
    )


def compiling(config: Config, shortcut: str) -> dict[str, Any]:
    """Trace, lower and compile a profile of the deep stack and of the shallow one."""
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 16))

    def compile_at(depth: int) -> Callable[[], Any]:
        shapes = nnx.eval_shape(
            lambda: models.deep_stack(depth, 16, shortcut=shortcut, rngs=nnx.Rngs(0))
        )

        def run():
            # A function of its own each time, so that nothing is found in a cache.
            def measure(net, x):
                return gradflow.profile(net, x, cotangent=jax.random.key(2), train=True)

            jax.jit(measure).lower(shapes, x).compile()

        return run

    return compared(
        f"compiling a profile of depth {config.deep} / of {config.shallow}, shortcut {shortcut}",
        compile_at(config.deep),
        compile_at(config.shallow),
        max(3, config.repeats // 2),
    )


def scanned_convolutions(config: Config) -> dict[str, Any]:
    """Differentiate a scan of 3x3 convolutions by ours and by lax."""
    x = jax.random.normal(jax.random.key(1), (32, 32, 32, 16))
    kernels = jax.random.normal(jax.random.key(2), (6, 3, 3, 16, 16)) / 12

    def by_lax(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    def gradient(conv):
        def loss(x, kernels):
            return jnp.sum(jax.lax.scan(lambda x, k: (jnp.tanh(conv(x, k)), None), x, kernels)[0])

        return jax.jit(jax.grad(loss, (0, 1)))

    ours, theirs = gradient(ops.conv), gradient(by_lax)
    return compared(
        "gradient through a scan of six 3x3 convolutions, ops.conv / lax",
        lambda: ours(x, kernels),
        lambda: theirs(x, kernels),
        config.repeats,
    )


def compared(
    name: str, first: Callable[[], Any], second: Callable[[], Any], repeats: int
) -> dict[str, Any]:
    """Run both in turn, once unmeasured, and return the medians and the median of the ratios."""
    seconds = np.empty((repeats + 1, 2))
    for row in seconds:
        for i, function in enumerate((first, second)):
            start = time.perf_counter()
            jax.block_until_ready(function())
            row[i] = time.perf_counter() - start
    seconds = seconds[1:]
    ratios = seconds[:, 0] / seconds[:, 1]
    medians = np.median(seconds, axis=0)
    return {
        "what": name,
        "first_s": float(medians[0]),
        "second_s": float(medians[1]),
        "ratio": float(np.median(ratios)),
        "least": float(ratios.min()),
        "most": float(ratios.max()),
    }


def report(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table("first / second", "first (s)", "second (s)", "ratio", "least to most", box=None)
    for row in rows:
        table.add_row(
            row["what"],
            f"{row['first_s']:.3f}",
            f"{row['second_s']:.3f}",
            f"{row['ratio']:.3f}",
            f"{row['least']:.3f} to {row['most']:.3f}",
        )
    console(120).print(table)
