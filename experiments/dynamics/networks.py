"""Networks: plain and residual, with and without batch norm, and with branches of scale zero."""

from typing import Any

import numpy as np
from flax import nnx

from convjax import gradflow, nn
from convjax.lab import Classifier, Columns

PLAIN, TWIN, BARE = "plain, batch norm", "residual, batch norm", "plain, no norm"
DECAYED = "residual, batch norm, decay"
HE, SKIPINIT, REZERO, FIXUP = "residual, no norm", "SkipInit", "ReZero", "Fixup"
NETWORKS = (PLAIN, TWIN, BARE, HE, SKIPINIT, REZERO, FIXUP)
NORMED = (PLAIN, TWIN, DECAYED)
SILENT = (SKIPINIT, REZERO, FIXUP)

TRUNK = "trunk"
ROLES = {
    "stem": "stem/kernel",
    "first": "body/*/branch/conv1/kernel",
    "last": "body/*/branch/conv2/kernel",
    "factor": "body/*/branch/factor/value",
    "classifier": "head/dense/kernel",
}
LAYERS = ("first", "last")

# The first step before which a parameter has a gradient; those that are not named have one at once.
# A factor 0 lets none through to its branch until it has moved. Fixup's classifier lets none
# through to anything but itself; then the last convolutions let none through to what is before
# them, and give the factor behind them nothing to scale.
WAKES = {
    SKIPINIT: {"first": 1, "last": 1},
    REZERO: {"first": 1, "last": 1},
    FIXUP: {"stem": 1, "last": 1, "first": 2, "factor": 2},
}
AWAKE = 2
FLOWS, ZERO = "flows", "zero by construction"
VANISHED, UNFORESEEN = "vanished", "unforeseen"


def network(name: str, depth: int, width: int, rngs: nnx.Rngs) -> nn.Chain:
    """Return stem, units with identity shortcuts (but in the plain ones) and head."""
    if name in (PLAIN, TWIN, BARE):
        shortcut = "identity" if name == TWIN else "none"
        norm = "none" if name == BARE else "batch"
        return Classifier(norm, shortcut, width, "relu", "he", "dense", depth).network(rngs)
    units = (depth - 2) // Classifier.convs_per_unit
    zero = nn.initializers.zeros()
    return nn.Chain(
        stem=nn.Conv(1, width, (3, 3), use_bias=False, kernel_init="he", rngs=rngs),
        body=nn.Repeat(lambda rngs: unit(name, width, units, rngs), units, rngs=rngs),
        head=nn.Chain(
            activation=nn.Activation("relu"),
            pool=nn.GlobalPool("avg"),
            dense=nn.Dense(
                width, Classifier.classes, kernel_init=zero if name == FIXUP else "lecun", rngs=rngs
            ),
        ),
    )


def unit(name: str, width: int, units: int, rngs: nnx.Rngs) -> nn.Residual:
    """Return a unit without norm of a network of ``units``, initialised as the name says."""
    inits: Any = {"conv1": "he", "conv2": "he"}
    if name == FIXUP:
        scale = gradflow.oracles.fixup_scale(units, Classifier.convs_per_unit)
        inits = {"conv1": nn.initializers.VarianceScaling(2 * scale**2), "conv2": "zero"}
    branch: dict[str, nnx.Module] = {}
    for i, (conv, init) in enumerate(inits.items(), 1):
        pair = {
            f"activation{i}": nn.Activation("relu"),
            conv: nn.Conv(width, width, (3, 3), use_bias=False, kernel_init=init, rngs=rngs),
        }
        branch |= dict(reversed(pair.items())) if name == REZERO else pair
    if name in SILENT:
        branch["factor"] = nn.Scale(1.0 if name == FIXUP else 0.0, learnable=True)
    return nn.Residual(nn.Chain(branch))


def wakes(columns: Columns) -> np.ndarray:
    """Return of every row the first step before which its parameter has a gradient."""
    pairs = zip(columns["network"].tolist(), columns["role"].tolist(), strict=True)
    return np.array([WAKES.get(network, {}).get(role, 0) for network, role in pairs])


def states(columns: Columns) -> np.ndarray:
    """Say of every row what its parameter's gradient does, and whether its construction says so.

    Returns:
      FLOWS; ZERO by construction; VANISHED where it is zero though nothing makes it so; UNFORESEEN
      where it is not though it should be; nothing for rows that are of no parameter.
    """
    zero, asleep = columns["gradient"] == 0, columns["step"] < wakes(columns)
    found = np.where(asleep, np.where(zero, ZERO, UNFORESEEN), np.where(zero, VANISHED, FLOWS))
    return np.where(np.isnan(columns["gradient"]), "", found)
