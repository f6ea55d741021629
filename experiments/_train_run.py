"""A run in a folder: begun or gone on with, watched, stopped, and what it leaves as a table."""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flax import nnx
from rich.console import Console

import convjax
from convjax import models, plots, study, train
from experiments import _cli, _outcome
from experiments._outcome import Columns, Experiment
from experiments._train_columns import columns
from experiments._train_data import Sets
from experiments._train_options import APART, Training, pairs, recipe_of


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What is trained.

    Attributes:
      name: of the network.
      net: the network.
      sets: the data.
      recipe: how.
      remarks: what was chosen, one sentence each.
      facts: what the table says of the whole run beside: numbers and text.
    """

    name: str
    net: nnx.Module
    sets: Sets
    recipe: train.Recipe
    remarks: tuple[str, ...]
    facts: dict[str, Any]


def subject(
    name: str,
    options: Training,
    sets: Sets,
    *,
    facts: dict[str, Any],
    preset: Mapping[str, Any] = MappingProxyType({}),
    called: str | None = None,
) -> Subject:
    """Return a network of the zoo that takes these images, and how it is trained.

    Args:
      name: one of ``models.list()``.
      options: what was asked for.
      sets: the data; the network has their channels and classes.
      facts: see ``Subject``.
      preset: options of the network; those that were asked for override them.
      called: what it is called; None calls it by its name.

    Raises:
      ValueError: an unknown name or option, images too small for the network.
    """
    recipe = recipe_of(options)
    height, width, channels = sets.shape
    given = {"in_features": channels, "num_classes": sets.classes, **preset}
    given |= pairs("network", options.network)
    net = models.create(name, rngs=nnx.Rngs(options.seed), **given)
    try:
        cost = convjax.cost(net, (1, *sets.shape))
    except ValueError as error:
        raise _cli.UsageError(
            f"{name} cannot take images of {height}x{width}x{channels}: {error}. Where they are "
            "too small, another --size makes them larger."
        ) from error
    total = cost.total
    size = f"{total.parameters:,} parameters, {total.multiply_adds:,} multiply-adds an image"
    told = f"network: {called or name}, {size}"
    every = f"{recipe.steps:,} steps of {options.batch_size} images"
    epochs = recipe.steps * options.batch_size / sets.source.count
    return Subject(
        called or name,
        net,
        sets,
        recipe,
        (told, f"data: {sets.told}", f"run: {every}, {epochs:.1f} epochs"),
        {"network": called or name, "parameters": total.parameters, **facts},
    )


class Place:
    """Notes from where a run goes on and how far it comes; an observer."""

    def __init__(self, say: Callable[[str], None]):
        self.say = say
        self.first = self.done = 0

    def begin(self, first: int, stop: int, batch_size: int) -> None:
        """Say where the run goes on."""
        self.first = self.done = first
        if first == stop:
            self.say(f"done before: all {stop} steps")
        elif first:
            self.say(f"going on from the checkpoint of step {first} of {stop}")

    def record(self, rows: Sequence[Mapping[str, Any]], pace: train.Pace) -> None:
        """Note how far the run is."""
        for row in rows:
            if row["kind"] == "train":
                self.done = row["step"] + 1

    def end(self) -> None:
        """Nothing is left to do."""


def carried_out(
    experiment: Experiment,
    options: Training,
    prepared: Callable[[Any], AbstractContextManager[Subject]],
) -> int:
    """Train as the options say, and report.

    Args:
      experiment: what is reported, and how.
      options: its options; ``out`` is the folder of the run.
      prepared: lends what is trained.

    Returns:
      As ``_outcome.run``; 1 too where the numbers left their range.
    """
    _cli.use_platform(options.platform)
    with _cli.refusing():
        study.check_writable(options.out)
        shown = _outcome.console()

        def say(text: str) -> None:
            shown.print(text, soft_wrap=True, markup=False)

        place = Place(say)
        try:
            with prepared(options) as what:
                say("\n".join(what.remarks))
                found = trained(what, options, place)
        except KeyboardInterrupt:
            Console(stderr=True).print(_interrupted(options.out, place), highlight=False)
            return 130
        except train.Diverged as error:
            Console(stderr=True).print(f"error: {error}", highlight=False, markup=False)
            return 1
    return _outcome.report(experiment, options, found)


def trained(what: Subject, options: Training, place: Place | None = None) -> Columns:
    """Train in the folder ``options.out``, or go on there, and return what ``columns`` makes of it.

    Raises:
      Diverged: see ``train.fit``.
      ValueError: a folder of another run.
    """
    start, worked = time.perf_counter(), time.process_time()
    folder = options.out
    place = place or Place(lambda text: None)
    claim(folder, options, what.name)
    observers: list[train.Observer] = [place, train.ProgressBar(what.name)]
    if what.recipe.watch:
        picture = plots.Waterfall(
            folder / "waterfall.png",
            rows=rows_of(folder),
            title=f"Gradient norm by layer and step: {what.name}",
        )
        observers.append(picture)
    if options.tensorboard:
        observers.append(train.TensorBoard(folder / "tensorboard"))
    fitted = train.fit(
        what.net,
        what.sets.source,
        what.recipe,
        folder=folder,
        test=what.sets.test,
        observers=observers,
        devices=options.devices,
    )
    rows = rows_of(folder)
    if not any(row["kind"] == "test" and row["step"] == what.recipe.steps for row in rows):
        rows.append(dict(fitted.test or {}))
    return columns(
        rows,
        {
            **what.facts,
            "steps": what.recipe.steps,
            "batch_size": options.batch_size,
            "examples": what.sets.source.count,
            "averaged": what.recipe.average > 0,
            "first": place.first,
            "seconds": time.perf_counter() - start,
            "processor_seconds": time.process_time() - worked,
        },
    )


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return what the run in a folder has recorded."""
    file = folder / "metrics.jsonl"
    return train.read_rows(file) if file.exists() else []


def claim(folder: Path, options: Training, name: str) -> None:
    """Write into a folder which run it holds; refuse one that holds checkpoints of another."""
    asked = {k: v for k, v in dataclasses.asdict(options).items() if k not in APART}
    asked = json.loads(json.dumps({"network_name": name, **asked}, default=str))
    file = folder / "run.json"
    if _checkpoints(folder) and file.exists():
        with contextlib.suppress(ValueError):
            there = json.loads(file.read_text(encoding="utf-8"))
            for key in asked:
                if there.get(key) != asked[key]:
                    raise _cli.UsageError(
                        f"{str(folder)!r} holds a run with {key} = {there.get(key)!r}, not "
                        f"{asked[key]!r}: give the same options to go on with it, or another --out."
                    )
    beside = folder / f".run.json.{os.getpid()}"
    beside.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, file)


def _checkpoints(folder: Path) -> list[int]:
    """Return the steps of which a folder holds a checkpoint."""
    found = (folder / "checkpoints").glob("*")
    return sorted(int(entry.name) for entry in found if entry.name.isdigit())


def _interrupted(folder: Path, place: Place) -> str:
    kept = _checkpoints(folder)
    how = "begins anew: there is no checkpoint yet"
    if kept:
        how = f"goes on from the checkpoint of step {kept[-1]}"
    return f"interrupted after step {place.done}; the same command {how} in {folder}"
