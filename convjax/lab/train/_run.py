"""A run in a folder: begun or gone on with, watched, stopped, and what it leaves as a table."""

import contextlib
import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from flax import nnx

import convjax
from convjax import data, lab, models, plots, train
from convjax.lab import Columns
from convjax.lab.train._columns import columns
from convjax.lab.train._options import HARMLESS, RGB, Training, frozen_of, pairs, recipe_of

HEAD = "head/*"
"""What of pretrained weights need not fit: they may be of other classes."""


class Subject(NamedTuple):
    """What is trained."""

    name: str
    draw: Callable[[], nnx.Module]  # at initialization
    sets: data.Sets
    recipe: train.Recipe
    remarks: tuple[str, ...]  # what was chosen, one sentence each
    facts: dict[str, Any]  # what the table says of the whole run beside: numbers and text


def subject(
    name: str,
    run: Training,
    sets: data.Sets,
    *,
    facts: dict[str, Any],
    preset: Mapping[str, Any] = MappingProxyType({}),
) -> Subject:
    """Return a network of the zoo for these images; what was asked for overrides the preset.

    Raises:
      ValueError: an unknown name or option, images too small for the network.
    """
    recipe = recipe_of(run)
    height, width, channels = sets.shape

    given = {"in_features": channels, "num_classes": sets.classes, **preset}
    given |= pairs("network", run.network)

    def draw() -> nnx.Module:
        return models.create(name, rngs=nnx.Rngs(run.seed), **given)

    def loaded() -> nnx.Module:
        how = {"allow": HEAD, "adapt_input": given["in_features"] != RGB}
        return models.create(name, weights=run.weights, rngs=nnx.Rngs(run.seed), **how, **given)

    outline = nnx.eval_shape(draw)
    frozen = frozen_of(run, outline)
    if run.weights is not None:
        draw = functools.cache(loaded)
        draw()  # says what does not fit, before anything is trained
    # Made anew where it is used; here it says what it does not take.
    train.make_step(outline, recipe, frozen=frozen)
    try:
        total = convjax.cost(outline, (1, *sets.shape)).total
    except ValueError as error:
        raise lab.UsageError(
            f"{name} cannot take images of {height}x{width}x{channels}: {error}. Where they are "
            "too small, another --size makes them larger."
        ) from error
    size = f"{total.parameters:,} parameters, {total.multiply_adds:,} multiply-adds an image"
    if run.weights is not None:
        size += f"; begins with the weights of {run.weights}"
    if frozen is not None:
        size += f"; {frozen.count['frozen']:,} parameters up to {run.freeze_up_to} stay as they are"
    epochs = recipe.steps * run.batch_size / sets.source.count
    steps = f"{recipe.steps:,} steps of {run.batch_size} images, {epochs:.1f} epochs"
    network, steps = f"network: {run.called}, {size}", f"run: {steps}, seed {run.seed}"
    remarks = (network, f"data: {sets.told}", steps)
    known = {"network": run.called, "parameters": total.parameters, "seed": run.seed, **facts}
    return Subject(run.called, draw, sets, recipe, remarks, known)


class Place:
    """Notes from where a run goes on and how far it comes; an observer."""

    def __init__(self):
        self.first = self.done = 0

    def begin(self, first: int, stop: int, batch_size: int) -> None:
        """Say where the run goes on."""
        self.first = self.done = first
        if first == stop:
            say(f"done before: all {stop} steps")
        elif first:
            say(f"going on from the checkpoint of step {first} of {stop}")

    def record(self, rows: Sequence[Mapping[str, Any]], pace: train.Pace) -> None:
        """Note how far the run is."""
        for row in rows:
            if row["kind"] == "train":
                self.done = row["step"] + 1

    def end(self) -> None:
        """Nothing is left to do."""


Prepared = Callable[[Any], AbstractContextManager[Subject]]


def look_at(runs: Sequence[Training], config: Any, prepared: Prepared) -> None:
    """Refuse what cannot be done, before anything is trained; ``prepared`` lends what a run trains.

    Raises:
      ValueError: what ``subject`` and the data refuse, a folder of another run.
    """
    if config.reach is not None and not 0 <= config.reach <= 1:
        raise lab.UsageError(f"reach = {config.reach} must lie between 0 and 1.")
    # What is looked at takes its place on a device: where others train, it must not be theirs.
    lab.use_platform(config.platform if config.runner == "here" else "cpu")
    # The first of each kind; the very first comes last, whose data are at hand then.
    for one in {run.called: run for run in reversed(runs)}.values():
        with prepared(one):
            pass
    for run in runs:
        refuse_another(run)


def carried_out(run: Training, prepared: Prepared) -> Columns:
    """Train, or go on, in the folder ``run.out``; tell what is trained, and where it stops.

    Raises:
      Diverged: see ``train.fit``.
      ValueError: a folder of another run.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    place = Place()
    try:
        with prepared(run) as what:
            say("\n".join(what.remarks))
            return trained(what, run, place)
    except KeyboardInterrupt:
        print(_interrupted(run.out, place), file=sys.stderr, flush=True)
        raise


def say(text: str) -> None:
    """Tell something; at once, wherever this process writes to."""
    print(text, flush=True)


def trained(what: Subject, run: Training, place: Place) -> Columns:
    """Train in the folder ``run.out``, or go on there, and return what ``columns`` makes of it."""
    start, worked = time.perf_counter(), time.process_time()
    folder = run.out
    claim(run)
    observers: list[train.Observer] = [place, train.ProgressBar(what.name)]
    if what.recipe.watch:
        file, title = folder / "waterfall.png", f"Gradient norm by layer and step: {what.name}"
        observers.append(plots.Waterfall(file, rows=rows_of(folder), title=title))
    if run.tensorboard:
        observers.append(train.TensorBoard(folder / "tensorboard"))
    net = what.draw()
    where: Any = {"folder": folder, "devices": run.devices, "observers": observers}
    held: Any = {"test": what.sets.test, "frozen": frozen_of(run, net)}
    fitted = train.fit(net, what.sets.source, what.recipe, **where, **held)
    rows = rows_of(folder)
    if not any(row["kind"] == "test" and row["step"] == what.recipe.steps for row in rows):
        rows.append(dict(fitted.test or {}))
    facts = {
        **what.facts,
        "steps": what.recipe.steps,
        "batch_size": run.batch_size,
        "examples": what.sets.source.count,
        "averaged": what.recipe.average > 0,
        "first": place.first,
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - worked,
    }
    return columns(rows, facts)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return what the run in a folder has recorded."""
    file = folder / "metrics.jsonl"
    return train.read_rows(file) if file.exists() else []


def claim(run: Training) -> None:
    """Write into a folder which run it holds; refuse one that holds checkpoints of another."""
    refuse_another(run)
    beside = run.out / f".run.json.{os.getpid()}"
    beside.write_text(json.dumps(_asked(run), indent=1) + "\n", encoding="utf-8")
    os.replace(beside, run.out / "run.json")


def refuse_another(run: Training) -> None:
    """Refuse a folder that holds checkpoints of another run."""
    file = run.out / "run.json"
    if not (_checkpoints(run.out) and file.exists()):
        return
    with contextlib.suppress(ValueError):
        there = json.loads(file.read_text(encoding="utf-8"))
        for key, asked in _asked(run).items():
            if there.get(key) != asked:
                raise lab.UsageError(
                    f"{str(run.out)!r} holds a run with {key} = {there.get(key)!r}, not "
                    f"{asked!r}: give the same options to go on with it, or another --out."
                )


def _asked(run: Training) -> dict[str, Any]:
    asked = {k: v for k, v in dataclasses.asdict(run).items() if k not in HARMLESS}
    return json.loads(json.dumps({"network_name": run.called, **asked}, default=str))


def _checkpoints(folder: Path) -> list[int]:
    """Return the steps of which a folder holds a checkpoint."""
    found = (folder / "checkpoints").glob("*")
    return sorted(int(entry.name) for entry in found if entry.name.isdigit())


def _interrupted(folder: Path, place: Place) -> str:
    kept = _checkpoints(folder)
    again = f"goes on from the checkpoint of step {kept[-1]}" if kept else ""
    how = again or "begins anew: there is no checkpoint yet"
    return f"interrupted after step {place.done}; the same command {how} in {folder}"
