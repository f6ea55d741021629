"""Kernels as sums of columns times rows: what is exact, what random and trained ones lose."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import data, lab, nn, ops, train
from convjax.lab.lesions import scores
from experiments.separable.layers import FULL, NECK, leaves

BLOCKS = 3
BATCH_SIZE = 64
LEARNING_RATE = 0.01
SHOWN = ("depthwise: change in its own", "1x1: not additive with ReLU between")
ROUNDED = ("sobel by SVD", "sobel's error at rank 1")
CURVE = ("test_accuracy", "test_loss", "train_loss")
SOBEL = np.array([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]], np.float32)


def exact() -> dict[str, float]:
    """Return differences of whole numbers, which do not round.

    They are 0, but for those in ``SHOWN``, and to rounding those in ``ROUNDED``, which come of SVD.
    """
    random = np.random.default_rng(0)

    def integers(*shape: int) -> jax.Array:
        return jnp.asarray(random.integers(-3, 4, shape), jnp.float32)

    def off(a: jax.Array, b: jax.Array) -> float:
        return float(jnp.abs(a - b).max())

    return _sobel(integers, off) | _depthwise(integers, off) | _pointwise(integers, off)


def _sobel(integers: Any, off: Any) -> dict[str, float]:
    x, kernel = integers(2, 9, 7, 1), jnp.asarray(SOBEL)
    column = jnp.array([1.0, 0.0, -1.0]).reshape(3, 1, 1, 1)
    row = jnp.array([1.0, 2.0, 1.0]).reshape(1, 3, 1, 1)
    found = ops.separate_kernel(kernel, 1)
    whole = ops.conv(x, kernel[:, :, None, None])
    taken_apart = (part[0][..., None, None] for part in (found.columns, found.rows))
    by_found = ops.spatial_separable_conv(x, *taken_apart)
    return {
        "sobel by hand": off(whole, ops.spatial_separable_conv(x, column, row)),
        "sobel by SVD": off(whole, by_found) / float(jnp.abs(whole).max()),
        "sobel's error at rank 1": float(found.error),
    }


def _depthwise(integers: Any, off: Any) -> dict[str, float]:
    x, other = integers(2, 9, 7, 4), 2
    kernel, mix = integers(3, 3, 1, 4), integers(1, 1, 4, 5)
    touched = x.at[..., other].add(1.0)
    change = jnp.abs(ops.depthwise_conv(touched, kernel) - ops.depthwise_conv(x, kernel))
    product = kernel[:, :, 0, :, None] * mix
    pair = ops.separable_conv(x, kernel, mix)
    return {
        "depthwise: change in other channels": float(jnp.delete(change, other, axis=-1).max()),
        "depthwise: change in its own": float(change[..., other].max()),
        "pair less the full kernel it makes": off(pair, ops.conv(x, product)),
    }


def _pointwise(integers: Any, off: Any) -> dict[str, float]:
    x, y = integers(2, 32, 32, 64), integers(2, 32, 32, 64)
    first, second = integers(1, 1, 64, 128), integers(1, 1, 128, 16)
    mix = ops.pointwise_conv
    made = mix(x, first)
    change = jnp.abs(mix(x.at[:, 5, 3].add(1.0), first) - made)

    def bent(x: jax.Array) -> jax.Array:
        return mix(jax.nn.relu(mix(x, first)), second)

    merged = jnp.einsum("abio,abop->abip", first, second)
    return {
        "1x1: 32x32x64 to 32x32x128": float(made.shape != (2, 32, 32, 128)),
        "1x1: change at other places": float(change.at[:, 5, 3].set(0.0).max()),
        "1x1: f(x + y) - f(x) - f(y)": off(mix(x + y, first), made + mix(y, first)),
        "1x1: f(3 x) - 3 f(x)": off(mix(3.0 * x, first), 3.0 * made),
        "1x1: two less the one they make": off(mix(made, second), mix(x, merged)),
        "1x1: not additive with ReLU between": off(bent(x + y), bent(x) + bent(y)),
    }


@jax.jit
def sums(kernel: jax.Array) -> jax.Array:
    """Return the best sums of 1, 2, … columns times rows, for every pair of channels."""
    found = ops.separate_kernel(kernel, min(kernel.shape[:2]))
    return jnp.cumsum(found.columns * found.rows, axis=0)


def errors(kernel: jax.Array) -> np.ndarray:
    """Return |w - best sum of r columns times rows| / |w| of the whole kernel, for r from 1."""
    missed = np.asarray(sums(kernel)) - np.asarray(kernel)
    return np.linalg.norm(missed.reshape(len(missed), -1), axis=1) / np.linalg.norm(kernel)


def network(layer: str, width: int, k: int, rngs: nnx.Rngs) -> nn.Chain:
    """Return a small classifier: a stem, three blocks of that layer, a dense head.

    Every block ends in batch norm and ReLU, and so does each convolution of a bottleneck.
    """
    stem = nn.Conv(1, width, (3, 3), use_bias=False, kernel_init="he", rngs=rngs)
    units: dict[str, nnx.Module] = {"stem": stem}

    def finish(name: str, features: int) -> None:
        units[f"{name}_norm"] = nn.BatchNorm(features, rngs=rngs)
        units[f"{name}_activation"] = nn.Activation("relu")

    finish("stem", width)
    for block in range(BLOCKS):
        for name, conv in leaves(layer, width, k, rngs).items():
            units[f"{name}{block}"] = conv
            if layer == NECK:
                finish(f"{name}{block}", conv.kernel.shape[-1])  # pyright: ignore
        if layer != NECK:
            finish(f"block{block}", width)
    units["pool"] = nn.GlobalPool("avg")
    units["dense"] = nn.Dense(width, lab.Classifier.classes, rngs=rngs)
    return nn.Chain(units)


def trained(
    layer: str, k: int, width: int, epochs: int, seeds: int
) -> Iterator[tuple[int, dict[tuple[str, str, str], Any]]]:
    """Train networks of one layer on the digits, by Adam with a falling learning rate.

    Yields of every seed the parameters' number; and by topic, name and quantity: curves by running
    statistics; of full convolutions, accuracies and kernels' errors at rank 1, 2, ….
    """
    seen, unseen = data.digits("train"), data.digits("test")
    length = len(seen[0]) // BATCH_SIZE
    every = lab.Seeds(lambda rngs: network(layer, width, k, rngs), *seen, batch_size=BATCH_SIZE)
    how: dict[str, Any] = {"optimiser": "adam", "learning_rate": LEARNING_RATE, "weight_decay": 0.0}
    trainer = every.trainer(train.Recipe(steps=epochs * length, dispatch=length, **how))

    @jax.jit
    def evaluate(state, images, labels):
        return scores(nnx.merge(every.graphdef, state)(images, train=False), labels)

    for seed in range(seeds):
        start, curve = every.draw(seed), []
        net, initial = start, nnx.state(start, nnx.Param)
        for net, _ in trainer.stages(start, seed):
            (train_loss, _), (test_loss, test_accuracy) = (
                evaluate(nnx.state(net), *split) for split in (seen, unseen)
            )
            curve.append((test_accuracy, test_loss, train_loss))
        params, rest = nnx.state(net, nnx.Param, ...)
        curves = zip(CURVE, *curve, strict=True)
        found: dict[Any, Any] = {("training", layer, name): values for name, *values in curves}
        if layer == FULL:
            cut = (nnx.merge_state(truncated(params, rank), rest) for rank in range(1, k + 1))
            accuracies = [evaluate(state, *unseen)[1] for state in cut]
            found["accuracy", layer, "test_accuracy"] = accuracies
            for age, of in (("random", initial), ("trained", params)):
                found |= {("rank", age, unit): errors(w) for unit, w in windows(of).items()}
        yield sum(leaf.size for leaf in jax.tree.leaves(params)), found


def windows(params: nnx.State) -> dict[str, jax.Array]:
    """Return the kernels that extend along both axes, by the name of their unit."""
    found = {name: unit["kernel"][...] for name, unit in params.items() if "kernel" in unit}
    return {name: kernel for name, kernel in found.items() if _extends(kernel)}


def truncated(params: nnx.State, rank: int) -> nnx.State:
    """Return the parameters with all such kernels of that rank at most."""

    def cut(leaf: jax.Array) -> jax.Array:
        return sums(leaf)[min(rank, *leaf.shape[:2]) - 1] if _extends(leaf) else leaf

    return jax.tree.map(cut, params)


def _extends(array: jax.Array) -> bool:
    return array.ndim == 4 and min(array.shape[:2]) > 1
