"""One process of a run of several; ``test_processes`` starts them.

The last line of its output is JSON. Every process must call ``train.distributed`` before JAX has
made an array: that importing the package makes none is part of the test.
"""

import argparse
import json
import os

import jax
import numpy as np
from flax import nnx

from convjax import data, nn, train


class Noisy:
    """A source that adds noise by the place in the batch, on images that are not square."""

    def __init__(self, batch_size, images=None, labels=None):
        if images is None:
            random = np.random.default_rng(1)
            labels = random.integers(0, 3, 48).astype(np.int32)
            patterns = random.normal(size=(3, 6, 5, 2))
            images = patterns[labels] + 0.5 * random.normal(size=(48, 6, 5, 2))
            images = images.astype(np.float32)
        self.arrays = {"images": images, "labels": labels}
        self.count, self.batch_size = len(labels), batch_size

    def inputs(self, first, steps):
        size = self.batch_size
        order = [data.batch_indices(self.count, size, seed=5, step=first + i) for i in range(steps)]
        place = np.tile(np.arange(size, dtype=np.int32), (steps, 1))
        return {"index": np.stack(order), "place": place}

    def batch(self, arrays, inputs, key):
        images, labels = (arrays[name][inputs["index"]] for name in ("images", "labels"))

        def noise(place):
            shape, dtype = images.shape[1:], images.dtype
            return jax.random.normal(jax.random.fold_in(key, place), shape, dtype)

        return images + 0.3 * jax.vmap(noise)(inputs["place"]), labels


def network():
    """Return a network of depthwise and grouped convolutions, with batch norm."""
    rngs = nnx.Rngs(0)
    return nn.Chain(
        depthwise=nn.DepthwiseConv(2, (3, 3), channel_multiplier=4, rngs=rngs),
        norm=nn.BatchNorm(8, rngs=rngs),
        # Smooth: rounding may decide whether a ReLU passes, and one that differs is a jump.
        gelu=nn.Activation("gelu"),
        group=nn.Conv(8, 12, (3, 3), strides=2, feature_group_count=4, rngs=rngs),
        pool=nn.GlobalPool("avg"),
        dense=nn.Dense(12, 3, rngs=rngs),
    )


class Leave:
    """An observer that ends this process at once, as if it were killed, at some step."""

    def __init__(self, step):
        self.step = step

    def begin(self, first, stop, batch_size):
        pass

    def record(self, rows, pace):
        if any(row["step"] >= self.step for row in rows):
            os._exit(9)

    def end(self):
        pass


def fitted(steps=12, **options):
    """Train; every process that does so takes part."""
    source = Noisy(16)
    test = (source.arrays["images"][:13], source.arrays["labels"][:13])
    recipe = train.Recipe(
        steps=steps, learning_rate=0.05, dispatch=4, checkpoint_every=3, test_every=6
    )
    return train.fit(network(), source, recipe, test=test, **options)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--join", action="store_true", help="as the environment or the rest says")
    parser.add_argument("--address")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    parser.add_argument("--devices", type=int)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--folder")
    parser.add_argument("--leave", type=int, help="the step at which to end without a word")
    args = parser.parse_args()
    if args.join:
        options = {"processes": args.processes, "process": args.process}
        for _ in range(2):  # the second time nothing happens
            train.distributed(args.address, **options, timeout=120, heartbeat=10)
    jax.config.update("jax_disable_most_optimizations", True)
    observers = [] if args.leave is None else [Leave(args.leave)]
    ended = fitted(args.steps, folder=args.folder, devices=args.devices, observers=observers)
    result = {
        "process": jax.process_index(),
        "processes": jax.process_count(),
        "devices": [jax.local_device_count(), jax.device_count()],
        "rows": ended.rows,
        # What is left lies with this process whole.
        "state": [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(ended.state)],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
