"""bench-gpu: rehearsed in small sizes, and what it keeps when parts fail or time is over."""

import contextlib
import dataclasses
import functools
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from experiments import __main__ as entry
from experiments.benchmarks import _gpu_parts, _peer, _report, _right, gpu, profile
from tests.experiments.test_bench_models import TINY
from tests.experiments.test_bench_ops import FAKE

SMALLER = dataclasses.replace(
    _gpu_parts.SMALL,
    every=25,
    layers=_gpu_parts.SMALL.layers[::4],
    cases=(dataclasses.replace(TINY, batch=3),),
)


@pytest.mark.parametrize(
    "sizes", [SMALLER, pytest.param(_gpu_parts.SMALL, marks=pytest.mark.later)]
)
def test_a_rehearsal_gives_numbers_in_every_part_without_tyro(sizes, tmp_path, monkeypatch, capsys):
    if sizes is SMALLER:
        net = TINY.build(rngs=nnx.Rngs(0))
        both = functools.partial(profile._both, net, TINY.size, 2, 10)
        monkeypatch.setattr(_gpu_parts, "profile_and_gradient", lambda *_: both())
    monkeypatch.setattr(_gpu_parts, "SMALL", sizes)
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.setattr(_peer.importlib.util, "find_spec", lambda name: None)  # no PyTorch
    monkeypatch.chdir(tmp_path)
    assert entry.main(["bench-gpu"]) == 0
    folder = tmp_path / "results/bench-gpu"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".md", ".png", ".svg"}
    kept = json.loads((folder / "bench_gpu.json").read_text())
    assert kept["rehearsal"] and len(kept["loads"]) == 2 and set(kept["machine"]) == {*DTYPES}
    assert {part["ended"] for part in kept["parts"].values()} == {"complete"}
    rows = {name: [r for r in kept["rows"] if r["part"] == name] for name in kept["parts"]}
    assert not any("error" in row for row in kept["rows"])
    assert all(row["holds"] for row in rows["right"]) and rows["right"]
    assert {row["kind"] for row in rows["layers"]} == {spec.kind for spec in sizes.layers}
    for row in rows["layers"] + rows["steps"]:
        assert set(row["seconds"]) == {"auto", *(["lax"] if row.get("kind") != "norm" else [])}
        assert min(row["seconds"].values()) > 0 and row["bound_seconds"] > 0
    assert [row["dtype"] for row in rows["steps"]] == list(DTYPES)
    assert len(rows["profile"]) == 2 and all(row["ratio"] > 0 for row in rows["profile"])
    assert len(rows["deep"]) == 2 and all(np.isfinite(row["growth"]) for row in rows["deep"])
    assert rows["gradient-norms"][-1]["criteria"] == []  # six layers cannot be judged
    told = (folder / "bench_gpu.md").read_text()
    assert (
        f"| layers | {4 * len(sizes.layers)} |" in told
        and "No tables" not in told
        and "Errors" not in told
    )
    assert "Training steps" in capsys.readouterr().out


DTYPES = _gpu_parts.DTYPES
LAYERS = {"depthwise", "pointwise", "dense", "grouped", "norm"}


def test_every_kind_network_and_dtype_comes_early():
    for layers in (_gpu_parts.FULL.layers[:5], _gpu_parts.FULL.layers[5:], _gpu_parts.SMALL.layers):
        assert {spec.kind for spec in layers} == LAYERS
    bench = _gpu_parts.Bench(_gpu_parts.FULL, 1, None, lambda dtype: {})
    assert [what for what, _ in _gpu_parts.steps(bench)] == [
        "ResNet-50, float32",
        "MobileNetV2, bfloat16",
        "ResNet-50, bfloat16",
        "MobileNetV2, float32",
    ]
    assert not list(_gpu_parts.compiled_steps(bench))  # there is no PyTorch
    shares = [share for share, _ in _gpu_parts.PARTS.values()]
    assert shares == sorted(shares) and shares[-1] == 1


@pytest.fixture
def results(tmp_path):
    return gpu.Results(gpu.Config(out=tmp_path), rehearsal=True)


def read(results):
    return json.loads((results.config.out / "bench_gpu.json").read_text())


def test_a_row_that_fails_is_told_and_the_next_is_measured(results):
    seen = []

    def ok():
        return {"criteria": [], "seen": seen.append(read(results)["rows"])} if seen else {"x": 1}

    def broken():
        seen.append(None)
        raise RuntimeError("out of\nmemory")

    results.add("any", iter([("first", ok), ("second", broken), ("third", ok)]), np.inf)
    rows = read(results)["rows"]
    assert [row.get("error") for row in rows] == [None, "RuntimeError: out of memory", None]
    assert [row["what"] for row in seen[1]] == ["first", "second"]  # on the disk before the third
    assert read(results)["parts"]["any"]["rows"] == 3
    assert "| any: second | RuntimeError: out of memory |" in markdown(results)


def markdown(results):
    return (results.config.out / "bench_gpu.md").read_text()


def test_a_part_has_one_row_at_least_and_makes_room(results):
    task = functools.partial(dict, x=1)
    results.add("late", ((name, task) for name in "abc"), time.monotonic() - 1)
    assert results.found["parts"]["late"]["rows"] == 1
    assert results.found["parts"]["late"]["ended"] == "out of time before: b"

    def broken():
        yield "a", task
        raise ValueError("no more")

    results.add("broken", broken(), np.inf)
    assert results.found["parts"]["broken"]["ended"] == "ValueError: no more"
    results.write()
    assert "| broken | 1 |" in markdown(results)


def test_when_time_is_over_the_process_ends_with_all_that_it_has(results, monkeypatch):
    ended = []
    monkeypatch.setattr(gpu.os, "_exit", ended.append)
    row = {"kind": "dense", "layer": "x", "dtype": "float32", "direction": "fb"}
    row |= {"seconds": {"auto": 1.0, "lax": 2.0}, "bound_seconds": 0.5}

    def slow():
        yield "one", lambda: row
        yield "two", lambda: time.sleep(0.6) or row

    with results.ending(0.3):
        results.add("layers", slow(), np.inf)
    assert ended == [0]
    assert (results.config.out / "bench_gpu.png").exists()
    assert "| x | dense | float32 | fb | 1000 | 2000 | - | 0.500 | - | 0.500 |" in markdown(results)


def test_tables_that_fail_lose_no_row(results):
    results.add("layers", iter([("strange", lambda: {"layer": 1})]), np.inf)
    assert markdown(results).startswith("No tables: KeyError")
    assert read(results)["rows"][0]["layer"] == 1


def test_pytorch_that_fails_loses_no_number_of_ours(interpreter):
    with _peer.torch_peer(interpreter(FAKE)) as peer:
        bench = _gpu_parts.Bench(_gpu_parts.SMALL, 1, peer, lambda dtype: {})
        timers = bench.torch({"what": "conv"}, True)
        found = bench.timed({"auto": lambda: jnp.ones(1)}, timers)
        assert found["seconds"]["torch"] == pytest.approx(0.06)
        broken = bench.timed({"auto": lambda: jnp.ones(1)}, bench.torch({"what": "refused"}, True))
    assert set(broken["seconds"]) == {"auto"} and "no such thing" in broken["torch_error"]


def test_pytorch_that_does_not_start_is_left_out(results, interpreter, capsys):
    broken = dataclasses.replace(
        results.config, torch_python=interpreter("raise OSError('libcuda')")
    )
    results.config = broken
    with contextlib.ExitStack() as stack:
        assert results.start_torch(stack) is None
    assert "OSError: libcuda" in " ".join(capsys.readouterr().err.split())
    assert results.found["torch"] is None


def test_pytorch_runs_on_the_gpu_where_jax_does(interpreter, monkeypatch):
    with _peer.torch_peer(interpreter(FAKE)) as peer:
        (here,) = peer.timers({}, True, ["channels_last"]).values()
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        (there,) = peer.timers({}, True, ["channels_last"], compiled=True).values()
    assert here.args[0] == {"spec": {}, "backward": True, "layout": "channels_last"}
    assert there.args[0] == {**here.args[0], "device": "cuda", "compiled": True}


def test_pytorch_is_left_out_where_it_does_not_run(monkeypatch, capsys):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with _peer.torch_peer(sys.executable) as peer:
        assert peer is None
    assert "on CPU and GPU only" in capsys.readouterr().err


@pytest.mark.every(8)
@pytest.mark.parametrize("name", _right.cases(8))
def test_every_operation_is_right_here(name):
    errors = _right.errors(_right.cases(8)[name])
    assert all(errors[precision] <= allowed for precision, allowed in _right.ALLOWED.items())


def test_what_is_wrong_in_one_precision_is_found():
    def wrong(x, factor):
        return x * factor + (0.002 if x.dtype == jnp.float32 else 0.0)

    errors = _right.errors((wrong, [(3, 4), (3, 4)]))
    over = {name for name, allowed in _right.ALLOWED.items() if errors[name] > allowed}
    assert over == {"float32, highest"} and errors["float32"] > 1e-4
    nothing = _right.errors((lambda x: lax.mul(x, x) / jnp.zeros_like(x), [(3,)]))
    assert set(nothing.values()) == {np.inf}


def test_a_table_in_markdown():
    made = _report.table(
        "Title", [(1.5, "a|b")], ("one\nhead", lambda r: r[0]), ("", lambda r: r[1])
    )
    assert _report.markdown(made).splitlines() == [
        "## Title",
        "",
        "| one head |  |",
        "| --- | ---: |",
        "| 1.50 | a/b |",
    ]


def test_time_is_positive(refused):
    assert "seconds=0.0 must be" in refused("gpu", "--seconds", "0")
