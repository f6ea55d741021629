import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax import lab
from experiments import __main__ as entry
from experiments.benchmarks import _peer, _report, _results, _rows, computations, ops, timing
from experiments.benchmarks._rows import Row, Spec

TINY = ["bench-ops", "--networks", "digits_stack", "--kinds", "dense", "--batch-size", "1"]
ONCE = [*TINY, "--repeats", "1"]

# Answers as torch_peer.py does; what it times is made up, contiguous at half of channels_last.
FAKE = """
import json, os, sys
print("loading", file=sys.stderr)
for line in sys.stdin:
    asked = json.loads(line)
    answer = {"ok": True}
    if asked["do"] == "versions":
        answer = {"torch": "0.0", "threads": 1}
    if asked["do"] == "prepare" and asked["spec"]["what"] == "refused":
        answer = {"error": "no such thing"}
    if asked["do"] == "prepare" and asked["spec"]["what"] == "fatal":
        print("out of memory", file=sys.stderr)
        sys.exit(1)
    if asked["do"] == "time":
        each = 0.02 if asked["layout"] == "channels_last" else 0.01
        answer = {"seconds": each * asked["count"] * (3 if asked["backward"] else 1)}
    print(json.dumps(answer), flush=True)
"""
WHATS = {
    "conv": {"kernel_size": (3, 2), "strides": (2, 1), "padding": (1, 0), "out_features": 6},
    "depthwise": {"what": "conv", "kernel_size": (3, 3), "feature_group_count": 4},
    "dilated": {"what": "conv", "kernel_size": (3, 3), "kernel_dilation": (2, 1)},
    "batch_norm": {},
    "max_pool": {"kernel_size": (3, 3), "strides": (2, 2), "padding": (1, 1)},
    "avg_pool": {"kernel_size": (3, 3), "strides": (1, 1), "padding": (1, 1)},
    "global_avg_pool": {},
    **{name: {"what": "activation", "name": name} for name in _rows.ACTIVATIONS},
}
every_what = pytest.mark.parametrize("name", WHATS)


def small(name):
    size = {"batch": 2, "height": 9, "width": 7, "in_features": 4, "out_features": 4}
    return Spec(**{"what": name, **size, **WHATS[name]})


@pytest.fixture
def interpreter(tmp_path):
    """Return what makes an interpreter that runs a script of the test's, whatever it is told to."""

    def make(script):
        path = tmp_path / "python"
        path.write_text(f"#!{sys.executable}\n{script}")
        path.chmod(0o755)
        return str(path)

    return make


class FakeTimer:
    """Takes as long as it is told, and keeps a record."""

    def __init__(self, seconds, name="", log=None):
        self.seconds, self.name, self.log = seconds, name, [] if log is None else log

    def time(self, count):
        self.log.append((self.name, count))
        return self.seconds * count


def refused(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        entry.main(argv)
    assert stop.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_functions_take_turns_in_a_rotating_order_after_one_run_unmeasured():
    log = []
    timers = {name: FakeTimer(1, name, log) for name in "abc"}
    samples = timing.alternate(timers, repeats=4)
    assert "".join(name for name, _ in log) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert samples == {name: [1.0] * 4 for name in "abc"}


def test_short_functions_run_until_a_sample_is_long_enough():
    timer = FakeTimer(1e-4)
    samples = timing.alternate({"short": timer}, repeats=3, min_seconds=0.005)
    assert samples["short"] == pytest.approx([1e-4] * 3)
    counts = [count for _, count in timer.log]
    assert counts[:2] == [1, 1] and len(set(counts[-3:])) == 1
    assert 50 <= counts[-1] <= 100


@pytest.mark.parametrize(("seconds", "rounds"), [(0.9, 7), (1.5, 4), (20.0, 3)])
def test_slow_functions_leave_early_but_not_before_the_third_round(seconds, rounds):
    timers = {"slow": FakeTimer(seconds), "fast": FakeTimer(0.1)}
    samples = timing.alternate(timers, repeats=7, slow_seconds=1.0)
    assert (len(samples["slow"]), len(samples["fast"])) == (rounds, 7)
    assert len(timing.alternate({"slow": FakeTimer(20)}, repeats=1)["slow"]) == 1


def test_functions_of_this_process_are_timed_to_their_end():
    calls = []

    def function():
        calls.append(1)
        return jnp.ones(3) * 2

    (seconds,) = timing.alternate({"f": function}, repeats=1, min_seconds=1e-3)["f"]
    assert 0 < seconds < 1
    assert len(calls) >= 2


def test_means():
    assert timing.geometric_mean([0.5, None, 8.0]) == pytest.approx(2)
    assert timing.geometric_mean([None]) is None
    assert timing.median([5.0, 1.0, 2.0]) == 2


def test_every_layer_is_read_and_small_images_come_in_larger_batches():
    every = _rows.rows(8, "float32")
    convs = [row for row in every if row.spec.what == "conv"]
    assert len(convs) == 156
    assert {row.spec.kind for row in every} == set(_rows.KINDS) - {"grouped"}
    small_images = {row.network for row in every if row.spec.batch == 64}
    assert small_images == {"cifar_resnet", "digits_stack"}
    assert {row.spec.batch for row in every} == {8, 64}
    texts = {row.text for row in every}
    assert "resnet50 8x56x56x64 -> 64, 3x3 /1" in texts
    assert "mobilenetv1_100 8x112x112x64 -> 64, 3x3 /2, 64 groups" in texts
    assert "resnet50 8x112x112x64, max pool 3x3 /2" in texts
    assert "cifar_resnet 64x32x32x16, gelu" in texts


@pytest.mark.parametrize(
    ("kernel", "groups", "kind"),
    [
        ((3, 3), 8, "depthwise"),
        ((1, 1), 1, "pointwise"),
        ((1, 3), 1, "dense"),
        ((3, 3), 2, "grouped"),
    ],
)
def test_kinds_of_convolutions(kernel, groups, kind):
    spec = Spec("conv", 1, 8, 8, 8, 8, kernel_size=kernel, feature_group_count=groups)
    assert spec.kind == kind


@every_what
def test_output_flops_and_bytes_are_those_of_the_arrays(name):
    spec = small(name)
    arguments = computations.inputs(spec)
    y = jax.eval_shape(computations.by_convjax(spec), *arguments)
    assert y.size == 2 * np.prod(spec.output_size) * spec.out_features
    arrays = arguments[:1] if spec.what == "batch_norm" else arguments
    assert spec.bytes(False) == 4 * (y.size + sum(a.size for a in arrays))
    assert spec.bytes(True) == 2 * spec.bytes(False)
    taps = np.prod(arguments[1].shape[:-1]) if spec.what == "conv" else 0
    assert spec.flops(False) == 2 * y.size * taps
    assert spec.flops(True) == 3 * spec.flops(False)


@pytest.mark.parametrize("name", ["conv", "depthwise", "dilated"])
def test_convjax_and_lax_are_given_the_same_to_do(name):
    spec = small(name)
    arguments = computations.inputs(spec)
    for backward in (False, True):
        ours, theirs = (
            jax.tree.leaves(computations.compiled(by(spec), arguments, backward)())
            for by in (computations.by_convjax, computations.by_lax)
        )
        assert len(ours) == (3 if backward else 1)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_bound_is_the_longer_of_memory_and_arithmetic():
    spec = small("conv")
    slow_memory = computations.Machine(bytes_per_s=1.0, flops_per_s=1e12)
    slow_arithmetic = computations.Machine(bytes_per_s=1e12, flops_per_s=1.0)
    assert slow_memory.bound(spec, True) == spec.bytes(True)
    assert slow_arithmetic.bound(spec, False) == spec.flops(False)


def test_the_machine_is_measured():
    measured = computations.machine("float32", repeats=1)
    assert 1e8 < measured.bytes_per_s < 1e13
    assert 1e8 < measured.flops_per_s < 1e15


def test_a_result_takes_medians_and_the_faster_layout():
    samples = {"convjax": [3.0, 1.0, 2.0], "channels_last": [1.0], "contiguous": [0.5, 0.5, 9.0]}
    row = Row("net", 1, small("conv"))
    result = _results.Result(row, {"f": samples, "fb": {"convjax": [6.0]}}, {"f": 1.0, "fb": 3.0})
    assert result.ratio("torch", "f") == 4
    assert result.ratio("torch", "fb") is None and result.ratio("lax", "f") is None
    assert result.worst("torch") == 4 and result.worst("lax") == 0
    assert result.of_bound("f") == 0.5


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.001234, "0.00123"), (1.0, "1.00"), (123.4, "123"), (0, "0")]
)
def test_numbers_have_three_significant_digits(value, text):
    assert _report.number(value) == text


def test_the_figure_has_a_dot_a_ratio_and_a_bar_at_the_mean():
    panels = {
        "forward": {"dense": {"lax": [0.5, 2.0], "PyTorch": [1.0, 4.0]}},
        "both": {"dense": {"PyTorch": [3.0]}, "norm": {"PyTorch": [0.1]}},
    }
    figure = _report.ratios("title", panels)
    assert [axes.get_title() for axes in figure.axes] == ["forward", "both"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["dense", "norm"]
    drawn = {
        (line.get_marker(), *np.round(np.asarray(line.get_xdata(), float), 6))
        for line in figure.axes[0].lines
        if line.get_marker() in ("o", "|")
    }
    assert drawn == {("o", 0.5, 2.0), ("|", 1.0), ("o", 1.0, 4.0), ("|", 2.0)}
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == ["PyTorch", "lax", "geometric mean"]


def test_convjax_alone(tmp_path, capsys):
    assert entry.main([*ONCE, "--versus", "--all", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "digits_stack 8x8x8x16 -> 16, 3x3 /1" in printed.out
    assert "[2/2]" in printed.err
    written = json.loads((tmp_path / "bench_ops.json").read_text())
    assert [row["spec"]["in_features"] for row in written["rows"]] == [16, 32]
    for row in written["rows"]:
        assert row["seconds"]["fb"]["convjax"] > 0 and row["seconds"]["f"]["torch"] is None
        assert row["bound_seconds"]["fb"] > 0
    assert {"jax", "device_kind"} <= set(written["environment"])
    assert written["environment"]["torch"] is None
    assert written["config"]["batch_size"] == 1
    assert not (tmp_path / "bench_ops.png").exists()


def test_against_lax_and_a_peer(tmp_path, capsys, interpreter):
    out = tmp_path / "out"
    python = interpreter(FAKE)
    assert entry.main([*ONCE, "--torch-python", python, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Geometric means" in printed and "Worst against PyTorch" in printed
    assert max(map(len, printed.splitlines())) <= 130
    written = json.loads((out / "bench_ops.json").read_text())
    for row in written["rows"]:
        assert row["seconds"]["f"]["torch"] == pytest.approx(0.01)
        assert row["seconds"]["fb"]["torch"] == pytest.approx(0.03)
        assert row["seconds"]["fb"]["lax"] > 0
        assert set(row["samples"]["f"]) == {"convjax", "lax", "channels_last", "contiguous"}
    assert written["environment"]["torch"] == {"torch": "0.0", "threads": 1}
    assert (out / "bench_ops.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "No such file"),
        ("import sys; sys.exit('ModuleNotFoundError: no torch')", "no torch"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("print('hello')", "hello"),
        ("print([1])", "[1]"),
    ],
)
def test_an_interpreter_that_will_not_do_is_refused_before_anything_is_measured(
    script, why, interpreter, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(ops, "machine", lambda *_: pytest.fail("measured"))
    python = str(tmp_path / "missing") if script is None else interpreter(script)
    text = refused([*ONCE, "--torch-python", python, "--out", str(tmp_path)], capsys)
    assert "give --torch-python the path" in text and python in text
    assert why in text


def test_without_pytorch_there_is_one_line_and_no_peer(monkeypatch, capsys):
    monkeypatch.setattr(_peer.importlib.util, "find_spec", lambda name: None)
    with _peer.torch_peer(None) as peer:
        assert peer is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "--torch-python" in line
    with _peer.torch_peer(None, wanted=False) as peer:
        assert peer is None
    assert not capsys.readouterr().err


def test_a_peer_hands_on_refusals_and_its_last_words(interpreter):
    with _peer.TorchPeer(interpreter(FAKE)) as peer:
        with pytest.raises(RuntimeError, match="no such thing"):
            peer.prepare({"what": "refused"})
        peer.prepare({"what": "conv"})
        assert peer.timer("contiguous", backward=True).time(2) == pytest.approx(0.06)
        with pytest.raises(RuntimeError, match="out of memory"):
            peer.prepare({"what": "fatal"})
        with pytest.raises(RuntimeError, match="out of memory"):
            peer.release()


def test_a_peer_that_stays_is_ended(interpreter, monkeypatch):
    monkeypatch.setattr(_peer, "GRACE_S", 0.2)
    with _peer.TorchPeer(interpreter(FAKE + "import time; time.sleep(60)")) as peer:
        process = peer._process
    assert process.returncode is not None and process.returncode < 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--networks", "resnet5"], "did you mean"),
        (["--networks", "digits_stack", "--kinds", "pointwise"], "none of these networks"),
        (["--repeats", "0"], "1 or more"),
        (["--lowering", "nonsense"], "lowering"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, told, tmp_path, capsys):
    argv = ["bench-ops", *options, "--versus", "--out", str(tmp_path)]
    assert told in refused(argv, capsys)


def test_auto_needs_no_context():
    with ops.lowering("auto"):
        pass
    with pytest.raises((lab.UsageError, ValueError)), ops.lowering("nonsense"):
        pytest.fail("accepted")


@every_what
@pytest.mark.parametrize("layout", _peer.LAYOUTS)
def test_pytorch_is_given_the_same_to_do(name, layout):
    pytest.importorskip("torch")
    from experiments.benchmarks import torch_peer

    spec = small(name)
    as_told = json.loads(json.dumps(vars(spec)))
    function, tensors = torch_peer.PREPARE[spec.what](
        as_told, torch_peer.Draw(layout, spec.dtype, spec.seed)
    )
    y = function(*tensors)
    cotangent = torch_peer.torch.randn_like(y)
    gradients = torch_peer.torch.autograd.grad(y, tensors, cotangent)
    arrays = [to_jax(t, kernel=i == 1) for i, t in enumerate(tensors)]
    ours, pull = jax.vjp(computations.by_convjax(spec), *arrays)
    np.testing.assert_allclose(ours, to_jax(y), atol=1e-5)
    pulled = pull(to_jax(cotangent))
    for i, (mine, theirs) in enumerate(zip(pulled, gradients, strict=True)):
        np.testing.assert_allclose(mine, to_jax(theirs, kernel=i == 1), atol=1e-4)


def to_jax(tensor, *, kernel=False):
    """Channels last, as convjax has images and kernels."""
    array = tensor.detach().numpy()
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0) if kernel else array.transpose(0, 2, 3, 1)
    return jnp.asarray(array)


def test_pytorch_times_itself_in_a_process_of_its_own():
    pytest.importorskip("torch")
    with _peer.TorchPeer(sys.executable) as peer:
        assert peer.versions["threads"] >= 1
        for name in ("conv", "batch_norm", "gelu"):
            peer.prepare(vars(small(name)))
            timers = {
                f"{layout} {backward}": peer.timer(layout, backward=backward)
                for layout in _peer.LAYOUTS
                for backward in (False, True)
            }
            samples = timing.alternate(timers, repeats=1, min_seconds=1e-4)
            assert all(0 < s < 10 for of_one in samples.values() for s in of_one)
        with pytest.raises(RuntimeError, match="nonsense"):
            peer.prepare({"what": "nonsense"})
        peer.release()
        with pytest.raises(RuntimeError, match="nothing is prepared"):
            peer.timer("contiguous").time(1)
