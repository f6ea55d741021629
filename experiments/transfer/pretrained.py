"""What did training do to the gradient? One network on the same pictures, trained and fresh.

    python -m experiments.transfer.pretrained mobilenetv2_100 FILE PICTURES

FILE are the network's weights; PICTURES is a folder of pictures whose names end in the number of
their class, as ``imagenet_00_243.jpg`` does, or a folder of class folders in the order of the
network's outputs. Both networks normalise by the batch's own statistics, and see the same loss,
the mean cross-entropy; the fresh one comes with several seeds. Drawn by layer, from input to
output: the signal, its gradient, and the gradient of the weights beside the weights.

Takes about a minute for MobileNetV2 and 20 pictures.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

from convjax import lab, models, plots
from experiments.transfer import learning

SEEDS = 3
PANELS = {
    "output of a layer": ("norm", ("activation_log_norm",)),
    "gradient of it": ("norm", ("gradient_log_norm",)),
    "gradient of its weights": (
        "norm / norm of the weights",
        ("parameter_gradient_log_norm", "parameter_log_norm"),
    ),
}


def measured(
    name: str, weights: Path, pictures: Path, *, size: int | None = None, seeds: int = SEEDS
) -> dict[str, list[lab.Columns]]:
    """Return the layers of the trained network, and those of fresh ones, one for each seed.

    Args:
      name: that ``models.list()`` knows.
      weights: their file.
      pictures: their folder.
      size: of the pictures; None takes what ``models.preprocessing`` says.
      seeds: fresh networks.

    Raises:
      ValueError: pictures of which the class is not known, or what the readers refuse.
    """
    found = lab.pictures(pictures, name, size=size)
    images, labels = jnp.asarray(found.images), jnp.asarray(_classes(found))
    trained = models.create(name, weights=weights, rngs=nnx.Rngs(0))
    fresh = [models.create(name, rngs=nnx.Rngs(1 + seed)) for seed in range(seeds)]
    every = {"pretrained": [trained], "fresh": fresh}
    return {
        kind: [lab.layers(learning.profile(net, images, labels, train=True)) for net in nets]
        for kind, nets in every.items()
    }


def draw(name: str, layers: dict[str, list[lab.Columns]]) -> Figure:
    """Draw every layer of both; of the fresh ones the median and the whole range."""
    drawn = []
    for title, (axis, names) in PANELS.items():
        series = [_series(kind, of, names) for kind, of in layers.items()]
        drawn.append(plots.Panel(title, "layer, from input to output", axis, series, yscale="log"))
    return plots.panels(f"{name} on real pictures, pretrained and fresh", drawn)


def _series(kind: str, layers: Sequence[lab.Columns], names: Sequence[str]) -> plots.Series:
    first, *others = names
    logs = np.array([one[first] - sum(one[other] for other in others) for one in layers])
    place, values = np.arange(logs.shape[1]), np.exp(logs)
    ends: dict[str, Any] = {"low": values.min(0), "high": values.max(0)} if len(logs) > 1 else {}
    return plots.Series(kind, place, np.median(values, 0), **ends, joined=True)


def _classes(found: Any) -> np.ndarray:
    """Return the classes of pictures, by their folders or the end of their names."""
    if found.labels is not None:
        return found.labels
    ends = [re.search(r"(\d+)\.\w+$", file) for file in found.files]
    if missing := [file for file, end in zip(found.files, ends, strict=True) if end is None]:
        raise ValueError(f"{missing[0]!r} does not end in the number of its class")
    return np.array([int(end[1]) for end in ends if end], np.int32)


def told(layers: dict[str, list[lab.Columns]]) -> Iterator[str]:
    """Say in words how much gradients vary along the layers."""
    for kind, of in layers.items():
        spans = []
        for one in of:
            own = one["parameter_gradient_log_norm"] - one["parameter_log_norm"]
            logs = np.array([one["gradient_log_norm"], own]) / np.log(10)
            middle = np.quantile(logs[1], 0.95) - np.quantile(logs[1], 0.05)
            spans.append((np.ptp(logs[0]), np.ptp(logs[1]), middle))
        every = np.median(spans, 0)
        yield (
            f"{kind}: along {len(of[0]['path'])} layers the norm of the gradient spans "
            f"{every[0]:.2f} decades; that of the weights' gradient over that of the weights "
            f"{every[1]:.2f}, and {every[2]:.2f} without the extreme twentieths"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, draw and tell."""
    parser = argparse.ArgumentParser(prog="python -m experiments.transfer.pretrained")
    parser.add_argument("name")
    parser.add_argument("weights", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--size", type=int)
    parser.add_argument("--out", type=Path, default=Path("results/pretrained"))
    given = parser.parse_args(argv)
    layers = measured(given.name, given.weights, given.pictures, size=given.size)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    plots.save(draw(given.name, layers), given.out)
    print(*told(layers), sep="\n")


if __name__ == "__main__":
    main()
