"""Which form of a convolution is fastest where, and what the rule behind "auto" loses.

    python -m experiments bench-forms

Times every form of convjax's convolutions that serves a layer, for every layer of bench-ops: the
forward pass, the input gradient and the kernel gradient apart, all forms alternating. Tells, for
each kind of layer, how many times the fastest form's time "auto" takes (geometric mean), the layers
where that is most, and how often each form was fastest. The rule in
``convjax/ops/_forms/_choose.py`` is held against this.

Takes some fifteen minutes on two cores; ``--networks`` and ``--kinds`` take less.
"""

import collections
import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import jax
from rich.table import Table

from convjax import ops
from experiments.benchmarks import _report, benchmark
from experiments.benchmarks._rows import Options, Spec, choose
from experiments.benchmarks.computations import by_convjax, cotangent_of, inputs
from experiments.benchmarks.timing import alternate, geometric_mean, median

KINDS = ("depthwise", "pointwise", "dense")
DIRECTIONS = {
    "forward": lambda f, x, kernel, g: f(x, kernel),
    "input gradient": lambda f, x, kernel, g: jax.vjp(lambda x: f(x, kernel), x)[1](g),
    "kernel gradient": lambda f, x, kernel, g: jax.vjp(lambda k: f(x, k), kernel)[1](g),
}
"""What is timed of a convolution, on the image, the kernel and the output's cotangent."""
WORST = 10
main = partial(benchmark.run, __name__)


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Options."""

    kinds: tuple[Literal["depthwise", "pointwise", "dense"], ...] = KINDS
    repeats: int = 5
    slow_seconds: float = 0.2


def measure(config: Config) -> dict[str, Any]:
    """Return the median of every form, one row for each layer and direction."""
    every = list(dict.fromkeys(row.spec for row in choose(config)))
    specs = benchmark.one_by_one(every, lambda spec: spec.text)
    return {"rows": [row for spec in specs for row in measured(spec, config)]}


def measured(spec: Spec, config: Config) -> Iterator[dict[str, Any]]:
    """Yield the rows of a layer."""
    arrays = inputs(spec)
    arrays = *arrays, cotangent_of(by_convjax(spec), arrays)
    able = [name for name in ops.LOWERINGS if serves(spec, name)]
    for direction, way in DIRECTIONS.items():
        functions = {
            name: partial(jax.jit(partial(way, by_convjax(spec, name))), *arrays) for name in able
        }
        samples = alternate(functions, repeats=config.repeats, slow_seconds=config.slow_seconds)
        seconds = {name: median(times) for name, times in samples.items()}
        best = min(seconds, key=lambda name: (seconds[name], name))
        layer = {"layer": spec.text, "kind": spec.kind, "direction": direction}
        loss = seconds["auto"] / seconds[best]
        yield layer | {"seconds": seconds, "fastest": best, "loss": loss}


def serves(spec: Spec, lowering: str) -> bool:
    """Whether the form can compute the layer: convjax refuses it otherwise."""
    try:
        jax.eval_shape(by_convjax(spec, lowering), *jax.eval_shape(lambda: inputs(spec)))
    except ValueError:
        return False
    return True


def tables(found: dict[str, Any], config: Config) -> Iterator[Table]:
    """Yield what "auto" loses, where it loses most, and who was fastest how often."""
    groups = collections.defaultdict(list)
    for row in found["rows"]:
        groups[f"{row['kind']}, {row['direction']}"].append(row)

    def faster(group: str) -> str:
        counts = collections.Counter(r["fastest"] for r in groups[group] if r["loss"] > 1)
        return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "none"

    yield _report.table(
        "What auto loses against the fastest form",
        groups,
        ("", lambda group: group),
        ("layers", lambda group: str(len(groups[group]))),
        ("auto / fastest", lambda group: geometric_mean(r["loss"] for r in groups[group])),
        ("most", lambda group: max(r["loss"] for r in groups[group])),
        ("faster than auto", faster),
    )

    def times(row: dict[str, Any]) -> str:
        return ", ".join(f"{n} {_report.number(1e3 * s)}" for n, s in row["seconds"].items())

    yield _report.table(
        "Where it loses most",
        sorted(found["rows"], key=lambda row: -row["loss"])[:WORST],
        ("", lambda row: f"{row['layer']}, {row['direction']}"),
        ("loss", lambda row: row["loss"]),
        ("ms", times),
    )
