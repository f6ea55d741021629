"""What the gradient does in the first ten steps: batch norm's explosion, and branches born at zero.

    python -m experiments early-dynamics

Handwritten digits, plain stochastic gradient descent, a profile before every step.

Batch norm: a plain network and its residual twin. "Range" is the largest over the smallest norm of
a weight gradient, over the equal 3x3 convolutions between stem and head. At birth the plain
network's gradients explode backwards. Weights behind a norm are scale-invariant: the step is
orthogonal to them and can only lengthen them, most where the gradient is largest, and the gradient
goes as 1/|W|. The range of |gradient| |W|, which does not see the lengths, tells what else has
happened. Nothing is clipped: a clip keeps the first step small, and the explosion alive. Pass: the
range falls after step 1, and stays below what it was at birth, in every seed (Yang et al. 2019, "A
mean field theory of batch normalization": after one step the gradients have a dramatically smaller
dynamic range); the residual twin's range at birth is the smaller one; and
|W_1|^2 = |W_0|^2 + |step|^2, to 0.1 %.

Born at zero: residual networks without norm, one with He's initialisation for comparison, and
three whose branches are silent at birth, so that every unit is the identity.

- SkipInit (De and Smith 2020): a learned factor, born 0, ends each branch.
- ReZero (Bachlechner et al. 2020): the same, on a branch that ends in its activation.
- Fixup (Zhang et al. 2019): the last convolution of each branch and the classifier are born 0, the
  first convolution is scaled by L^(-1/(2m-2)), and a learned factor, born 1, ends each branch.
  Fixup's scalar biases are left out.

Pass: the norm of the gradient is the same at every unit, exactly, for a cotangent injected after
the last one (with Fixup's zero classifier the loss itself sends none); parameter gradients are zero
exactly where and when the construction says so, and nowhere else; by step 2 none is. Such zeros are
called "zero by construction": they are not vanishing gradients. The gradients of these networks are
clipped to norm 1 in training, for the sake of He's.

Takes about a minute of processor time, spread over two threads. For a look at it in a few seconds:
``--depth 10 --width 8 --batch-size 32 --seeds 1 --steps 2``.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from convjax import data
from experiments import _cli, _outcome
from experiments._ahead import ahead
from experiments._classifier import CONVS_PER_UNIT
from experiments._columns import pick
from experiments._first_steps import (
    AWAKE,
    HE,
    NETWORKS,
    PLAIN,
    SILENT,
    TRUNK,
    TWIN,
    UNFORESEEN,
    VANISHED,
    ZERO,
    Programs,
    compile_programs,
    states,
    trained,
)
from experiments._first_steps_shown import (
    along_trunk,
    by_seed_and_step,
    draw,
    log_ranges,
    table,
)
from experiments._outcome import Columns, Criterion, Experiment, digits, that
from experiments._progress import Ticker

EXACTLY = 1e-6
ORTHOGONAL = 0.001


@dataclasses.dataclass(frozen=True)
class Config(_cli.Options):
    """Options."""

    depth: int = 50
    """Weighted layers: a stem, pairs of 3x3 convolutions, a dense head; an even number from 6."""
    width: int = 16
    """Channels."""
    batch_size: int = 32
    """Images in a batch; each step has a batch of its own."""
    steps: int = 10
    """Steps of training, at least 2."""
    learning_rate: float = 0.1
    """Of stochastic gradient descent, without momentum."""
    seeds: int = 5
    """How many: 0, 1, …; each draws initial values and an order of the data of its own."""
    out: Path = Path("results/early-dynamics")
    """Folder for the table and the figure; it is made if it is not there."""


def measure(config: Config) -> Columns:
    """Train every network for a few steps and return a row per parameter, and per unit at birth.

    ``role`` says which parameter: stem, first and last convolution of a branch, its factor, the
    classifier; or "trunk" for the rows of the injected cotangent.

    Raises:
      ValueError: an option that cannot be done.
    """
    check(config)
    images, labels = data.digits("train")
    orders = [
        [
            data.batch_indices(len(images), config.batch_size, seed=seed, step=step)
            for step in range(config.steps + 1)
        ]
        for seed in range(config.seeds)
    ]

    def prepare(name: str) -> Programs:
        return compile_programs(
            name,
            depth=config.depth,
            width=config.width,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
        )

    tables: list[Columns] = []
    with Ticker(len(NETWORKS)) as ticker:
        ticker.begin("compiling")
        for name, programs in ahead(prepare, NETWORKS):
            ticker.begin(name)
            for seed, order in enumerate(orders):
                same = {"network": name, "seed": seed, "learning_rate": config.learning_rate}
                for one in trained(programs, jax.random.key(seed), images[order], labels[order]):
                    rows = len(one["role"])
                    tables.append({k: np.full(rows, v) for k, v in same.items()} | one)
            ticker.finish(name)
    joined = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    return joined | {"state": states(joined)}


def check(config: Config) -> None:
    """Refuse what cannot be run, before anything is."""
    for option, least in (("seeds", 1), ("steps", AWAKE), ("width", 1), ("batch_size", 2)):
        if getattr(config, option) < least:
            raise ValueError(
                f"{option}={getattr(config, option)} is too small; it must be at least {least}"
            )
    if not config.learning_rate > 0:
        raise ValueError(f"learning_rate={config.learning_rate} must be positive")
    least = 2 + 2 * CONVS_PER_UNIT
    if config.depth < least or (config.depth - 2) % CONVS_PER_UNIT:
        raise ValueError(
            f"depth={config.depth} cannot be built: a stem, pairs of convolutions and a dense head "
            f"make {least}, {least + 2}, {least + 4}, …"
        )


def judge(columns: Columns) -> list[Criterion]:
    """Return what must hold of batch norm's range and of the branches born at zero."""
    return [*judge_ranges(columns), *judge_silent(columns)]


def judge_ranges(columns: Columns) -> list[Criterion]:
    """Return the criteria for the networks with batch norm."""
    plain, twin = log_ranges(columns, PLAIN), log_ranges(columns, TWIN)
    birth, after = np.exp(np.median(plain[:, :2], axis=0))
    later, seeds = np.exp(np.median(plain[:, 1:].max(axis=1))), len(plain)
    return [
        that(
            "plain, batch norm: the range falls after step 1",
            bool((plain[:, 1] < plain[:, 0]).all()),
            f"{digits(birth)} to {digits(after)} (median)",
            f"smaller in all {seeds} seeds",
        ),
        that(
            "and stays below that at birth",
            bool((plain[:, 1:] < plain[:, :1]).all()),
            f"at most {digits(later)} (median)",
            f"smaller in all {seeds} seeds",
        ),
        that(
            "residual, batch norm: at birth its range is below the plain one's",
            bool((twin[:, 0] < plain[:, 0]).all()),
            f"{digits(np.exp(np.median(twin[:, 0])))} (median)",
            f"smaller in all {seeds} seeds",
        ),
        _outcome.within(
            "step 1 is orthogonal to the weights: 1 - |W_1|^2 / (|W_0|^2 + |step|^2)",
            off_orthogonal(columns),
            0.0,
            absolute=ORTHOGONAL,
            why="the worst layer and seed",
        ),
    ]


def off_orthogonal(columns: Columns) -> float:
    """Return 1 - |W_1|^2 / (|W_0|^2 + |step|^2) where it is furthest from 0."""
    weights = by_seed_and_step(columns, PLAIN, "parameter_log_norm")
    gradients = by_seed_and_step(columns, PLAIN, "parameter_gradient_log_norm")
    steps = gradients[:, 0] + np.log(columns["learning_rate"][0])
    off = -np.expm1(2 * weights[:, 1] - np.logaddexp(2 * weights[:, 0], 2 * steps))
    return float(off.flat[np.abs(off).argmax()])


def judge_silent(columns: Columns) -> list[Criterion]:
    """Return the criteria for the branches born at zero."""
    made = [judge_pattern(columns, network) for network in SILENT]
    zero = np.isneginf(columns["parameter_gradient_log_norm"])
    still = int(np.sum(zero & np.isin(columns["network"], SILENT) & (columns["step"] >= AWAKE)))
    asleep = int(np.sum(zero & (columns["network"] == HE) & (columns["step"] == 0)))
    uneven = max(float(np.abs(along_trunk(columns, network)).max()) for network in SILENT)
    grown = along_trunk(columns, HE)[:, 0]
    return [
        *made,
        that(
            f"{', '.join(SILENT)}: no gradient is zero from step {AWAKE} on",
            still == 0,
            f"{still} zeros",
            "0",
        ),
        that("He, for comparison: none is zero at step 0", asleep == 0, f"{asleep} zeros", "0"),
        _outcome.within(
            f"{', '.join(SILENT)}: ln of the gradient's norm is the same at every unit",
            uneven,
            0.0,
            absolute=EXACTLY,
            why="rounding",
        ),
        that(
            "He, for comparison: it is not",
            bool((grown > np.log(2)).all()),
            f"x{digits(np.exp(np.median(grown)))} to the stem (median)",
            "above x2 in all seeds",
        ),
    ]


def judge_pattern(columns: Columns, network: str) -> Criterion:
    """Return whether a network's zeros are those of its construction."""
    rows = pick(columns, network=network)
    states = rows["state"][rows["role"] != TRUNK]
    wrong = {state: int((states == state).sum()) for state in (VANISHED, UNFORESEEN)}
    zeros = int((states == ZERO).sum())
    return that(
        f"{network}: gradients are zero where and when the construction says so, only there",
        sum(wrong.values()) == 0 and zeros > 0,
        f"{zeros} zeros by construction; {wrong[VANISHED]} others, {wrong[UNFORESEEN]} missing",
        "0 others, 0 missing",
    )


EXPERIMENT = Experiment("early-dynamics", __doc__ or "", Config, measure, judge, draw, table)


def main(argv: Sequence[str]) -> int:
    """Run the experiment from the command line and return the exit code."""
    return _outcome.run(EXPERIMENT, argv)
