"""What the gradient does in the first steps and over training: batch norm, branches born at zero.

    python -m experiments dynamics

Handwritten digits, deep networks of equal units: plain and residual, with batch norm and without,
SkipInit, ReZero and Fixup. Two phases. In the first ten steps of plain gradient descent the norms
of every layer's gradient, step and weights are taken before every step; then, from birth again,
over a training with momentum 0.9 at a rate that falls to zero as a cosine, at every fifth. Both are
what ``convjax.train`` watches. A waterfall of each network shows gradients by layer and step.

Batch norm: a plain network and its residual twin. "Range" is the largest over the smallest norm of
a weight gradient, over the equal 3x3 convolutions between stem and head. At birth the plain
network's gradients explode backwards. Weights that a norm follows are scale-invariant: the step is
orthogonal to them and can only lengthen them, most where the gradient is largest, and the gradient
goes as 1/|W|. Nothing is clipped: a clip keeps the first step small, and the explosion alive. Pass:

- the range falls after step 1, and stays below what it was at birth, in every seed, in the first
  steps and all through training (Yang et al. 2019, "A mean field theory of batch normalization":
  after one step the gradients have a dramatically smaller dynamic range); the residual twin's range
  at birth is the smaller one;
- |W'|^2 = |W|^2 + |step|^2, to 0.1 %, in each of the first steps;
- where the weights of the trained networks are halved and doubled, their gradient goes as 1/|W|, to
  1 % of the exponent; and weight decay, which shortens them, raises their gradients over training,
  by more than it changes |gradient| |W|.

Born at zero: residual networks without norm, one with He's initialisation for comparison, and
three whose branches are silent at birth, so that every unit is the identity.

- SkipInit (De and Smith 2020): a learned factor, born 0, ends each branch.
- ReZero (Bachlechner et al. 2020): the same, on a branch that ends in its activation.
- Fixup (Zhang et al. 2019): the last convolution of each branch and the classifier are born 0, the
  first convolution is scaled by L^(-1/(2m-2)), and a learned factor, born 1, ends each branch.
  Fixup's scalar biases are left out.

Pass: the norm of the gradient is the same at every unit, exactly, for a cotangent injected after
the last one (with Fixup's zero classifier the loss itself sends none); in the first steps parameter
gradients are zero exactly where and when the construction says so, and nowhere else; from step 2 on
none is. Such zeros are called "zero by construction": they are not vanishing gradients. Gradients
of networks without norm are clipped to norm 1, for the sake of He's.

Takes about five minutes of processor time. For a look at it in about one:
``--depths 10 --width 8 --seeds 1 --runs 1 --steps 20``.
"""

import dataclasses
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from convjax import data, lab
from convjax.lab import Columns, check_several, joined
from experiments import _dynamics_networks as networks
from experiments._classifier import CONVS_PER_UNIT
from experiments._dynamics_judged import judge as judge
from experiments._dynamics_measured import Plan, measured
from experiments._dynamics_shown import draw as draw
from experiments._dynamics_shown import table as table
from experiments._dynamics_shown import waterfalls

APART = ("depth",)


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options."""

    depths: tuple[int, ...] = (50,)
    """Weighted layers: a stem, pairs of 3x3 convolutions, a dense head; even numbers from 6."""
    width: int = 16
    """Channels."""
    batch_size: int = 32
    """Images in a batch; each step has a batch of its own."""
    first: int = 10
    """First steps, of gradient descent without momentum, at least 2."""
    learning_rate: float = 0.1
    """Of the first steps, and of the first one of training."""
    seeds: int = 5
    """How many take the first steps; each draws initial values and an order of the data."""
    steps: int = 150
    """Steps of training with momentum, from birth."""
    runs: int = 3
    """How many train: the first of the seeds."""
    watch: int = 5
    """Steps of training between those of which layers are kept."""
    decay: float = 0.01
    """Weight decay of the residual network with batch norm that is trained a second time."""
    out: Path = Path("results/dynamics")
    """Folder for the table and the figures; it is made if it is not there."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """Networks of one kind and depth."""

    network: str
    plan: Plan

    def __str__(self) -> str:
        return f"{self.network}, {self.plan.depth} layers"


def cells(config: Config) -> list[Cell]:
    """Return what is trained, depth by depth.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    given = {field.name: getattr(config, field.name, 0) for field in dataclasses.fields(Plan)}
    return [
        Cell(network, Plan(**given | {"depth": depth}))
        for depth in config.depths
        for network in networks.NETWORKS
    ]


def measure(cell: Cell) -> Columns:
    """Train networks of one kind and return a row per step and parameter, or place in the trunk.

    ``phase`` says when: "birth", an injected cotangent; "first" steps; "trained", over training;
    "scaled", a step of the trained network whose weights before a norm are multiplied by
    ``factor``. ``role`` says which parameter: stem, first and last convolution of a branch, its
    factor, the classifier; or "trunk", whose ``signal`` is the norm of the gradient by activations.
    """
    found = joined(list(measured(cell.network, cell.plan)))
    return found | {"depth": np.full(len(found["step"]), cell.plan.depth)}


def complete(columns: Columns) -> Columns:
    """Return the columns with ``state``, what each parameter's gradient does."""
    return columns | {"state": networks.states(columns)}


def also(columns: Columns) -> dict[str, Figure]:
    """Return the waterfalls of all networks."""
    made = {}
    for name, part in lab.parts(columns, APART):
        of = f"_{name.replace(' ', '_')}" if name else ""
        made |= {f"waterfall_{which}{of}": figure for which, figure in waterfalls(part)}
    return made


def check(config: Config) -> None:
    """Refuse what cannot be run, before anything is."""
    images = len(data.digits("train")[0])
    least = {
        "seeds": 1,
        "first": networks.AWAKE,
        "width": 1,
        "batch_size": 2,
        "runs": 1,
        "watch": 1,
    }
    for option, low in (least | {"steps": 2 * config.watch}).items():
        if getattr(config, option) < low:
            raise ValueError(
                f"{option}={getattr(config, option)} is too small; it must be at least {low}"
            )
    if config.runs > config.seeds:
        raise ValueError(f"runs={config.runs} must be at most seeds={config.seeds}")
    if config.batch_size > images:
        raise ValueError(
            f"batch_size={config.batch_size} must be at most {images}, the images of training"
        )
    for option in ("learning_rate", "decay"):
        if not getattr(config, option) > 0:
            raise ValueError(f"{option}={getattr(config, option)} must be positive")
    least_depth = 2 + 2 * CONVS_PER_UNIT
    for depth in config.depths:
        if depth < least_depth or (depth - 2) % CONVS_PER_UNIT:
            raise ValueError(
                f"depths={list(config.depths)}: {depth} cannot be built; a stem, pairs of "
                f"convolutions and a dense head make {least_depth}, {least_depth + 2}, "
                f"{least_depth + 4}, …"
            )
    check_several(config, "depths")
