"""How often does theory call a sound network departed? Nothing is timed here.

    python -m experiments bench-theory

Every network of a list is initialised anew many times, as it should be, and each time its profile
is held against what ``gradflow.predict`` expects: an alarm is a false one. Of all initializations
at most 2 % should raise one. Beside the alarms stand the whole network's gains, predicted and
measured, and their scatter.

Theory may be tuned on half of the list, told by a checksum of the name; the others decide.

Takes some eight minutes on two cores. With ``--zoo --draws 3`` a network of every family of
``convjax.models`` is held, at two sizes and in both modes, in their place: some fifty minutes.
"""

import collections
import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.table import Table

from convjax import gradflow, lab
from experiments.benchmarks import benchmark
from experiments.benchmarks.sound import SOUND, ZOO, Sound, batch, is_held_out

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
    rows = []
    before = jax.config.read("jax_disable_most_optimizations")
    # A program runs a few times only: what counts is how fast it is compiled.
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        for name in benchmark.one_by_one(names, str):
            found = held(sound[name], config.draws)
            rows.append({"name": name, "held_out": is_held_out(name)} | found)
            jax.clear_caches()
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
    return {"rows": rows}


def held(sound: Sound, draws: int) -> dict[str, Any]:
    """Return how many initializations of a network raise an alarm, where, and its gains."""
    x = batch(sound)

    @jax.jit
    @jax.vmap
    def profiles(key: jax.Array) -> gradflow.Profile:
        weights, cotangent, dropped = jax.random.split(key, 3)
        net, rngs = sound.make(nnx.Rngs(weights)), nnx.Rngs(dropped)
        return gradflow.profile(net, x, cotangent=cotangent, train=sound.train, rngs=rngs)

    measured = jax.tree.map(np.asarray, profiles(jax.random.split(jax.random.key(1), draws)))
    # Scales are not random, and theory reads them.
    prediction = gradflow.predict(sound.make(nnx.Rngs(0)), np.asarray(x), train=sound.train)
    each = [
        gradflow.compare(jax.tree.map(lambda a, i=i: a[i], measured), prediction)
        for i in range(draws)
    ]
    blamed = collections.Counter(f"{c.first} ({c.side})" for c in each if not c.agrees)
    found: dict[str, Any] = {"alarms": blamed.total(), "draws": draws, "blamed": dict(blamed)}
    for side in ("activation", "gradient"):
        gains = np.array([getattr(c[""], f"{side}_gain") for c in each])
        found[side] = {
            "expected": getattr(prediction[""], f"{side}_gain"),
            "scatter": getattr(prediction[""], f"{side}_gain_scatter"),
            "measured": float(gains.mean()),
            "measured_scatter": float(gains.std(ddof=1)),
        }
    return found


def tables(found: dict[str, Any], config: Config) -> Iterator[Table]:
    """Yield a row for each network, and the rates."""
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


def _gain(side: dict[str, float], draws: int) -> str:
    error = side["measured_scatter"] / draws**0.5
    return (
        f"{side['measured']:+.3f} ± {error:.3f} (theory {side['expected']:+.3f}), "
        f"scatter {side['measured_scatter']:.3f} ({side['scatter']:.3f})"
    )
