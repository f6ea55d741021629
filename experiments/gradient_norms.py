"""How the gradient fades or explodes across depth, in plain and residual networks.

    python -m experiments gradient-norms

Handwritten digits go through networks of several depths with and without shortcuts, without norm
and with batch norm; the norm of the loss's gradient is measured at the output of every unit, at
birth and after a few steps of training. Prints a table; writes every number to
``gradient_norms.parquet`` and one figure to ``gradient_norms.png`` and ``.svg``.

Takes about a minute of processor time, spread over two threads, nearly all of it compilation. For a
look at it in a few seconds:
``--depths 8 --seeds 1 --steps 1``.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console

from convjax import data, plots, study
from experiments import _cli
from experiments._ahead import ahead
from experiments._classifier import (
    CONVS_PER_UNIT,
    Cell,
    Programs,
    Training,
    compile_programs,
    structure,
)
from experiments._growth_table import summaries, to_table
from experiments._progress import Ticker

STEM = "gradient_norms"
AXES = tuple(field.name for field in dataclasses.fields(Cell))


@dataclasses.dataclass(frozen=True)
class Config(_cli.Options):
    """Options; those that take several values span a grid."""

    depths: tuple[int, ...] = (8, 20, 56, 110)
    """Weighted layers: a stem, pairs of 3x3 convolutions, a dense head; so even numbers from 6."""
    widths: tuple[int, ...] = (8,)
    """Channels."""
    norms: tuple[str, ...] = ("none", "batch")
    """Norms: none, batch, group, layer."""
    shortcuts: tuple[str, ...] = ("none", "identity")
    """Shortcuts: none (the plain network), identity (the residual one), scaled, gated."""
    activations: tuple[str, ...] = ("relu",)
    """Activations: relu, tanh, gelu, and others that convjax.nn.ACTIVATIONS names."""
    inits: tuple[str, ...] = ("he",)
    """Initialisers of the kernels: he, lecun, glorot, and others of convjax.nn.initializers."""
    convs: tuple[Literal["dense", "separable"], ...] = ("dense",)
    """Convolutions of the stack."""
    seeds: int = 3
    """How many: 0, 1, …; each draws initial values and an order of the data of its own."""
    steps: int = 10
    """Steps of training between the first measurement and the second; 0 leaves that one out."""
    data: Literal["digits", "gaussian"] = "digits"
    """Handwritten digits of 8x8 pixels, or noise of that shape with random labels."""
    batch_size: int = 32
    """Images in a batch, in measuring and in training."""
    learning_rate: float = 0.1
    """Of stochastic gradient descent."""
    momentum: float = 0.9
    """Of the same."""
    clip: float = 1.0
    """Largest norm of the gradient of all parameters in a step of training."""
    everything: bool = False
    """Measure inside the units and in the head too, and parameters; takes about twice as long."""
    out: Path = Path("results/gradient-norms")
    """Folder for the table and the figure; it is made if it is not there."""


@dataclasses.dataclass
class Results:
    """What has been measured so far.

    Attributes:
      parts: one table for each cell.
      interrupted: whether cells are missing because the user stopped the run.
    """

    parts: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)
    interrupted: bool = False

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """All tables in one."""
        return _joined(self.parts)


def main(argv: Sequence[str]) -> int:
    """Run the experiment from the command line and return the exit code."""
    about, _, _ = (__doc__ or "").partition("\n")
    config = _cli.parse(Config, argv, name="gradient-norms", about=about)
    _cli.use_platform(config.platform)
    results = run(config)
    if results.parts:
        report(config, results)
    if results.interrupted:
        kept = f"{len(results.parts)} of {len(cells(config))} networks are kept"
        Console(stderr=True).print(f"interrupted: {kept} in {config.out}", highlight=False)
    return 130 if results.interrupted else 0


def cells(config: Config) -> list[Cell]:
    """Return every network of the grid."""
    values = itertools.product(*(getattr(config, f"{axis}s") for axis in AXES))
    return [Cell(**dict(zip(AXES, one, strict=True))) for one in values]


def run(config: Config) -> Results:
    """Measure every cell, and after each one rewrite the file of all.

    Raises:
      UsageError: an option that cannot be done, found before anything is measured.
    """
    grid = cells(config)
    check(config, grid)
    with _cli.refusing():
        source = {"digits": data.digits, "gaussian": data.gaussian}[config.data]
        images, labels = source()
        batches = [_batches(config, seed, len(images)) for seed in range(config.seeds)]
        study.check_writable(config.out)
    training = Training(config.learning_rate, config.momentum, config.clip)

    def prepare(cell: Cell) -> Programs:
        shape = (config.batch_size, *images.shape[1:])
        return compile_programs(
            cell,
            training,
            batch=shape,
            steps=config.steps,
            seeds=config.seeds,
            everything=config.everything,
        )

    results = Results()
    metadata = {"config": as_json(config), "environment": study.environment()}
    try:
        with Ticker(len(grid)) as ticker:
            ticker.begin("compiling")
            for cell, programs in ahead(prepare, grid):
                ticker.begin(name(cell, grid))
                tables = [
                    table
                    for seed, order in enumerate(batches)
                    for table in measured(
                        config, cell, programs, seed, images[order], labels[order]
                    )
                ]
                results.parts.append(_joined(tables))
                study.write_parquet(config.out / f"{STEM}.parquet", results.columns, metadata)
                failures = sorted({t["failure"][0] for t in tables} - {""})
                ticker.finish(name(cell, grid), "; ".join(failures))
    except KeyboardInterrupt:
        results.interrupted = True
    return results


def measured(
    config: Config,
    cell: Cell,
    programs: Programs,
    seed: int,
    images: np.ndarray,
    labels: np.ndarray,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield one seed's tables, at birth and after training.

    The first batch is measured on, the others are trained on: both measurements see one batch,
    which no step has seen.
    """
    params, rest = programs.draw(jax.random.key(seed))
    for step in sorted({0, config.steps}):
        if step and programs.train is not None:
            params = programs.train(params, rest, images[1:], labels[1:])
        profile = programs.measure(params, rest, images[0], labels[0])
        try:
            failure = ""
            profile.check()
        except ValueError as error:
            failure = str(error)
        table = profile.table()
        constants = {
            **dataclasses.asdict(cell),
            "seed": seed,
            "step": step,
            **{k: v for k, v in as_json(config).items() if k in _SHARED},
            "loss": float(profile.loss),
            "failure": failure,
        }
        rows = len(table["path"])
        filled = {name: np.full(rows, value) for name, value in constants.items()}
        yield {**filled, "position": _positions(table["path"], cell.units), **table}


_SHARED = ("data", "batch_size", "learning_rate", "momentum", "clip")


def report(config: Config, results: Results) -> None:
    """Print the table and draw the figure."""
    columns = results.columns
    varied = [axis for axis in AXES if len(getattr(config, f"{axis}s")) > 1]
    by = [axis for axis in AXES if axis in {"norm", "shortcut", "depth", *varied}] + ["step"]
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=100)
    console.print(to_table(summaries(columns, by, layers_per_unit=CONVS_PER_UNIT), by))
    written = plots.save(plots.gradient_norms(columns), config.out / STEM)
    for path in (config.out / f"{STEM}.parquet", *written):
        console.print(str(path), soft_wrap=True)


def check(config: Config, grid: list[Cell]) -> None:
    """Refuse what cannot be run, before anything is."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == ():
            raise _cli.UsageError(f"{field.name} is empty; give at least one value.")
        if isinstance(value, tuple) and len(set(value)) < len(value):
            raise _cli.UsageError(f"{field.name} = {list(value)} names one value twice.")
    for option, least in (("seeds", 1), ("steps", 0), ("batch_size", 1)):
        if getattr(config, option) < least:
            raise _cli.UsageError(
                f"{option} = {getattr(config, option)} is too small; it must be at least {least}."
            )
    for option in ("learning_rate", "clip"):
        if not getattr(config, option) > 0:
            raise _cli.UsageError(f"{option} = {getattr(config, option)} must be positive.")
    for depth in config.depths:
        _check_depth(depth)
    for cell in grid:
        with _cli.refusing():
            structure(cell)


def _check_depth(depth: int) -> None:
    # Two positions on the trunk make a line that says nothing: the least stack has two units.
    least = 2 + 2 * CONVS_PER_UNIT
    if depth >= least and (depth - 2) % CONVS_PER_UNIT == 0:
        return
    below = max(least, 2 + (depth - 2) // CONVS_PER_UNIT * CONVS_PER_UNIT)
    near = f"{below} or {below + CONVS_PER_UNIT}" if depth > least else f"{least}"
    raise _cli.UsageError(
        f"depth {depth} cannot be built: a stem, units of {CONVS_PER_UNIT} convolutions (at least "
        f"two units) and a dense head make {least}, {least + CONVS_PER_UNIT}, "
        f"{least + 2 * CONVS_PER_UNIT}, …; the nearest would be {near}."
    )


def name(cell: Cell, grid: list[Cell]) -> str:
    """Say which cell of the grid this is, by what varies in it."""
    varied = [axis for axis in AXES if len({getattr(one, axis) for one in grid}) > 1] or ["depth"]
    return " ".join(f"{axis}={getattr(cell, axis)}" for axis in varied)


def as_json(config: Config) -> dict[str, Any]:
    """Return the options as JSON holds them."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def _batches(config: Config, seed: int, count: int) -> np.ndarray:
    """Return the indices of the batch to measure on, and of those to train on."""
    size = config.batch_size
    steps = range(config.steps + 1)
    return np.stack([data.batch_indices(count, size, seed=seed, step=step) for step in steps])


def _positions(paths: np.ndarray, units: int) -> np.ndarray:
    """Number the places of the trunk: the stem's output 0, then the units'; all else is -1."""
    trunk = {"stem": 0} | {f"body/{i}": i + 1 for i in range(units)}
    return np.array([trunk.get(path, -1) for path in paths.tolist()])


def _joined(tables: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
