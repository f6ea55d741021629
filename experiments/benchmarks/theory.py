"""How often does theory call a sound network departed? Nothing is timed here.

    python -m experiments bench-theory

Every network of a list is initialised anew many times, as it should be, and each time its profile
is held against what ``gradflow.predict`` expects: an alarm is a false one. Of all initializations
at most 2 % should raise one. Beside the alarms stand the whole network's gains, predicted and
measured, and their scatter.

Theory may be tuned on half of the list, told by a checksum of the name; the others decide.

Takes some eight minutes on two cores. With ``--zoo --draws 3`` a network of every family of
``convjax.models`` is held, at two sizes and in both modes, in their place. Most of that is
compilation: on JAX 0.10 it takes half as long with ``XLA_FLAGS=--xla_cpu_use_fusion_emitters=false
--xla_cpu_parallel_codegen_split_count=1``. Every row is kept as it comes, and not measured again
while the code is the same.
"""

import collections
import dataclasses
import functools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.table import Table

from convjax import gradflow, lab, study
from experiments.benchmarks import benchmark
from experiments.benchmarks.sound import SOUND, ZOO, Make, Sound, batch, is_held_out

main = partial(benchmark.run, __name__)


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Options):
    """Options."""

    networks: tuple[str, ...] = ()
    """Names, or parts of names; all where none is given."""
    zoo: bool = False
    """Whether networks are those of convjax.models."""
    draws: int = 40
    """Random initializations of each network."""

    @property
    def sound(self) -> dict[str, Sound]:
        """The networks to choose from."""
        return ZOO if self.zoo else SOUND


def check(config: Config) -> None:
    """Refuse parts of names that no network has."""
    lab.check_least(config, draws=2)
    for part in config.networks:
        if not any(part in name for name in config.sound):
            known = ", ".join(config.sound)
            raise ValueError(f"networks={part!r} is part of no name; there are {known}")


def measure(config: Config) -> dict[str, Any]:
    """Return a row for each network."""
    sound, parts = config.sound, config.networks
    names = [name for name in sound if not parts or any(part in name for part in parts)]
    path, version = config.out / "bench_theory.json", study.version(held)
    alike = {"draws": config.draws, "version": version}
    rows = [row for row in _kept(path) if row["name"] in names and row | alike == row]
    names = [name for name in names if name not in {row["name"] for row in rows}]
    before = jax.config.read("jax_disable_most_optimizations")
    # A program runs a few times only: what counts is how fast it is compiled.
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        for name in benchmark.one_by_one(names, str):
            found = held(sound[name], config.draws)
            rows.append({"name": name, "held_out": is_held_out(name), **alike, **found})
            benchmark.keep(path, config, {"rows": rows}, [])
            jax.clear_caches()
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
    return {"rows": sorted(rows, key=lambda row: list(sound).index(row["name"]))}


def _kept(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def held(sound: Sound, draws: int) -> dict[str, Any]:
    """Return how many initializations of a network raise an alarm, where, and its gains."""
    measured = (_one_by_one if sound.large else _together)(sound, draws)
    # Scales are not random, and theory reads them.
    net = _initialised(sound.make, draws)[0] if sound.large else sound.make(nnx.Rngs(0))
    prediction = gradflow.predict(net, np.asarray(batch(sound)), train=sound.train)
    each = [gradflow.compare(profile, prediction) for profile in measured]
    blamed = collections.Counter(f"{c.first} ({c.side})" for c in each if not c.agrees)
    found: dict[str, Any] = {"alarms": blamed.total(), "draws": draws, "blamed": dict(blamed)}
    found["verdicts"] = [c.verdict for c in each if not c.agrees]
    for side in ("activation", "gradient"):
        gains = np.array([getattr(c[""], f"{side}_gain") for c in each])
        found[side] = {
            "expected": getattr(prediction[""], f"{side}_gain"),
            "scatter": getattr(prediction[""], f"{side}_gain_scatter"),
            "measured": float(gains.mean()),
            "measured_scatter": float(gains.std(ddof=1)),
        }
    return found


def _keys(draws: int) -> jax.Array:
    """Return three keys a draw: of the weights, the cotangent and what is dropped."""
    return jax.vmap(lambda key: jax.random.split(key, 3))(
        jax.random.split(jax.random.key(1), draws)
    )


def _together(sound: Sound, draws: int) -> list[gradflow.Profile]:
    """Return profiles of one program for all initializations."""
    x = batch(sound)

    @jax.jit
    @jax.vmap
    def profiles(keys: jax.Array) -> gradflow.Profile:
        net, rngs = sound.make(nnx.Rngs(keys[0])), nnx.Rngs(keys[2])
        return gradflow.profile(net, x, cotangent=keys[1], train=sound.train, rngs=rngs)

    measured = jax.tree.map(np.asarray, profiles(_keys(draws)))
    return [jax.tree.map(lambda a, i=i: a[i], measured) for i in range(draws)]


def _one_by_one(sound: Sound, draws: int) -> list[gradflow.Profile]:
    """Return the same, one after the other: a program without loops compiles in half the time."""
    nets, x = _initialised(sound.make, draws), batch(sound)
    return [
        gradflow.profile(net, x, cotangent=keys[1], train=sound.train, rngs=nnx.Rngs(keys[2]))
        for net, keys in zip(nets, _keys(draws), strict=True)
    ]


@functools.lru_cache(maxsize=1)
def _initialised(make: Make, draws: int) -> list[nnx.Module]:
    return [make(nnx.Rngs(keys[0])) for keys in _keys(draws)]


def tables(found: dict[str, Any], config: Config) -> Iterator[Table]:
    """Yield a row for each network, and the rates; of the zoo, those that alarm."""
    if config.zoo:
        yield _of_families(found["rows"])
        return
    table = Table(title="False alarms of theory on sound networks")
    for head in ("network", "alarms", "gain of the activation", "of the gradient", "blamed first"):
        table.add_column(head)
    for row in found["rows"]:
        blamed = max(row["blamed"], key=row["blamed"].get, default="")
        gains = [_gain(row[side], row["draws"]) for side in ("activation", "gradient")]
        name = row["name"] + (" *" if row["held_out"] else "")
        table.add_row(name, f"{row['alarms']} of {row['draws']}", *gains, blamed)
    yield table
    rates = Table("", "alarms", "networks with more than 10 %", title="* decides: not tuned on")
    for name, wanted in (("all", (True, False)), ("*", (True,))):
        rows = [row for row in found["rows"] if row["held_out"] in wanted]
        if rows:
            share = sum(row["alarms"] for row in rows) / sum(row["draws"] for row in rows)
            many = sum(row["alarms"] > 0.1 * row["draws"] for row in rows)
            rates.add_row(name, f"{share:.1%}", f"{many} of {len(rows)}")
    yield rates


def _of_families(rows: list[dict[str, Any]]) -> Table:
    """Return alarms of every family that raises one, by size and mode."""
    cells = {tuple(row["name"].split(", ")): row for row in rows}
    columns = sorted({key[1:] for key in cells})
    quiet = {name for name, *_ in cells} - {key[0] for key, row in cells.items() if row["alarms"]}
    total = (sum(row[part] for row in rows) for part in ("alarms", "draws"))
    table = Table(title="Initializations that raise an alarm: {} of {}".format(*total))
    for head in ("network", *(f"{size} px, {mode}" for size, mode in columns), "blamed first"):
        table.add_column(head)
    for name in dict.fromkeys(name for name, *_ in cells if name not in quiet):
        found = [cells.get((name, *place)) for place in columns]
        shown = ["" if row is None else f"{row['alarms']} of {row['draws']}" for row in found]
        blamed = collections.Counter()
        for row in found:
            blamed.update({} if row is None else row["blamed"])
        table.add_row(name, *shown, max(blamed, key=lambda first: blamed[first]))
    table.caption = f"in none: {', '.join(sorted(quiet))}"
    return table


def _gain(side: dict[str, float], draws: int) -> str:
    error = side["measured_scatter"] / draws**0.5
    return (
        f"{side['measured']:+.3f} ± {error:.3f} (theory {side['expected']:+.3f}), "
        f"scatter {side['measured_scatter']:.3f} ({side['scatter']:.3f})"
    )
