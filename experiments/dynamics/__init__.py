"""What the gradient does in the first steps and over training: batch norm, branches of scale zero.

    python -m experiments dynamics

Handwritten digits, deep networks of equal units: plain and residual, with batch norm and without,
SkipInit, ReZero and Fixup. In the first ten steps of plain gradient descent the norms of every
layer's gradient, step and weights are taken before every step; then, from the start again, at every
fifth step of a training with momentum 0.9 at a rate that falls to zero as a cosine. A waterfall of
each network shows gradients by layer and step.

Batch norm: a plain network and its residual twin. "Range" is the largest over the smallest norm of
a weight gradient, over the equal 3x3 convolutions between stem and head. Initially the plain
network's gradients explode backwards. Weights that a norm follows are scale-invariant: the step is
orthogonal to them and can only lengthen them, most where the gradient is largest, and the gradient
goes as 1/|W|. Nothing is clipped: a clip keeps the first step small, and the explosion alive. Pass:

- the range falls after step 1, and stays below its initial value, in every seed, in the first
  steps and all through training (Yang et al. 2019, "A mean field theory of batch normalization":
  after one step the gradients have a dramatically smaller dynamic range); the initial range of the
  residual twin is the smaller one;
- |W'|^2 = |W|^2 + |step|^2, to 0.1 %, in each of the first steps;
- where the weights of the trained networks are halved and doubled, their gradient goes as 1/|W|, to
  1 % of the exponent; and weight decay, which shortens them, raises their gradients over training,
  by more than it changes |gradient| |W|.

Scale zero: residual networks without norm, one with He's initialisation for comparison, and
three whose branches are zero at initialization, so that every unit is the identity.

- SkipInit (De and Smith 2020): a learned factor, initially 0, ends each branch.
- ReZero (Bachlechner et al. 2020): the same, on a branch that ends in its activation.
- Fixup (Zhang et al. 2019), without its scalar biases: the last convolution of each branch and the
  classifier are 0, the first convolution is scaled by L^(-1/(2m-2)), and a learned factor,
  initially 1, ends each branch.

Pass: the norm of the gradient is the same at every unit, exactly, for a cotangent injected after
the last one (with Fixup's zero classifier the loss itself sends none); in the first steps parameter
gradients are zero exactly where and when the construction says so ("zero by construction"); from
step 2 on none is. Gradients of networks without norm are clipped to norm 1, for the sake of He's.

Takes about five minutes of processor time. For a look at it in about one:
``--depths 10 --width 8 --seeds 1 --runs 1 --steps 20``.
"""

import dataclasses

from matplotlib.figure import Figure

from convjax import data, lab
from convjax.lab import Columns
from experiments.dynamics import networks
from experiments.dynamics.criteria import judge as judge
from experiments.dynamics.figure import draw as draw
from experiments.dynamics.figure import table as table
from experiments.dynamics.figure import waterfalls
from experiments.dynamics.training import Cell, Settings, measured

APART = ("depth",)


@dataclasses.dataclass(frozen=True)
class Config(lab.Options, Settings):
    """Options."""

    depths: tuple[int, ...] = (50,)
    """Weighted layers: a stem, pairs of 3x3 convolutions, a dense head; even numbers from 6."""


def cells(config: Config) -> list[Cell]:
    """Return what is trained, depth by depth.

    Raises:
      ValueError: an option that cannot be done.
    """
    lab.check_depths(config.depths)
    lab.check_several(config, "depths")
    lab.check_least(config, seeds=1, first=networks.AWAKE, width=1, batch_size=2, runs=1, watch=1)
    lab.check_least(config, steps=2 * config.watch)
    lab.check_positive(config, "learning_rate", "decay")
    if config.runs > config.seeds:
        raise ValueError(f"runs={config.runs} must be at most seeds={config.seeds}")
    data.batch_indices(len(data.digits("train")[0]), config.batch_size, seed=0, step=0)
    return [
        lab.cell_of(Cell, config, network=network, depth=depth)
        for depth in config.depths
        for network in networks.NETWORKS
    ]


def measure(cell: Cell) -> Columns:
    """Train networks of one kind and return a row per step and parameter, or place in the trunk.

    ``phase`` says when: "birth", an injected cotangent at initialization; "first" steps; "trained",
    over training; "scaled", a step of the trained network whose weights before a norm are
    multiplied by ``factor``. ``role`` says which parameter: stem, first and last convolution of a
    branch, its factor, the classifier; or "trunk", whose ``signal`` is the norm of the gradient by
    activations.
    """
    return lab.beside(lab.joined(list(measured(cell))), depth=cell.depth)


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
