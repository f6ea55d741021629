"""Convolutions, norms, pools and activations of convjax, timed against lax and PyTorch.

    python -m experiments bench-ops --torch-python /path/to/a/python/with/torch

Every layer of eight networks, forward (f), and forward with the gradients with respect to input and
kernel (fb). Everything alternates within one run; PyTorch runs in a process of its own,
channels_last and contiguous, and the faster of the two counts. Convolutions by lax are
``jax.lax.conv_general_dilated``, differentiated by JAX. "Of bound" is the share of what the device
could do: the time of moving every array once, or of the arithmetic, whichever is longer, at the
rates of a large sum and a large product of matrices. A small row that stays in the cache can exceed
it, and one that lasts microseconds is all dispatch: on a GPU, give a large ``--batch-size``.

Takes ten to fifteen minutes on two cores, about half of it for lax, which ``--versus torch`` leaves
out; for a look at it in half a minute: ``--networks digits_stack --repeats 3``.
"""

import dataclasses
from functools import partial
from typing import Any, Literal

from convjax import ops
from experiments.benchmarks import _results, benchmark
from experiments.benchmarks._peer import LAYOUTS, Peer, torch_peer
from experiments.benchmarks._results import DIRECTIONS
from experiments.benchmarks._rows import KINDS, Kind, Options, Row, Spec, choose
from experiments.benchmarks.computations import bound, by_convjax, by_lax, compiled, inputs, machine
from experiments.benchmarks.timing import alternate, median

main = partial(benchmark.run, __name__)
tables, figure = _results.tables, _results.figure


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Options."""

    kinds: tuple[Kind, ...] = KINDS
    versus: tuple[Literal["lax", "torch"], ...] = ("lax", "torch")
    """Whom to compare with; nothing after it is nobody. lax takes about half of the time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of all arrays."""
    lowering: str = "auto"
    """How convjax lowers its convolutions."""
    torch_python: str | None = None
    """Python that has torch and numpy; without it, this one, if it has them."""
    all: bool = False
    """Print every row (always done on a GPU or TPU)."""


def check(config: Config) -> None:
    """Refuse a lowering that is not there."""
    with ops.default_lowering(config.lowering):
        pass


def measure(config: Config) -> dict[str, Any]:
    """Measure every distinct computation once, and return a result for every row."""
    rows = choose(config, config.dtype)
    names = {row.spec: f"{row.network} {row.spec.text}" for row in rows}
    wanted, kept = "torch" in config.versus, config.keep_memory
    with torch_peer(config.torch_python, wanted=wanted, keep_memory=kept) as peer:
        rates = machine(config.dtype)
        with ops.default_lowering(config.lowering):
            specs = benchmark.one_by_one(list(names), names.__getitem__)
            samples = {spec: timed(spec, config, peer) for spec in specs}
    results = []
    for row in rows:
        bounds = {d: bound(row.spec, backward, rates) for d, backward in DIRECTIONS.items()}
        results.append(result(row, samples[row.spec], bounds))
    return {"torch": peer and peer.versions, "machine": rates, "rows": results}


Samples = dict[str, dict[str, list[float]]]
"""By direction, and by whose they are."""


def timed(spec: Spec, config: Config, peer: Peer | None) -> Samples:
    """Return the samples of one computation."""
    functions = {"convjax": by_convjax(spec)}
    if "lax" in config.versus and spec.is_convolution:
        functions["lax"] = by_lax(spec)
    arguments = inputs(spec)
    return {
        direction: alternate(
            {name: compiled(f, arguments, backward) for name, f in functions.items()},
            elsewhere=peer and peer.timers(dataclasses.asdict(spec), backward),
            repeats=config.repeats,
            slow_seconds=config.slow_seconds,
        )
        for direction, backward in DIRECTIONS.items()
    }


def result(row: Row, samples: Samples, bounds: dict[str, float]) -> dict[str, Any]:
    """Return all that is kept of a row; PyTorch's time is that of its faster layout."""

    def seconds(direction: str, *names: str) -> float | None:
        here = samples[direction]
        return min((median(here[name]) for name in names if name in here), default=None)

    whose = {"convjax": ("convjax",), "lax": ("lax",), "torch": LAYOUTS}
    return {
        "network": row.network,
        "layer": row.spec.text,
        "kind": row.spec.kind,
        "count": row.count,
        "spec": dataclasses.asdict(row.spec),
        "seconds": {d: {who: seconds(d, *names) for who, names in whose.items()} for d in samples},
        "bound_seconds": bounds,
        "samples": samples,
    }
