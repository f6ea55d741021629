"""Which form of a convolution is fastest where, and what the rule behind "auto" loses.

    python -m experiments bench-forms

Times every form of convjax's convolutions that serves a layer, for every layer of bench-ops: the
forward pass, the input gradient and the kernel gradient apart, all forms alternating. Prints, for
each kind of layer, how many times the fastest form's time "auto" takes (geometric mean), the layers
where that is most, and how often each form was fastest; saves every number as JSON. The rule in
``convjax/ops/_forms/_choose.py`` is held against this.

Takes some fifteen minutes on two cores; ``--networks`` and ``--kinds`` take less.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from convjax import lab, ops, study
from convjax.lab import Ticker
from experiments.benchmarks import _report
from experiments.benchmarks._rows import Spec, choose
from experiments.benchmarks.computations import inputs
from experiments.benchmarks.timing import alternate, geometric_mean, median

DIRECTIONS = ("forward", "input gradient", "kernel gradient")
STEM = "bench_forms"
WORST = 10


@dataclasses.dataclass(frozen=True)
class Config(lab.CommandOptions):
    """Options."""

    networks: tuple[str, ...] = ()
    """Whose layers; without it, all of them."""
    kinds: tuple[Literal["depthwise", "pointwise", "dense"], ...] = (
        "depthwise",
        "pointwise",
        "dense",
    )
    """Which kinds of layers."""
    batch_size: int = 8
    """Images in a batch; eight times as many for the networks of small images."""
    repeats: int = 5
    """Runs of each; the median counts."""
    slow_seconds: float = 0.2
    """What takes longer than this is run less often, but three times at least."""
    keep_memory: bool = True
    """Whether the process keeps the memory that it frees (convjax.study.keep_memory)."""
    out: Path = Path("results/bench-forms")
    """Folder for the numbers; it is made if it is not there."""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark from the command line and return the exit code."""
    about, _, _ = (__doc__ or "").partition("\n")
    config = lab.parse(Config, argv, command="python -m experiments bench-forms", about=about)
    if config.keep_memory:
        study.keep_memory()
    lab.use_platform(config.platform)
    chosen = choose(config.networks, config.kinds, config.batch_size)
    specs = list(dict.fromkeys(row.spec for row in chosen))
    with lab.refusing():
        study.check_writable(config.out)
    entries = []
    with Ticker(len(specs)) as ticker:
        for spec in specs:
            ticker.begin(spec.text)
            entries += measure(spec, config)
            ticker.finish(spec.text)
    report(entries)
    path = config.out / f"{STEM}.json"
    _report.save_json(path, rows=entries, config=config)
    print(path)
    return 0


def measure(spec: Spec, config: Config) -> list[dict[str, Any]]:
    """Return the median of every form, one entry for each direction."""
    x, kernel = inputs(spec)
    like = jax.eval_shape(convolution(spec, "auto"), x, kernel)
    cotangent = jax.random.normal(jax.random.key(1), like.shape, like.dtype)
    able = [name for name in ops.LOWERINGS if serves(spec, name)]
    entries = []
    for direction in DIRECTIONS:
        functions = {}
        for name in able:
            compute = jax.jit(one_way(convolution(spec, name), direction))
            functions[name] = lambda compute=compute: compute(x, kernel, cotangent)
        samples = alternate(functions, repeats=config.repeats, slow_seconds=config.slow_seconds)
        seconds = {name: median(times) for name, times in samples.items()}
        best = min(seconds, key=lambda name: (seconds[name], name))
        entries.append(
            {
                "layer": spec.text,
                "kind": spec.kind,
                "direction": direction,
                "seconds": seconds,
                "fastest": best,
                "loss": seconds["auto"] / seconds[best],
            }
        )
    return entries


def convolution(spec: Spec, lowering: str) -> Callable[..., jax.Array]:
    """Return the layer, computed by a form."""
    return lambda x, kernel: ops.conv(
        x,
        kernel,
        strides=spec.strides,
        padding=[(p, p) for p in spec.padding],
        kernel_dilation=spec.kernel_dilation,
        feature_group_count=spec.feature_group_count,
        lowering=lowering,
    )


def serves(spec: Spec, lowering: str) -> bool:
    """Whether the form can compute the layer: convjax refuses it otherwise."""
    try:
        jax.eval_shape(convolution(spec, lowering), *jax.eval_shape(lambda: inputs(spec)))
    except ValueError:
        return False
    return True


def one_way(convolve: Callable[..., jax.Array], direction: str) -> Callable[..., Any]:
    """Return the forward pass or one of the gradients, as a function of (x, kernel, cotangent)."""
    if direction == "forward":
        return lambda x, kernel, g: convolve(x, kernel)
    if direction == "input gradient":
        return lambda x, kernel, g: jax.vjp(lambda x: convolve(x, kernel), x)[1](g)
    return lambda x, kernel, g: jax.vjp(lambda kernel: convolve(x, kernel), kernel)[1](g)


def report(entries: Sequence[dict[str, Any]]) -> None:
    """Print what "auto" loses, where it loses most, and who was fastest how often."""
    console = _report.console()
    groups = collections.defaultdict(list)
    for entry in entries:
        groups[entry["kind"], entry["direction"]].append(entry)
    lines = []
    for (kind, direction), here in groups.items():
        fastest = collections.Counter(entry["fastest"] for entry in here if entry["loss"] > 1)
        others = ", ".join(f"{name} {count}" for name, count in fastest.most_common())
        mean = geometric_mean(entry["loss"] for entry in here)
        most = max(entry["loss"] for entry in here)
        numbers = (_report.number(value) for value in (mean, most))
        lines.append([f"{kind}, {direction}", str(len(here)), *numbers, others or "none"])
    columns = ["", "layers", "auto / fastest", "most", "faster than auto"]
    console.print(_report.table("What auto loses against the fastest form", columns, lines))
    worst = sorted(entries, key=lambda entry: -entry["loss"])[:WORST]
    lines = [
        [
            f"{entry['layer']}, {entry['direction']}",
            _report.number(entry["loss"]),
            ", ".join(f"{n} {_report.milliseconds(s)}" for n, s in entry["seconds"].items()),
        ]
        for entry in worst
    ]
    console.print()
    console.print(_report.table("Where it loses most", ["", "loss", "ms"], lines))
