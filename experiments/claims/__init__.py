"""What course texts say of these networks, sentence by sentence, each with a verdict from a run.

    python -m experiments claims

Three sentences are on convolutions (kernels split in two, depthwise, 1x1) and get their numbers as
the experiment ``separable`` does, at one size. The fourth is on residual connections, part by part.

- At initialization: deep stacks of width 32 on noise, with circular padding; a unit Gaussian
  cotangent comes back, |g_l|^2 / |g_L|^2 is measured behind every unit.
- Trained: plain and residual twins by momentum behind a clip, on two thirds of the digits. Losses
  and accuracies are taken on 599 images of these and of the other third, by running statistics.
- Looked into after training: features behind every unit against the stem's; loss and accuracy
  with one unit taken out, for every unit. Plain and residual networks lose theirs alike.

One rule gives every verdict. A claim has a number under each of several conditions (norm, depth,
initializer), one value a seed or a round of timing; the condition speaks for the claim or against
it where the median is beyond a margin and most seeds have its sign. The claim holds if all
conditions speak for it, those left out that let nothing be compared, such as networks that did not
train; holds only under those that do, if some do; fails if none does and one speaks against it;
and is not decided here if none speaks at all. The digits are small and easy: of published results
it is the signs that can be expected here, no values.

Pass, which is about the run and not about the claims: every claim has a verdict from finite
numbers; no loss is a NaN; the shallowest twins with batch norm, if there are any, trained; and
where a condition decides, the seeds or rounds agree.

Takes about three minutes on two cores. For a look at it in less than one:
``--depths 6 8 --steps 40 --seeds 1 --epochs 2``.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from rich.table import Table

from convjax import lab
from convjax.lab import Columns, Criterion, digits, pick, rules, that
from experiments import separable
from experiments.claims import shortcuts
from experiments.claims.figure import draw as draw
from experiments.claims.networks import PLAIN, RESIDUAL, Recipe, halves
from experiments.claims.parts import Convolutions, Initial, Taught, row
from experiments.separable.sentences import sentences

INITIAL = (("none", "lecun"), ("none", "he"), ("batch", "he"))
TRAINED = 0.8
AGREE = 0.5


@dataclasses.dataclass(frozen=True)
class Config(lab.Options):
    """Options."""

    depths: tuple[int, ...] = (8, 20, 56)
    """Weighted layers: a stem, pairs of 3x3 convolutions, a head; even numbers from 6, rising."""
    norms: tuple[Literal["batch", "none"], ...] = ("batch", "none")
    """Norms of the networks that are trained."""
    width: int = 8
    """Their channels."""
    seeds: int = 3
    """Networks of each kind."""
    steps: int = 240
    """Of training; a multiple of checks."""
    checks: int = 8
    """How often losses and accuracies are taken in training."""
    batch_size: int = 32
    """Images in a step."""
    learning_rate: float = 0.1
    """Of the first step; it falls to zero as a cosine."""
    channels: int = 64
    """Of the convolutions that are timed, on images of 14x14; a multiple of 4."""
    repeats: int = 7
    """Rounds of timing."""
    epochs: int = 20
    """Of training networks of full, split and separable convolutions and of bottlenecks."""


Cell = Convolutions | Initial | Taught


def cells(config: Config) -> list[Cell]:
    """Return what is measured; first the deepest, that none is left with the longest alone."""
    check(config)
    twins, seeds = (PLAIN, RESIDUAL), config.seeds
    recipe = Recipe(config.steps, config.batch_size, config.learning_rate, config.checks)
    return [
        *(Convolutions(part) for part in separable.cells(_separable(config))),
        *(
            Taught(twin, norm, depth, config.width, recipe, seeds)
            for depth in reversed(config.depths)
            for norm in config.norms
            for twin in twins
        ),
        *(
            Initial(twin, norm, config.depths[-1], init, seeds)
            for norm, init in INITIAL
            for twin in twins
        ),
    ]


def measure(cell: Cell) -> Columns:
    """Return numbers that verdicts come of.

    ``kind`` says what a row is about: those of ``separable``; "birth", "step" and "curve" of
    training, "looked". ``number`` is a place, step, check or unit.
    """
    return lab.stack(list(cell.rows()))


def complete(columns: Columns) -> Columns:
    """Return the numbers and the verdicts.

    A row of kind "claim" is a condition of a claim with the median of its support, the claim's
    verdict beside it.
    """
    return lab.joined([columns, lab.stack(list(_of_claims(columns)))])


def check(config: Config) -> None:
    """Refuse what cannot be run, before anything is."""
    lab.check_depths(config.depths)
    if len(config.depths) < 2 or sorted(set(config.depths)) != list(config.depths):
        raise ValueError(f"depths={list(config.depths)} must be two or more, rising")
    lab.check_several(config, "norms")
    lab.check_least(config, seeds=1, width=1, batch_size=2, checks=2)
    lab.check_positive(config, "learning_rate")
    images = len(halves()[0][0])
    if config.batch_size > images:
        raise ValueError(
            f"batch_size={config.batch_size} must be at most {images}, the images of training"
        )
    if config.steps < config.checks or config.steps % config.checks:
        raise ValueError(f"steps={config.steps} must be a multiple of checks={config.checks}")
    separable.check(_separable(config))


def _separable(config: Config) -> separable.Config:
    asked = {name: getattr(config, name) for name in ("repeats", "epochs", "seeds")}
    channels = (config.channels,)
    return separable.Config(sizes=(14,), channels=channels, kernel_sizes=(3,), width=16, **asked)


def claims(columns: Columns) -> list[rules.Claim]:
    """Return every sentence with its evidence, from the numbers alone."""
    return [*sentences(columns | {"topic": columns["kind"]}), *shortcuts.claims(columns)]


def _of_claims(columns: Columns) -> Iterator[dict[str, Any]]:
    for claim in claims(columns):
        name, verdict = f"{claim.number} {claim.text}", claim.verdict
        for i, one in enumerate(claim.evidence):
            yield row("claim", name, one.condition, one.median, number=i, verdict=verdict)


def judge(columns: Columns) -> list[Criterion]:
    """Say whether the run's verdicts mean anything; what they are is not judged."""
    every = claims(columns)
    lacking = [claim.number for claim in every if not rules.finite(claim)]
    values = pick(columns, kind=("step", "curve", "birth"))["value"]
    bad = int(np.sum(~np.isfinite(values)))
    share, number = min((rules.least_agreement(claim), claim.number) for claim in every)
    known = f"{len(every) - len(lacking)} of {len(every)}" + "".join(f", not {n}" for n in lacking)
    text, least = "where a condition decides, most seeds or rounds agree with it", f"{share:.0%}"
    return [
        that("every claim has a verdict from finite numbers", not lacking, known, "all"),
        that("losses, accuracies and gradients are finite", bad == 0, f"{bad} are not", "0"),
        that(text, share > AGREE, f"{least} at least (claim {number})", f"above {AGREE:.0%}"),
        *_judge_shallowest(columns),
    ]


def _judge_shallowest(columns: Columns) -> Iterator[Criterion]:
    depths = [depth for norm, depth in shortcuts.pairs(columns) if norm == "batch"]
    if not depths:
        return
    ends = shortcuts.end(columns, ("batch", min(depths)), "train_accuracy")
    least = min(float(np.median(end)) for end in ends)
    text = f"twins of {min(depths)} layers with batch norm trained: training accuracy"
    shown = f"{digits(least, 3)} at least (median)"
    yield that(text, least >= TRAINED, shown, f"{TRAINED} or more")


def table(columns: Columns) -> Table:
    """Return every claim with its verdict, what was measured, and what decides."""
    return rules.table("What course texts say, and what a run says of it", claims(columns))
